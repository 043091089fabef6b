"""Shapes of boxes, (w, h) whatever their place: IoU, k-means on it, and shapes as text. Numpy alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_STARTS = 10
_MAX_ROUNDS = 100


def shape_iou(shapes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each shape [N,2] with each other one [K,2] about the same centre: float64 [N,K]."""
    shapes, others = np.asarray(shapes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    shared = np.minimum(shapes, others).prod(axis=-1)
    return shared / (shapes.prod(axis=-1) + others.prod(axis=-1) - shared)


def best_ious(shapes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of each shape [N,2] with the anchor shape [K,2] that is most like it: float64 [N]."""
    return shape_iou(shapes, anchors).max(axis=1)


def cluster(shapes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Anchor shapes by k-means with the distance 1 - IoU (Redmon & Farhadi 2017, section 2).

    The first centres are drawn as k-means++ does (Arthur & Vassilvitskii 2007), by the distance to the
    nearest one so far. A centre becomes the mean of its shapes, which need not lower that distance, and much
    depends on the first ones: of all rounds of ten starts that of the best mean IoU counts.

    ``shapes`` are (w, h) [N,2] of objects, above 0. Gives float64 [count,2], small areas first, a function of
    the seed. Raises ValueError for fewer different shapes than ``count``.
    """
    shapes = np.asarray(shapes, np.float64).reshape(-1, 2)
    different = len(np.unique(shapes, axis=0))
    if different < count:
        raise ValueError(f"{count} anchor shapes cannot be found among {different} different ones")
    random = np.random.default_rng(seed)
    best, best_iou = np.zeros((count, 2)), -1.0
    for _ in range(_STARTS):
        for centres, iou in _rounds(shapes, _first_centres(shapes, count, random)):
            if iou > best_iou:
                best, best_iou = centres, iou
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def _rounds(shapes: np.ndarray, centres: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Centres [K,2] and the mean best IoU of every round, until no shape changes its centre."""
    nearest = None
    for _ in range(_MAX_ROUNDS):
        iou = shape_iou(shapes, centres)  # N x K
        yield centres, iou.max(axis=1).mean()
        previous, nearest = nearest, iou.argmax(axis=1)
        if np.array_equal(previous, nearest):
            return
        members = [shapes[nearest == k] for k in range(len(centres))]
        centres = np.array([m.mean(axis=0) if len(m) else c for m, c in zip(members, centres, strict=True)])


def _first_centres(shapes: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    chosen = [int(random.integers(len(shapes)))]
    while len(chosen) < count:
        distance = np.maximum(1.0 - best_ious(shapes, shapes[chosen]), 0.0)
        distance[distance < 1e-12] = 0.0  # rounding: shapes that were chosen
        chosen.append(int(random.choice(len(shapes), p=distance / distance.sum())))
    return shapes[chosen]


def parse(text: str) -> np.ndarray:
    """'0.25x0.5,0.5x0.5' to float64 [K,2]. Raises ValueError where that is no list of shapes."""
    try:
        found = np.array([[float(side) for side in shape.split("x")] for shape in text.split(",")])
    except ValueError:  # no numbers, or lists of several lengths
        found = np.zeros(0)
    if found.ndim != 2 or found.shape[1] != 2 or not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"shapes w x h, each above 0, are expected, like 0.25x0.5,0.5x0.5, not {text!r}")
    return found


def to_text(shapes: np.ndarray) -> str:
    """Shapes [K,2] as :func:`parse` reads them, to six digits behind the point."""
    return ",".join(f"{w:.6f}x{h:.6f}" for w, h in np.asarray(shapes))
