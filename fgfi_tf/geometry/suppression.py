"""What becomes of raw boxes and scores outside the graph: suppression in numpy. Imports no TensorFlow.

``nms`` is the same inside the graph. Exported files whose runtimes have no suppression end before it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


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
    """

    iou_threshold: float
    max_per_class: int
    max_total: int
    score_threshold: float = 0.0
    best_boxes: int = 0
    best_class: bool = False


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


def suppress(boxes: np.ndarray, scores: np.ndarray, rule: Suppression) -> dict[str, np.ndarray]:
    """Detections of one image.

    Args:
        boxes: float32 [N, 4], continuous corners.
        scores: float32 [N, C].
        rule: see above.

    Returns:
        ``boxes`` [K, 4], ``scores`` [K] descending and ``classes`` int32 [K].
    """
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
        order = order[of_class[order] > rule.score_threshold]
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
