"""ShuffleDet's detection losses (pure graph functions, float32).

Each returns this replica's share: sums over its images divided by counts of the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from fgfi_tf.geometry.boxes import corners_from_centres
from fgfi_tf.geometry.iou import iou as iou_of
from fgfi_tf.models.shuffledet import coding

CLASS_WEIGHT = 1.0
CONFIDENCE_WEIGHT_OBJECT = 75.0
CONFIDENCE_WEIGHT_BACKGROUND = 100.0
BOX_WEIGHT = 5.0
LOG_EPSILON = 1e-16
# The published run had 8 images on each GPU; its losses count the objects of one GPU, and it takes the mean
# of the GPUs' gradients.
IMAGES_PER_GPU = 8


def split_predictions(predictions: tf.Tensor, num_shapes: int, num_classes: int) -> dict[str, tf.Tensor]:
    """Splits the channels of conv12: class logits, confidence logits, deltas (each anchor-major).

    Args:
        predictions: [B, h, w, num_shapes * (num_classes + 1 + 4)].

    Returns:
        float32 ``class_logits`` [B, A, num_classes], ``confidence_logits`` [B, A] and
        ``deltas`` [B, A, 4], with A = h * w * num_shapes.
    """
    predictions = tf.cast(predictions, tf.float32)
    sizes = [num_shapes * num_classes, num_shapes, num_shapes * 4]
    return split_parts(tf.split(predictions, sizes, axis=-1), num_shapes, num_classes)


def split_parts(parts: Sequence[tf.Tensor], num_shapes: int, num_classes: int) -> dict[str, tf.Tensor]:
    """As :func:`split_predictions`, of its three parts, float32 [B, h, w, ...] each."""
    classes, confidence, deltas = parts
    batch, height, width = (classes.shape[i] or tf.shape(classes)[i] for i in range(3))
    anchors = height * width * num_shapes
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
    iou = tf.stop_gradient(iou_of(corners_from_centres(decoded), corners_from_centres(boxes)))  # B x M
    confidence = tf.sigmoid(confidence_logits)  # B x A
    assigned = tf.gather(confidence, anchor_index, batch_dims=1)  # B x M
    on_object = tf.reduce_sum(tf.where(valid, tf.square(iou - assigned), 0.0))
    everywhere = tf.reduce_sum(tf.square(confidence))
    return on_object, everywhere - tf.reduce_sum(tf.where(valid, tf.square(assigned), 0.0))


def confidence_divisors(
    objects: tf.Tensor, images: tf.Tensor, anchors: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """What the two sums of :func:`confidence_losses` are divided by, besides their weights.

    The 2019 code, with B images and N objects on a GPU and A anchors in an image, has 75 / (N B) on the
    assigned anchors and 100 / ((A - N) B) on the others, and its recipe 4 GPUs with B = 8. So, for ``images``
    and ``objects`` of the whole batch and n = ``objects`` * min(8 / ``images``, 1), the objects of a GPU of
    the recipe, they are

    * ``objects`` * min(``images``, 8) for the assigned anchors, and
    * max(A - n, A / 2) * ``images`` for the others.

    That is the 2019 code for up to 8 images, and for more its mean over GPUs with as many objects each,
    however they are spread. A / 2 never counts with the recipe's A of 16,848. With a small input, n may come
    near A or exceed it; the background then weighs twice what it does without objects, and no more.

    Args:
        objects, images: counts of the whole batch (all replicas), float32 scalars.
        anchors: A, of one image, float32 scalar.
    """
    share = tf.minimum(images, float(IMAGES_PER_GPU))
    background = tf.maximum(anchors - objects * share / images, 0.5 * anchors)
    return tf.maximum(objects, 1.0) * share, background * images


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
        ``class_loss``, ``confidence_loss`` and ``box_loss``: the first and the last divided by the objects
        of the batch (0 where it has none), the second as :func:`confidence_divisors` says.
    """
    index, valid = targets["anchor_index"], targets["valid"]
    objects = tf.maximum(global_objects, 1.0)
    decoded = coding.decode(
        tf.gather(split["deltas"], index, batch_dims=1), tf.gather(anchors, index), *input_size
    )  # B x M x 4
    on_object, elsewhere = confidence_losses(
        split["confidence_logits"], decoded, index, targets["boxes"], valid
    )
    by_object, by_background = confidence_divisors(
        global_objects, global_images, tf.cast(tf.shape(anchors)[0], tf.float32)
    )
    confidence = CONFIDENCE_WEIGHT_OBJECT * on_object / by_object
    confidence += CONFIDENCE_WEIGHT_BACKGROUND * elsewhere / by_background
    return {
        "class_loss": class_loss(split["class_logits"], index, targets["classes"], valid) / objects,
        "confidence_loss": confidence,
        "box_loss": box_loss(split["deltas"], index, targets["deltas"], valid) / objects,
    }
