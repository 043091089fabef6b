"""Box geometry as pure functions.

Two forms of a box are used. *Corners* are (xmin, ymin, xmax, ymax); here they are continuous, so a
width is xmax - xmin (inclusive pixel corners become continuous by adding 1 to xmax and ymax).
*Centres* are (cx, cy, w, h). All arithmetic is float32.
"""

from __future__ import annotations

import tensorflow as tf


def corners_from_centres(boxes: tf.Tensor) -> tf.Tensor:
    """(cx, cy, w, h) [..., 4] to (xmin, ymin, xmax, ymax) [..., 4]."""
    cx, cy, w, h = tf.unstack(boxes, axis=-1)
    half_w, half_h = 0.5 * w, 0.5 * h
    return tf.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], axis=-1)


def centres_from_corners(boxes: tf.Tensor) -> tf.Tensor:
    """(xmin, ymin, xmax, ymax) [..., 4] to (cx, cy, w, h) [..., 4]."""
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
    w, h = x2 - x1, y2 - y1
    return tf.stack([x1 + 0.5 * w, y1 + 0.5 * h, w, h], axis=-1)


def iou_of_centres(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Intersection over union of boxes (cx, cy, w, h), elementwise with broadcasting.

    Args:
        a, b: float32 [..., 4], broadcastable against each other.

    Returns:
        float32 [...]; 0 where the union is empty.
    """
    a, b = corners_from_centres(a), corners_from_centres(b)
    ax1, ay1, ax2, ay2 = tf.unstack(a, axis=-1)
    bx1, by1, bx2, by2 = tf.unstack(b, axis=-1)
    width = tf.maximum(tf.minimum(ax2, bx2) - tf.maximum(ax1, bx1), 0.0)
    height = tf.maximum(tf.minimum(ay2, by2) - tf.maximum(ay1, by1), 0.0)
    intersection = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    return tf.math.divide_no_nan(intersection, union)


def class_nms(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    classes: tf.Tensor,
    num_classes: int,
    *,
    iou_threshold: float,
    max_per_class: int,
    max_total: int,
) -> dict[str, tf.Tensor]:
    """Non-maximum suppression within each class, for detections that each have one class.

    Args:
        boxes: float32 [B, N, 4] continuous corners (xmin, ymin, xmax, ymax).
        scores: float32 [B, N]; a score of 0 or less is no detection.
        classes: int32 [B, N] in [0, num_classes).
        iou_threshold: a box is dropped where its IoU with a better kept one is greater.
        max_per_class: most boxes kept in a class of an image.
        max_total: K, most boxes kept in an image.

    Returns:
        ``boxes`` [B, K, 4], ``scores`` [B, K] descending, ``classes`` int32 [B, K] and ``count``
        int32 [B]; zeros from ``count`` on.
    """
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
    per_class = scores[..., None] * tf.one_hot(classes, num_classes, dtype=scores.dtype)  # B x N x C
    kept = tf.image.combined_non_max_suppression(
        tf.stack([y1, x1, y2, x2], axis=-1)[:, :, None, :],  # B x N x 1 x 4
        per_class,
        max_output_size_per_class=max_per_class,
        max_total_size=max_total,
        iou_threshold=iou_threshold,
        score_threshold=0.0,
        clip_boxes=False,
    )
    y1, x1, y2, x2 = tf.unstack(kept.nmsed_boxes, axis=-1)
    return {
        "boxes": tf.stack([x1, y1, x2, y2], axis=-1),
        "scores": kept.nmsed_scores,
        "classes": tf.cast(kept.nmsed_classes, tf.int32),
        "count": kept.valid_detections,
    }
