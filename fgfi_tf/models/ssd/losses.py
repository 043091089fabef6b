"""SSD's losses and detections (pure graph functions, float32)."""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.geometry import coding, nms
from fgfi_tf.geometry.boxes import centres_from_corners

NEGATIVES_PER_POSITIVE = 3
MIN_SCORE, BEST_PER_CLASS, NMS_IOU, MAX_DETECTIONS = 0.01, 400, 0.45, 200


def targets(
    matched: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor, defaults: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """What each default box should predict.

    Args:
        matched: int32 [B, A], of ``matching.match``.
        boxes: float32 [B, M, 4], corners as fractions; classes: int32 [B, M], from 0.
        defaults: float32 [A, 4], (cx, cy, w, h).

    Returns:
        ``labels`` int32 [B, A], 0 for background, else class + 1; ``offsets`` float32 [B, A, 4], 0 for
        background.
    """
    positive = matched >= 0
    # One ground truth more, which background points at: there may be none.
    boxes = tf.pad(boxes, [[0, 0], [0, 1], [0, 0]])
    index = tf.where(positive, matched, tf.shape(classes)[1])
    labels = tf.gather(tf.pad(classes + 1, [[0, 0], [0, 1]]), index, batch_dims=1)
    own = tf.gather(boxes, index, batch_dims=1)  # B x A x 4
    # Background has no logarithm; the default box itself keeps it finite, and zero.
    own = tf.where(positive[..., None], centres_from_corners(own), defaults)
    offsets = coding.encode(own, defaults, coding.DEVIATIONS)
    return labels, tf.where(positive[..., None], offsets, 0.0)


def multibox_losses(
    logits: tf.Tensor, offsets: tf.Tensor, labels: tf.Tensor, wanted: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Sums over this replica's images, to be divided by the positives of the global batch.

    Args:
        logits: [B, A, C + 1], background first.
        offsets, wanted: [B, A, 4], predicted and of :func:`targets`.
        labels: int32 [B, A].

    Returns:
        float32 scalars ``class_loss`` (cross entropy over positives and mined negatives), ``box_loss``
        (smooth L1 with beta 1 over positives) and ``positives``.
    """
    logits, offsets = tf.cast(logits, tf.float32), tf.cast(offsets, tf.float32)
    positive = labels > 0
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)  # B x A
    chosen = positive | hard_negatives(entropy, positive)
    error = tf.abs(offsets - wanted)
    smooth = tf.where(error < 1.0, 0.5 * tf.square(error), error - 0.5)
    return {
        "class_loss": tf.reduce_sum(tf.where(chosen, entropy, 0.0)),
        "box_loss": tf.reduce_sum(tf.where(positive[..., None], smooth, 0.0)),
        "positives": tf.reduce_sum(tf.cast(positive, tf.float32)),
    }


def hard_negatives(entropy: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """bool [B, A]: in each image the three times as many unmatched boxes of the largest cross entropy."""
    loss = tf.stop_gradient(tf.where(positive, -float("inf"), entropy))
    order = tf.argsort(loss, axis=-1, direction="DESCENDING", stable=True)
    rank = tf.argsort(order, axis=-1)  # B x A, the place of each box in that order
    count = NEGATIVES_PER_POSITIVE * tf.reduce_sum(tf.cast(positive, tf.int32), axis=-1, keepdims=True)
    return (rank < count) & ~positive


def boxes_and_scores(
    logits: tf.Tensor, offsets: tf.Tensor, defaults: tf.Tensor, clip: bool = True
) -> tuple[tf.Tensor, tf.Tensor]:
    """What each default box says, before suppression; the arguments are those of :func:`detect`.

    Returns:
        Boxes [B, A, 4] (corners, fractions of the input) and scores [B, A, C] without background, float32.
    """
    boxes = coding.decode(tf.cast(offsets, tf.float32), defaults, coding.DEVIATIONS)
    boxes = tf.clip_by_value(boxes, 0.0, 1.0) if clip else boxes
    return boxes, tf.nn.softmax(tf.cast(logits, tf.float32))[..., 1:]


def detect(
    logits: tf.Tensor, offsets: tf.Tensor, defaults: tf.Tensor, clip: bool = True
) -> dict[str, tf.Tensor]:
    """The best 200 boxes of each image.

    Per class the best 400 of a score above 0.01, suppressed at an IoU above 0.45.

    Args:
        logits: [B, A, C + 1]; offsets: [B, A, 4]; defaults: [A, 4].
        clip: boxes are cut at the image before suppression (torchvision), or not at all (Caffe).

    Returns:
        ``boxes`` [B, 200, 4] (corners, fractions of the input), ``scores`` [B, 200] descending, ``classes``
        int32 [B, 200], from 0, ``count`` int32 [B]; zeros from ``count`` on.
    """
    boxes, scores = boxes_and_scores(logits, offsets, defaults, clip)
    scores = tf.transpose(tf.where(scores > MIN_SCORE, scores, 0.0), [0, 2, 1])
    batch, classes, anchors = tf.shape(scores)[0], scores.shape[1], scores.shape[2]
    best, places = tf.math.top_k(scores, min(BEST_PER_CLASS, anchors or BEST_PER_CLASS))  # B x C x K
    own = tf.gather(boxes, places, batch_dims=1)  # B x C x K x 4
    kept = nms.suppress(  # every class of every image on its own
        tf.reshape(own, [batch * classes, -1, 1, 4]),
        tf.reshape(best, [batch * classes, -1, 1]),
        iou_threshold=NMS_IOU,
        max_per_class=BEST_PER_CLASS,
        max_total=BEST_PER_CLASS,
    )
    all_boxes = tf.reshape(kept["boxes"], [batch, classes * BEST_PER_CLASS, 4])
    all_scores = tf.reshape(kept["scores"], [batch, classes * BEST_PER_CLASS])
    top, places = tf.math.top_k(all_scores, min(MAX_DETECTIONS, classes * BEST_PER_CLASS))
    found = top > 0.0
    return {
        "boxes": tf.where(found[..., None], tf.gather(all_boxes, places, batch_dims=1), 0.0),
        "scores": top,
        "classes": tf.where(found, places // BEST_PER_CLASS, 0),
        "count": tf.reduce_sum(tf.cast(found, tf.int32), axis=-1),
    }
