"""ShuffleDet's detection losses (pure graph functions, float32).

Each returns this replica's share: sums over its images divided by counts of the global batch.
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf import boxes as box_ops
from fgfi_tf.models.shuffledet import coding

CLASS_WEIGHT = 1.0
CONFIDENCE_WEIGHT_OBJECT = 75.0
CONFIDENCE_WEIGHT_BACKGROUND = 100.0
BOX_WEIGHT = 5.0
LOG_EPSILON = 1e-16


def split_predictions(predictions: tf.Tensor, num_shapes: int, num_classes: int) -> dict[str, tf.Tensor]:
    """Splits the channels of conv12: class logits, confidence logits, deltas (each anchor-major).

    Args:
        predictions: [B, h, w, num_shapes * (num_classes + 1 + 4)].

    Returns:
        float32 ``class_logits`` [B, A, num_classes], ``confidence_logits`` [B, A] and
        ``deltas`` [B, A, 4], with A = h * w * num_shapes.
    """
    predictions = tf.cast(predictions, tf.float32)
    batch, height, width = tf.unstack(tf.shape(predictions)[:3])
    anchors = height * width * num_shapes
    classes, confidence, deltas = tf.split(
        predictions, [num_shapes * num_classes, num_shapes, num_shapes * 4], axis=-1
    )
    return {
        "class_logits": tf.reshape(classes, [batch, anchors, num_classes]),
        "confidence_logits": tf.reshape(confidence, [batch, anchors]),
        "deltas": tf.reshape(deltas, [batch, anchors, 4]),
    }


def class_loss(
    class_logits: tf.Tensor, anchor_index: tf.Tensor, classes: tf.Tensor, valid: tf.Tensor
) -> tf.Tensor:
    """Binary cross entropy of each softmax probability at the assigned anchors, summed.

    Args:
        class_logits: [B, A, C].
        anchor_index, classes: int32 [B, M].
        valid: bool [B, M].
    """
    logits = tf.gather(class_logits, anchor_index, batch_dims=1)  # B x M x C
    p = tf.nn.softmax(logits)
    y = tf.one_hot(classes, class_logits.shape[-1])
    # Not 1 - p + epsilon: the graph optimiser folds the constants to 1 - p, and p = 1 gives NaN.
    not_p = tf.maximum(1.0 - p, LOG_EPSILON)
    entropy = -(y * tf.math.log(p + LOG_EPSILON) + (1.0 - y) * tf.math.log(not_p))
    return CLASS_WEIGHT * tf.reduce_sum(tf.where(valid[..., None], entropy, 0.0))


def box_loss(deltas: tf.Tensor, anchor_index: tf.Tensor, targets: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Squared error of the deltas at the assigned anchors, summed; ``targets`` is [B, M, 4]."""
    error = tf.square(tf.gather(deltas, anchor_index, batch_dims=1) - targets)  # B x M x 4
    return BOX_WEIGHT * tf.reduce_sum(tf.where(valid[..., None], error, 0.0))


def confidence_losses(
    confidence_logits: tf.Tensor,
    decoded: tf.Tensor,
    anchor_index: tf.Tensor,
    boxes: tf.Tensor,
    valid: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Squared error of the confidence: towards the IoU at assigned anchors, towards 0 elsewhere.

    Args:
        confidence_logits: [B, A].
        decoded: [B, M, 4], the boxes decoded at the assigned anchors (no gradient is taken).
        boxes: [B, M, 4], both (cx, cy, w, h).

    Returns:
        The unweighted sums over the assigned anchors and over all others.
    """
    iou = tf.stop_gradient(box_ops.iou_of_centres(decoded, boxes))  # B x M
    confidence = tf.sigmoid(confidence_logits)  # B x A
    assigned = tf.gather(confidence, anchor_index, batch_dims=1)  # B x M
    on_object = tf.reduce_sum(tf.where(valid, tf.square(iou - assigned), 0.0))
    everywhere = tf.reduce_sum(tf.square(confidence))
    return on_object, everywhere - tf.reduce_sum(tf.where(valid, tf.square(assigned), 0.0))


def detection_losses(
    split: dict[str, tf.Tensor],
    targets: dict[str, tf.Tensor],
    anchors: tf.Tensor,
    input_size: tuple[int, int],
    global_objects: tf.Tensor,
    global_images: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """The three weighted losses.

    Args:
        split: of :func:`split_predictions`.
        targets: ``boxes`` [B, M, 4] (cx, cy, w, h), ``classes``, ``valid``, ``anchor_index``
            [B, M] and ``deltas`` [B, M, 4].
        anchors: [A, 4].
        input_size: (height, width) of the network input.
        global_objects, global_images: counts of the whole batch (all replicas).

    Returns:
        ``class_loss``, ``confidence_loss`` and ``box_loss``. With no object in the whole batch
        the first and the last are 0.
    """
    index, valid = targets["anchor_index"], targets["valid"]
    objects = tf.maximum(global_objects, 1.0)
    decoded = coding.decode(
        tf.gather(split["deltas"], index, batch_dims=1), tf.gather(anchors, index), *input_size
    )  # B x M x 4
    on_object, elsewhere = confidence_losses(
        split["confidence_logits"], decoded, index, targets["boxes"], valid
    )
    background = tf.cast(tf.shape(anchors)[0], tf.float32) - global_objects
    confidence = (
        CONFIDENCE_WEIGHT_OBJECT / objects * on_object + CONFIDENCE_WEIGHT_BACKGROUND / background * elsewhere
    )
    return {
        "class_loss": class_loss(split["class_logits"], index, targets["classes"], valid) / objects,
        "confidence_loss": confidence / global_images,
        "box_loss": box_loss(split["deltas"], index, targets["deltas"], valid) / objects,
    }
