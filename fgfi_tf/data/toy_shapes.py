"""The things of a drawn street: flat-shaded solids and figures, in metres.

A shape is a list of primitives in the object's own frame: ``forward`` along its length, ``up`` from
the ground, ``right`` across it, origin on the ground below its middle. ``toy_kitti`` places,
projects and paints them in the order of the list.
"""

from __future__ import annotations

import dataclasses

import numpy as np

Color = tuple[float, float, float]

_SKIN = ((242, 205, 175), (224, 172, 125), (172, 120, 84), (110, 72, 50))
_CLOTH = (
    (190, 40, 45), (35, 60, 130), (235, 235, 230), (35, 35, 40), (60, 130, 80),
    (240, 180, 50), (130, 90, 150), (110, 115, 120), (80, 140, 190), (200, 120, 90),
)  # fmt: skip
_PAINT = (
    (200, 30, 35), (25, 45, 95), (240, 240, 240), (28, 28, 32), (150, 155, 160),
    (95, 100, 108), (70, 105, 150), (120, 25, 40), (45, 85, 60), (205, 190, 150),
)  # fmt: skip
_GLASS: Color = (58, 74, 92)
_RUBBER: Color = (24, 24, 26)
_FACES = ("left", "right", "front", "back", "top")
_OUTWARDS = np.array([[-1.0], [1.0], [-1.0], [1.0], [-1.0]])


@dataclasses.dataclass
class Primitive:
    """A filled polygon, or a stroke of ``width`` metres along its points.

    ``points`` is [n,3] (forward, up, right). A polygon with a ``normal`` (same axes) is lit by it
    and not drawn where it faces away.
    """

    points: np.ndarray
    color: Color
    width: float = 0.0
    normal: np.ndarray | None = None


def pick(rng: np.random.Generator, colors: tuple[Color, ...], spread: float = 14.0) -> Color:
    """One of the colours, a little changed."""
    color = np.asarray(colors[rng.integers(len(colors))]) + rng.normal(0, spread, 3)
    return tuple(np.clip(color, 5, 250))


def frustum(
    bottom: tuple[float, float, float, float],
    top: tuple[float, float, float, float],
    heights: tuple[float, float],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The five visible faces of a box that narrows upwards: name -> (corners [4,3], normal [3]).

    ``bottom`` and ``top`` are (back, front, left, right) in metres, ``heights`` those of the two.
    """
    (b0, b1, bl, br), (t0, t1, tl, tr), (low, high) = bottom, top, heights
    faces = np.array(
        [
            [(b0, low, bl), (b1, low, bl), (t1, high, tl), (t0, high, tl)],
            [(b0, low, br), (b1, low, br), (t1, high, tr), (t0, high, tr)],
            [(b1, low, bl), (b1, low, br), (t1, high, tr), (t1, high, tl)],
            [(b0, low, bl), (b0, low, br), (t0, high, tr), (t0, high, tl)],
            [(t0, high, tl), (t1, high, tl), (t1, high, tr), (t0, high, tr)],
        ]
    )  # 5 faces x 4 corners x 3
    # edge products pointing outwards, given the order of the corners above
    normals = np.cross(faces[:, 1] - faces[:, 0], faces[:, 3] - faces[:, 0]) * _OUTWARDS
    normals /= np.sqrt((normals * normals).sum(1, keepdims=True))
    return {name: (faces[i], normals[i]) for i, name in enumerate(_FACES)}


def insets(corners: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Rectangles [n,4,3] inside a face [4,3].

    ``u`` [n,2] are their sides along its bottom edge, ``v`` [n,2] from bottom to top, in 0..1.
    """
    s, t = u[:, [0, 1, 1, 0]], v[:, [0, 0, 1, 1]]  # n x 4
    weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], -1)  # n x 4 x 4
    return weights @ corners


def inset(corners: np.ndarray, u: tuple[float, float], v: tuple[float, float]) -> np.ndarray:
    """One such rectangle [4,3]."""
    return insets(corners, np.array([u]), np.array([v]))[0]


def circle(
    center: tuple[float, float, float], radius: float, count: int = 14, squeeze: float = 1.0
) -> np.ndarray:
    """Points [count,3] of a circle in the forward-up plane, ``squeeze`` times as long as high."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    forward, up, right = center
    return np.stack(
        [forward + squeeze * radius * np.cos(angle), up + radius * np.sin(angle), np.full(count, right)], 1
    )


def car(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Primitive]:
    """A car of (height, width, length): body, cabin with windows, wheels, lights."""
    height, width, length = size
    half_l, half_w = length / 2, width / 2
    paint = pick(rng, _PAINT)
    waist = rng.uniform(0.54, 0.62) * height
    boxy = rng.uniform(0, 1)  # 0 a notchback, 1 a hatchback or estate
    body = frustum(
        (-half_l, half_l, -half_w, half_w),
        (-half_l * 0.97, half_l * 0.93, -half_w * 0.95, half_w * 0.95),
        (0.17 * height, waist),
    )
    back = -half_l * (0.62 + 0.34 * boxy)
    cabin = frustum(
        (back, half_l * 0.45, -half_w * 0.93, half_w * 0.93),
        (back + 0.10 * length * (1.6 - boxy), half_l * 0.1, -half_w * 0.72, half_w * 0.72),
        (waist, height),
    )
    shapes = [Primitive(c, paint, normal=n) for c, n in body.values()]
    for end, color in (("front", (250, 246, 220)), ("back", (205, 30, 30))):
        corners, normal = body[end]
        for u in ((0.04, 0.24), (0.76, 0.96)):
            shapes.append(Primitive(inset(corners, u, (0.55, 0.82)), color, normal=normal))
        shapes.append(Primitive(inset(corners, (0.36, 0.64), (0.3, 0.48)), (225, 225, 215), normal=normal))
        shapes.append(Primitive(inset(corners, (0.0, 1.0), (0.0, 0.16)), (40, 40, 42), normal=normal))
    shapes += _wheels(length, width, 0.21 * height, (-0.31, 0.31))
    for name, (corners, normal) in cabin.items():
        shapes.append(Primitive(corners, paint, normal=normal))
        if name in ("front", "back"):
            shapes.append(Primitive(inset(corners, (0.08, 0.92), (0.1, 0.9)), _GLASS, normal=normal))
        elif name != "top":
            for u in ((0.1, 0.5), (0.55, 0.92)):
                shapes.append(Primitive(inset(corners, u, (0.12, 0.86)), _GLASS, normal=normal))
    return shapes


def van(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Primitive]:
    """A van: one tall box with a short sloping nose."""
    height, width, length = size
    paint = pick(rng, ((235, 235, 235), (180, 40, 40), (60, 90, 140), (200, 170, 60)))
    shell = frustum(
        (-length / 2, length / 2, -width / 2, width / 2),
        (-length / 2, length * 0.3, -width * 0.45, width * 0.45),
        (0.12 * height, height),
    )
    shapes = [Primitive(c, paint, normal=n) for c, n in shell.values()]
    for name, (u, v) in {
        "front": ((0.08, 0.92), (0.5, 0.88)),
        "back": ((0.1, 0.9), (0.55, 0.85)),
        "left": ((0.72, 0.93), (0.52, 0.85)),
        "right": ((0.72, 0.93), (0.52, 0.85)),
    }.items():
        corners, normal = shell[name]
        shapes.append(Primitive(inset(corners, u, v), _GLASS, normal=normal))
    return shapes + _wheels(length, width, 0.33, (-0.33, 0.33))


def truck(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Primitive]:
    """A truck: a cargo box behind a cab."""
    height, width, length = size
    cargo = frustum(
        (-length / 2, length * 0.28, -width / 2, width / 2),
        (-length / 2, length * 0.28, -width / 2, width / 2),
        (0.25 * height, height),
    )
    cab = frustum(
        (length * 0.3, length / 2, -width / 2, width / 2),
        (length * 0.3, length * 0.47, -width * 0.48, width * 0.48),
        (0.15 * height, 0.8 * height),
    )
    cover, paint = pick(rng, _CLOTH), pick(rng, _PAINT)
    parts = [(cargo, cover), (cab, paint)]
    shapes = [Primitive(c, color, normal=n) for part, color in parts for c, n in part.values()]
    corners, normal = cab["front"]
    shapes.append(Primitive(inset(corners, (0.08, 0.92), (0.5, 0.9)), _GLASS, normal=normal))
    return shapes + _wheels(length, width, 0.5, (-0.38, -0.22, 0.36))


def _wheels(length: float, width: float, radius: float, places: tuple[float, ...]) -> list[Primitive]:
    shapes = []
    for side in (-1.0, 1.0):
        normal = np.array([0.0, 0.0, side])
        for place in places:
            center = (place * length, radius, side * width / 2)
            shapes.append(Primitive(circle(center, radius), _RUBBER, normal=normal))
            shapes.append(Primitive(circle(center, radius * 0.55, 10), (165, 168, 172), normal=normal))
    return shapes


def pedestrian(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Primitive]:
    """A walking or standing person, drawn flat, facing any way."""
    h = size[0]
    skin, shirt, trousers = pick(rng, _SKIN), pick(rng, _CLOTH), pick(rng, _CLOTH)
    stride = rng.uniform(0.0, 0.17) * h
    swing = rng.uniform(0.3, 1.0) * stride + 0.03 * h
    broad = rng.uniform(0.085, 0.125) * h
    hip, shoulder = 0.48 * h, 0.82 * h
    far, near, sleeve = [c * 0.8 for c in trousers], trousers, [c * 0.8 for c in shirt]

    def limb(points: list[tuple[float, float]], color: Color, width: float) -> Primitive:
        return Primitive(np.array([(a, b, 0.0) for a, b in points]), tuple(color), width=width)

    shapes = [
        limb([(0, hip), (-stride * 0.45, 0.26 * h), (-stride, 0.03 * h)], far, 0.075 * h),
        limb([(-stride, 0.02 * h), (-stride + 0.07 * h, 0.02 * h)], _RUBBER, 0.04 * h),
        limb([(-broad * 0.6, shoulder), (swing * 0.6, 0.62 * h), (swing, 0.49 * h)], sleeve, 0.05 * h),
        limb([(0, hip), (stride * 0.55, 0.27 * h), (stride, 0.03 * h)], near, 0.08 * h),
        limb([(stride, 0.02 * h), (stride + 0.07 * h, 0.02 * h)], _RUBBER, 0.04 * h),
        Primitive(
            np.array([(-broad, hip - 0.03 * h, 0), (broad, hip - 0.03 * h, 0), (broad * 1.15, shoulder, 0),
                      (broad * 0.5, 0.86 * h, 0), (-broad * 0.5, 0.86 * h, 0), (-broad * 1.15, shoulder, 0)]),
            shirt,
        ),
        limb([(-broad, 0.8 * h), (-swing * 0.7 - 0.02 * h, 0.62 * h), (-swing, 0.47 * h)], shirt, 0.055 * h),
    ]  # fmt: skip
    if rng.random() < 0.3:  # a bag or a rucksack
        shapes.append(Primitive(circle((-broad * 1.3, 0.68 * h, 0), 0.09 * h, 10), pick(rng, _CLOTH)))
    return shapes + _head(rng, 0.0, h, skin)


def cyclist(rng: np.random.Generator, size: tuple[float, float, float], turn: float) -> list[Primitive]:
    """A person on a bicycle, drawn flat; ``turn`` is the cosine of the view's angle to its side.

    At 1 the bicycle is seen from the side, towards 0 from the front or behind.
    """
    h = size[0]
    lean = rng.uniform(0.05, 0.22)
    skin, shirt, trousers = pick(rng, _SKIN), pick(rng, _CLOTH), pick(rng, _CLOTH)
    a = lambda x: x * turn  # noqa: E731
    saddle, bar, crank = (a(-0.22), 0.55 * h), (a(0.42), 0.6 * h), (a(-0.02), 0.19 * h)
    shoulders = (a(-0.22 + 2.2 * lean), 0.84 * h)
    shapes = bicycle(rng, size, turn)

    def limb(points: list[tuple[float, float]], color: Color, width: float) -> Primitive:
        return Primitive(np.array([(x, y, 0.0) for x, y in points]), tuple(color), width=width)

    spread = 0.1 * (1 - abs(turn))  # from the front the knees are apart
    for side, lift, shade in ((-1, 0.09, 0.78), (1, -0.09, 1.0)):
        foot = (crank[0] + a(side * 0.08) + side * spread, crank[1] + lift)
        knee = (a(0.22) + side * spread * 1.4, 0.4 * h + lift * 0.6)
        shapes.append(limb([saddle, knee, foot], [c * shade for c in trousers], 0.085 * h))
    broad = max(0.1 * h, 0.14 * h * (1 - abs(turn)))
    shapes.append(limb([(saddle[0], saddle[1] + 0.03 * h), shoulders], shirt, 2 * broad))
    for side in (-1, 1):
        hand = (bar[0] + side * 0.22 * (1 - abs(turn)), bar[1])
        elbow = ((shoulders[0] + hand[0]) / 2 + side * spread, 0.68 * h)
        shapes.append(
            limb([(shoulders[0], shoulders[1] - 0.02 * h), elbow, hand], [c * 0.9 for c in shirt], 0.05 * h)
        )
    shapes += _head(rng, shoulders[0] + a(0.06), h, skin)
    if rng.random() < 0.5:  # a helmet
        shapes.append(
            Primitive(circle((shoulders[0] + a(0.06), 0.96 * h, 0), 0.065 * h, 10, 1.25), pick(rng, _CLOTH))
        )
    return shapes


def bicycle(rng: np.random.Generator, size: tuple[float, float, float], turn: float) -> list[Primitive]:
    """A bicycle alone (parked, it is clutter)."""
    h, radius = size[0], 0.19 * size[0]
    frame = pick(rng, _PAINT)
    squeeze = max(abs(turn), 0.14)
    rear, front, crank = (-0.5 * turn, radius), (0.52 * turn, radius), (-0.02 * turn, 0.19 * h)
    saddle, head = (-0.2 * turn, 0.5 * h), (0.4 * turn, 0.56 * h)
    shapes = []
    for center in (rear, front):
        ring = circle((*center, 0.0), radius * 0.93, 16, squeeze)
        shapes.append(Primitive(np.concatenate([ring, ring[:2]]), _RUBBER, width=0.055))
    for tube in ((rear, crank, head, saddle, crank), (rear, saddle), (front, head)):
        shapes.append(Primitive(np.array([(x, y, 0.0) for x, y in tube]), frame, width=0.05))
    across = 0.25 * (1 - abs(turn))
    bars = [
        (head[0] - across, 0.6 * h, 0.0),
        (head[0], 0.58 * h, 0.0),
        (head[0] + across + 0.06 * turn, 0.61 * h, 0.0),
    ]
    shapes.append(Primitive(np.array(bars), (40, 40, 44), width=0.045))
    return shapes


def _head(rng: np.random.Generator, forward: float, h: float, skin: Color) -> list[Primitive]:
    hair = pick(rng, ((40, 30, 25), (90, 60, 35), (200, 170, 110), (120, 115, 112)))
    return [
        Primitive(circle((forward, 0.945 * h, 0), 0.055 * h, 12, 0.9), hair),
        Primitive(circle((forward + 0.008 * h, 0.925 * h, 0), 0.048 * h, 12, 0.85), skin),
    ]


def tree(rng: np.random.Generator) -> list[Primitive]:
    """A trunk under a crown of leaves, some of them conifers."""
    h = rng.uniform(3.5, 8.0)
    trunk = Primitive(
        np.array([(0, 0, 0), (rng.normal(0, 0.1), h * 0.6, 0)]), pick(rng, ((92, 70, 50),)), width=0.3
    )
    leaf = np.asarray(pick(rng, ((55, 95, 45), (85, 110, 50), (45, 75, 50), (150, 120, 50))))
    shapes = [trunk]
    if rng.random() < 0.25:
        for level in range(4):
            low, half = h * (0.2 + 0.18 * level), h * 0.22 * (1 - 0.2 * level)
            points = np.array([(-half, low, 0), (half, low, 0), (0, low + 0.34 * h, 0)])
            shapes.append(Primitive(points, tuple(leaf * (0.75 + 0.08 * level))))
        return shapes
    for _ in range(9):
        center = (rng.normal(0, 0.14 * h), h * rng.uniform(0.55, 0.95), 0.0)
        blob = circle(center, h * rng.uniform(0.12, 0.22), 9, rng.uniform(0.8, 1.3))
        blob[:, :2] += rng.normal(0, 0.025 * h, (9, 2))
        shapes.append(Primitive(blob, tuple(np.clip(leaf * rng.uniform(0.7, 1.25), 0, 255))))
    return shapes


def clutter(rng: np.random.Generator) -> list[Primitive]:
    """Something beside the road that is no object: a pole, sign, bin, bush, container or parked bicycle."""
    kind = rng.integers(7)
    if kind == 0:  # lamp pole
        h = rng.uniform(3.5, 7.0)
        return [Primitive(np.array([(0, 0, 0), (0, h, 0), (0.9, h + 0.1, 0)]), (105, 108, 110), width=0.14)]
    if kind == 1:  # traffic sign
        face = pick(rng, ((200, 35, 35), (30, 80, 170), (240, 200, 40)))
        post = Primitive(np.array([(0, 0, 0), (0, 2.2, 0)]), (150, 152, 155), width=0.09)
        count = (3, 4, 14)[rng.integers(3)]
        plate = circle((0, 2.2, 0), 0.38, count)
        return [post, Primitive(plate, face), Primitive(circle((0, 2.2, 0), 0.22, count), (235, 235, 230))]
    if kind == 2:  # litter bin, as tall and narrow as a child
        faces = frustum((-0.28, 0.28, -0.28, 0.28), (-0.32, 0.32, -0.32, 0.32), (0.0, rng.uniform(0.8, 1.3)))
        paint = pick(rng, _CLOTH)
        return [Primitive(c, paint, normal=n) for c, n in faces.values()]
    if kind == 3:  # bush, of a person's or a car's outline
        leaf = np.asarray(pick(rng, ((60, 100, 50), (95, 115, 60))))
        wide = rng.uniform(0.3, 1.6)
        return [
            Primitive(
                circle((rng.normal(0, 0.4 * wide), rng.uniform(0.3, 1.1), 0), rng.uniform(0.3, 0.55), 9),
                tuple(leaf * rng.uniform(0.7, 1.2)),
            )
            for _ in range(7)
        ]
    if kind == 4:  # container, of a car's outline
        length, height = rng.uniform(1.5, 4.2), rng.uniform(1.1, 1.9)
        faces = frustum(
            (-length / 2, length / 2, -0.8, 0.8), (-length / 2, length / 2, -0.9, 0.9), (0.1, height)
        )
        paint = pick(rng, _PAINT)
        shapes = [Primitive(c, paint, normal=n) for c, n in faces.values()]
        dark = tuple(0.6 * c for c in paint)
        for name in ("left", "right", "front"):
            corners, normal = faces[name]
            for s in np.linspace(0.15, 0.85, 4):
                shapes.append(
                    Primitive(inset(corners, (s - 0.02, s + 0.02), (0.1, 0.9)), dark, normal=normal)
                )
        return shapes
    if kind == 5:
        return bicycle(rng, (1.7, 0.6, 1.7), rng.uniform(0.5, 1.0))
    h = rng.uniform(1.4, 1.9)  # a post with a round head: nearly a person
    paint = pick(rng, _CLOTH)
    return [
        Primitive(np.array([(0, 0, 0), (0, 0.8 * h, 0)]), paint, width=rng.uniform(0.15, 0.4)),
        Primitive(circle((0, 0.88 * h, 0), 0.13 * h, 12), pick(rng, _PAINT)),
    ]
