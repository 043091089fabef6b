"""Non-maximum suppression. Boxes are continuous corners (xmin, ymin, xmax, ymax), float32."""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.devices import needs_xla_form

KINDS = ("combined", "padded")


def suppress(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    *,
    iou_threshold: float,
    max_per_class: int,
    max_total: int,
    score_threshold: float = 0.0,
) -> dict[str, tf.Tensor]:
    """Suppression within each class of each image, for boxes with a score for every class.

    Args:
        boxes: [B, N, 1, 4], or [B, N, C, 4] where each class has boxes of its own.
        scores: float32 [B, N, C].
        iou_threshold: a box is dropped where its IoU with a better kept one is greater.
        max_per_class: most boxes kept in a class of an image.
        max_total: K, most boxes kept in an image.
        score_threshold: a score that is not above it is no detection.

    Returns:
        ``boxes`` [B, K, 4], ``scores`` [B, K] descending, ``classes`` int32 [B, K] and ``count`` int32 [B];
        zeros from ``count`` on.
    """
    kept = tf.image.combined_non_max_suppression(
        boxes,  # the kernel calls x what we call y: the IoU is the same
        scores,
        max_output_size_per_class=max_per_class,
        max_total_size=max_total,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        clip_boxes=False,
    )
    return {
        "boxes": kept.nmsed_boxes,
        "scores": kept.nmsed_scores,
        "classes": tf.cast(kept.nmsed_classes, tf.int32),
        "count": kept.valid_detections,
    }


def class_nms(
    boxes: tf.Tensor, scores: tf.Tensor, classes: tf.Tensor, num_classes: int, **limits
) -> dict[str, tf.Tensor]:
    """:func:`suppress` for boxes [B, N, 4] that each have one score [B, N] and class int32 [B, N].

    ``limits`` are its thresholds and numbers; a score of 0 or less is no detection.
    """
    per_class = scores[..., None] * tf.one_hot(classes, num_classes, dtype=scores.dtype)  # B x N x C
    return suppress(boxes[:, :, None], per_class, **limits)


def best_boxes(
    boxes: tf.Tensor, scores: tf.Tensor, count: int, iou_threshold: float, kind: str = "combined"
) -> dict[str, tf.Tensor]:
    """The ``count`` = K best of boxes [B, N, 4] without classes, by descending ``scores`` [B, N].

    Scores descend, are probabilities, and -inf for what is no box. ``kind`` is ``"combined"`` (one kernel, of
    CPUs alone: a GPU's boxes are copied there and back) or ``"padded"`` (tensor operations only, and what is
    taken in any case where XLA compiles, which has no such kernel). Gives ``boxes`` [B, K, 4], ``scores``
    [B, K] and ``count`` int32 [B], beyond which rows mean nothing.
    """
    if kind == "combined" and not needs_xla_form():
        return suppress(
            boxes[:, :, None],
            scores[:, :, None],
            iou_threshold=iou_threshold,
            max_per_class=count,
            max_total=count,
            score_threshold=-1.0,
        )
    indices, found = tf.image.non_max_suppression_padded(
        boxes,
        scores,
        max_output_size=count,
        iou_threshold=iou_threshold,
        score_threshold=-1.0,
        pad_to_max_output_size=True,
        sorted_input=True,
    )
    return {
        "boxes": tf.gather(boxes, indices, batch_dims=1),
        "scores": tf.gather(scores, indices, batch_dims=1),
        "count": found,
    }
