"""What becomes of raw boxes and scores outside the graph: suppression in numpy. Imports no TensorFlow.

``nms`` is the same inside the graph. Exported files whose runtimes have no suppression end before it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


#: Corners of detections; see ``Suppression.corners``.
CORNERS = ("continuous", "edges", "cut", "pixels")


@dataclasses.dataclass(frozen=True)
class Suppression:
    """How a detector's raw boxes become its detections.

    Attributes:
        iou_threshold: within a class, a box is dropped where its IoU with a better kept one is greater.
        max_per_class: most boxes kept in a class of an image.
        max_total: most boxes kept in an image.
        score_threshold: a score that is not above it is no detection.
        best_boxes: only so many boxes take part, those whose best scores are the highest; 0: all.
        best_class: whether a box takes part in its best class alone, and not in every class.
        candidates: only so many boxes of a class take part, those of the highest scores; 0: all.
        centre_inside: whether only boxes take part whose centre is in the picture, which may end before the
            network input does.
        corners: of detections, in pixels of the picture: ``"continuous"``, as they are; ``"edges"``, cut at
            its borders; ``"cut"``, that, then inclusive; ``"pixels"``, inclusive, at least a pixel each way,
            then cut.
    """

    iou_threshold: float
    max_per_class: int
    max_total: int
    score_threshold: float = 0.0
    best_boxes: int = 0
    best_class: bool = False
    candidates: int = 0
    centre_inside: bool = False
    corners: str = CORNERS[0]

    def __post_init__(self):
        if self.corners not in CORNERS:
            raise ValueError(f"corners: {self.corners!r} is none of {', '.join(CORNERS)}")


class RawHead(NamedTuple):
    """What a network says before suppression; see ``Detector.raw_head``.

    Attributes:
        boxes: float32 [B,N,4], continuous corners in pixels of the network input.
        scores: float32 [B,N,C] of every class; no column for the background.
        suppression: what makes detections of them.
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    suppression: Suppression


def detections(
    boxes: np.ndarray, scores: np.ndarray, rule: Suppression, scale: np.ndarray, size: np.ndarray
) -> dict[str, np.ndarray]:
    """What ``Detector.detect`` finds in one picture.

    Args:
        boxes, scores, rule: as of :func:`suppress`.
        scale: pixels of the network input for each of the picture, float32 [2] (y, x).
        size: (h, w) of the picture.

    Returns:
        As of :func:`suppress`, the boxes in pixels of the picture.
    """
    scale, size = np.asarray(scale, np.float32), np.asarray(size, np.float32)
    found = suppress(boxes, scores, rule, size * scale)
    return {**found, "boxes": _corners(found["boxes"] / np.tile(scale[::-1], 2), size, rule.corners)}


def _corners(boxes: np.ndarray, size: np.ndarray, kind: str) -> np.ndarray:
    """Continuous corners [K, 4] as a detector gives them; see ``Suppression.corners``."""
    borders, last = np.tile(size[::-1], 2), np.float32([0, 0, 1, 1])
    if kind in ("edges", "cut"):
        return np.clip(boxes, 0.0, borders) - last * (kind == "cut")
    if kind == "pixels":
        near, far = np.split(boxes - last, 2, axis=1)
        return np.clip(np.concatenate([near, np.maximum(near, far)], axis=1), 0.0, borders - 1.0)
    return boxes


def suppress(
    boxes: np.ndarray, scores: np.ndarray, rule: Suppression, content: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Detections of one image, in pixels of the network input.

    Args:
        boxes: float32 [N, 4], continuous corners.
        scores: float32 [N, C].
        rule: see above.
        content: (h, w) of the picture in the network input; None: all of it is picture.

    Returns:
        ``boxes`` [K, 4], ``scores`` [K] descending and ``classes`` int32 [K].
    """
    if rule.centre_inside and content is not None:
        inside = np.all((boxes[:, :2] + boxes[:, 2:]) / 2 <= content[::-1], axis=1)
        boxes, scores = boxes[inside], scores[inside]
    if rule.best_boxes:
        first = np.argsort(-scores.max(axis=1), kind="stable")[: rule.best_boxes]
        boxes, scores = boxes[first], scores[first]
    if rule.best_class:
        best = scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1])  # N x C
        scores = np.where(best, scores, 0.0)
    found = []  # (score, class, place) of what is kept
    for number in range(scores.shape[1]):
        of_class = scores[:, number]
        order = np.argsort(-of_class, kind="stable")
        order = order[of_class[order] > rule.score_threshold][: rule.candidates or None]
        kept = _greedy(boxes, order, rule.iou_threshold, rule.max_per_class)
        found += [(of_class[place], number, place) for place in kept]
    found = sorted(found, key=lambda entry: -entry[0])[: rule.max_total]
    places = np.array([place for _, _, place in found], np.int64)
    return {
        "boxes": boxes[places].reshape(-1, 4),
        "scores": np.array([score for score, _, _ in found], np.float32),
        "classes": np.array([number for _, number, _ in found], np.int32),
    }


def _greedy(boxes: np.ndarray, order: np.ndarray, threshold: float, most: int) -> list[int]:
    """Places of the boxes [N, 4] that are kept, of those in ``order``, the best first."""
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[overlaps(boxes[best], boxes[order]) <= threshold]
    return kept


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU [N] of a box [4] with others [N, 4]; 0 where the union is empty."""
    near, far = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(far - near, 0.0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
