"""The figures and the clutter of a drawn street: people, bicycles, trees, what stands beside the road."""

from __future__ import annotations

import numpy as np

from fgfi_tf.toy.solids import CLOTH, PAINT, RUBBER, Color, Primitive, circle, frustum, inset, pick

_SKIN = ((242, 205, 175), (224, 172, 125), (172, 120, 84), (110, 72, 50))


def pedestrian(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Primitive]:
    """A walking or standing person, drawn flat, facing any way."""
    h = size[0]
    skin, shirt, trousers = pick(rng, _SKIN), pick(rng, CLOTH), pick(rng, CLOTH)
    stride = rng.uniform(0.0, 0.17) * h
    swing = rng.uniform(0.3, 1.0) * stride + 0.03 * h
    broad = rng.uniform(0.085, 0.125) * h
    hip, shoulder = 0.48 * h, 0.82 * h
    far, near, sleeve = [c * 0.8 for c in trousers], trousers, [c * 0.8 for c in shirt]

    def limb(points: list[tuple[float, float]], color: Color, width: float) -> Primitive:
        return Primitive(np.array([(a, b, 0.0) for a, b in points]), tuple(color), width=width)

    shapes = [
        limb([(0, hip), (-stride * 0.45, 0.26 * h), (-stride, 0.03 * h)], far, 0.075 * h),
        limb([(-stride, 0.02 * h), (-stride + 0.07 * h, 0.02 * h)], RUBBER, 0.04 * h),
        limb([(-broad * 0.6, shoulder), (swing * 0.6, 0.62 * h), (swing, 0.49 * h)], sleeve, 0.05 * h),
        limb([(0, hip), (stride * 0.55, 0.27 * h), (stride, 0.03 * h)], near, 0.08 * h),
        limb([(stride, 0.02 * h), (stride + 0.07 * h, 0.02 * h)], RUBBER, 0.04 * h),
        Primitive(
            np.array([(-broad, hip - 0.03 * h, 0), (broad, hip - 0.03 * h, 0), (broad * 1.15, shoulder, 0),
                      (broad * 0.5, 0.86 * h, 0), (-broad * 0.5, 0.86 * h, 0), (-broad * 1.15, shoulder, 0)]),
            shirt,
        ),
        limb([(-broad, 0.8 * h), (-swing * 0.7 - 0.02 * h, 0.62 * h), (-swing, 0.47 * h)], shirt, 0.055 * h),
    ]  # fmt: skip
    if rng.random() < 0.3:  # a bag or a rucksack
        shapes.append(Primitive(circle((-broad * 1.3, 0.68 * h, 0), 0.09 * h, 10), pick(rng, CLOTH)))
    return shapes + _head(rng, 0.0, h, skin)


def cyclist(rng: np.random.Generator, size: tuple[float, float, float], turn: float) -> list[Primitive]:
    """A person on a bicycle, drawn flat; ``turn`` is the cosine of the view's angle to its side.

    At 1 the bicycle is seen from the side, towards 0 from the front or behind.
    """
    h = size[0]
    lean = rng.uniform(0.05, 0.22)
    skin, shirt, trousers = pick(rng, _SKIN), pick(rng, CLOTH), pick(rng, CLOTH)
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
            Primitive(circle((shoulders[0] + a(0.06), 0.96 * h, 0), 0.065 * h, 10, 1.25), pick(rng, CLOTH))
        )
    return shapes


def bicycle(rng: np.random.Generator, size: tuple[float, float, float], turn: float) -> list[Primitive]:
    """A bicycle alone (parked, it is clutter)."""
    h, radius = size[0], 0.19 * size[0]
    frame = pick(rng, PAINT)
    squeeze = max(abs(turn), 0.14)
    rear, front, crank = (-0.5 * turn, radius), (0.52 * turn, radius), (-0.02 * turn, 0.19 * h)
    saddle, head = (-0.2 * turn, 0.5 * h), (0.4 * turn, 0.56 * h)
    shapes = []
    for center in (rear, front):
        ring = circle((*center, 0.0), radius * 0.93, 16, squeeze)
        shapes.append(Primitive(np.concatenate([ring, ring[:2]]), RUBBER, width=0.055))
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
        paint = pick(rng, CLOTH)
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
        paint = pick(rng, PAINT)
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
    paint = pick(rng, CLOTH)
    return [
        Primitive(np.array([(0, 0, 0), (0, 0.8 * h, 0)]), paint, width=rng.uniform(0.15, 0.4)),
        Primitive(circle((0, 0.88 * h, 0), 0.13 * h, 12), pick(rng, PAINT)),
    ]
