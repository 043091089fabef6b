"""The solids of a drawn street, flat-shaded, in metres; figures are in ``figures``.

A shape is a list of primitives in the object's own frame: ``forward`` along its length, ``up`` from
the ground, ``right`` across it, origin on the ground below its middle. ``toy_kitti`` places,
projects and paints them in the order of the list.
"""

from __future__ import annotations

import dataclasses

import numpy as np

Color = tuple[float, float, float]

CLOTH = (
    (190, 40, 45), (35, 60, 130), (235, 235, 230), (35, 35, 40), (60, 130, 80),
    (240, 180, 50), (130, 90, 150), (110, 115, 120), (80, 140, 190), (200, 120, 90),
)  # fmt: skip
PAINT = (
    (200, 30, 35), (25, 45, 95), (240, 240, 240), (28, 28, 32), (150, 155, 160),
    (95, 100, 108), (70, 105, 150), (120, 25, 40), (45, 85, 60), (205, 190, 150),
)  # fmt: skip
_GLASS: Color = (58, 74, 92)
RUBBER: Color = (24, 24, 26)
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
    paint = pick(rng, PAINT)
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
    cover, paint = pick(rng, CLOTH), pick(rng, PAINT)
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
            shapes.append(Primitive(circle(center, radius), RUBBER, normal=normal))
            shapes.append(Primitive(circle(center, radius * 0.55, 10), (165, 168, 172), normal=normal))
    return shapes
