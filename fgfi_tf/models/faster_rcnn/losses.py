"""The four losses of Faster R-CNN, each divided by counts of the global batch."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from fgfi_tf.models.faster_rcnn import rpn
from fgfi_tf.models.faster_rcnn.conventions import REFERENCE, Convention
from fgfi_tf.replica import global_sum


def smooth_l1(difference: tf.Tensor, sigma: float = 1.0) -> tf.Tensor:
    """Element-wise: 0.5 (sigma d)^2 where |d| < 1 / sigma^2, |d| - 0.5 / sigma^2 elsewhere."""
    magnitude = tf.abs(difference)
    near = tf.cast(tf.stop_gradient(magnitude) < 1.0 / sigma**2, difference.dtype)
    return near * 0.5 * tf.square(sigma * difference) + (1.0 - near) * (magnitude - 0.5 / sigma**2)


def rpn_class_loss(
    scores: Sequence[tf.Tensor], labels: tf.Tensor, rules: Convention = REFERENCE
) -> tf.Tensor:
    """Cross-entropy of object against background, mean over the sampled anchors of the global batch.

    Args:
        scores: of the RPN, for each level [B,h,w,2K] or [B,h,w,K], see ``rpn.RPNHead``.
        labels: [B,A] 1 / 0 / -1 (not sampled), level after level.
        rules: see :class:`Convention`.
    """
    margin = tf.concat([rpn.margins(level, rules.paired_scores) for level in scores], axis=1)  # B x A
    used = tf.cast(labels >= 0, tf.float32)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(labels == 1, tf.float32), logits=margin)
    return _share(tf.reduce_sum(used * entropy), tf.reduce_sum(used))


def rpn_box_loss(
    deltas: Sequence[tf.Tensor], targets: tf.Tensor, labels: tf.Tensor, rules: Convention = REFERENCE
) -> tf.Tensor:
    """Smooth L1 over positives: sum / sampled anchors of an image, mean over the global batch.

    Or, where the convention says so, sum / sampled anchors of the global batch.

    Args:
        deltas: of the RPN, for each level [B,h,w,4K].
        targets: [B,A,4].
        labels: [B,A] 1 / 0 / -1 (not sampled).
        rules: see :class:`Convention`.
    """
    found = tf.concat([rpn.anchor_deltas(level) for level in deltas], axis=1)  # B x A x 4
    difference = tf.where((labels == 1)[..., None], found - targets, 0.0)
    per_image = tf.reduce_sum(smooth_l1(difference, rules.rpn_sigma), axis=[1, 2])  # B
    used = tf.reduce_sum(tf.cast(labels >= 0, tf.float32), axis=-1)  # B
    if not rules.box_mean_of_images:
        return _share(tf.reduce_sum(per_image), tf.reduce_sum(used))
    images = tf.cast(tf.shape(labels)[0], tf.float32)
    return _share(tf.reduce_sum(per_image / tf.maximum(used, 1.0)), images)


def rcnn_class_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy, mean over the sampled RoIs of the global batch.

    Args:
        logits: [B,R,1 + classes].
        labels: [B,R], 0 background, -1 no RoI.
    """
    used = tf.cast(labels >= 0, tf.float32)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.maximum(labels, 0), logits=tf.cast(logits, tf.float32)
    )
    return _share(tf.reduce_sum(used * entropy), tf.reduce_sum(used))


def rcnn_box_loss(
    deltas: tf.Tensor, targets: tf.Tensor, labels: tf.Tensor, rules: Convention = REFERENCE
) -> tf.Tensor:
    """Smooth L1 on the deltas of each foreground RoI's own class, mean over *all* sampled RoIs.

    Args:
        deltas: [B,R,4 (1 + classes)].
        targets: normalised deltas [B,R,4].
        labels: [B,R], 0 background, -1 no RoI.
        rules: see :class:`Convention`.
    """
    shape = tf.shape(labels)
    by_class = tf.reshape(tf.cast(deltas, tf.float32), [shape[0], shape[1], -1, 4])
    own = tf.gather(by_class, tf.maximum(labels, 0), axis=2, batch_dims=2)  # B x R x 4
    difference = tf.where((labels > 0)[..., None], own - targets, 0.0)
    used = tf.reduce_sum(tf.cast(labels >= 0, tf.float32))
    return _share(tf.reduce_sum(smooth_l1(difference, rules.rcnn_sigma)), used)


def _share(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """This replica's part of a mean over the global batch; 0 where nothing was counted."""
    return tf.math.divide_no_nan(total, global_sum(count))
