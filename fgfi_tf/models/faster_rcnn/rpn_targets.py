"""Targets of the region proposal network: which anchors are objects, and their deltas."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry.crowds import over_truths
from fgfi_tf.models.faster_rcnn import box_coding, sampling
from fgfi_tf.models.faster_rcnn.conventions import REFERENCE, Convention

POSITIVE_IOU = 0.7
NEGATIVE_IOU = 0.3


class RPNTargets(NamedTuple):
    """Per anchor: ``labels`` int32 [B,A] (1 object, 0 background, -1 not used), ``deltas`` [B,A,4]."""

    labels: tf.Tensor
    deltas: tf.Tensor


def assign(
    anchors: tf.Tensor,
    boxes: tf.Tensor,
    valid: tf.Tensor,
    content_size: tf.Tensor,
    rules: Convention = REFERENCE,
) -> RPNTargets:
    """Labels before sampling and deltas of every anchor (Ren et al. 2015, section 3.1.2).

    Only anchors wholly inside the picture take part, unless the convention is of the whole input. Label 1:
    IoU of at least 0.7 with some box, or the highest IoU of all anchors (every one on a tie) with some box;
    0: best IoU below 0.3; -1 otherwise. An anchor is regressed to the box that it overlaps most itself.

    Args:
        anchors: float32 [A,4].
        boxes: ground truth, float32 [B,M,4].
        valid: which rows of ``boxes`` are objects, bool [B,M].
        content_size: (h, w) of the picture inside the padded input, float32 [B,2].
        rules: see :class:`Convention`.
    """
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    shape = [tf.shape(boxes)[0], tf.shape(anchors)[0]]
    inside = tf.ones(shape, tf.bool) if rules.whole_input else forms.inside(anchors, content_size)  # B x A

    def of_some(state: tuple, start: tf.Tensor, boxes: tf.Tensor, valid: tf.Tensor) -> tuple:
        best_of_anchor, best_truth, is_best = state
        iou = box_coding.target_iou(anchors, boxes, valid, rules)  # B x A x rows
        if not rules.whole_input:
            iou = tf.where(inside[..., None], iou, -1.0)
        found, best_of_truth = tf.reduce_max(iou, axis=-1), tf.reduce_max(iou, axis=1, keepdims=True)
        here = start + tf.argmax(iou, axis=-1, output_type=tf.int32)
        return (
            tf.maximum(best_of_anchor, found),
            tf.where(found > best_of_anchor, here, best_truth),  # the first on a tie
            is_best | tf.reduce_any((iou == best_of_truth) & (best_of_truth > 0.0), axis=-1),
        )

    nothing = (tf.fill(shape, -1.0), tf.zeros(shape, tf.int32), tf.zeros(shape, tf.bool))
    best_of_anchor, best_truth, is_best = over_truths(of_some, nothing, boxes, valid)  # B x A each
    labels = tf.where(best_of_anchor < NEGATIVE_IOU, 0, -1)
    labels = tf.where(tf.logical_or(is_best, best_of_anchor >= POSITIVE_IOU), 1, labels)
    matched = tf.gather(boxes, best_truth, batch_dims=1)  # B x A x 4
    deltas = box_coding.encode(anchors, matched, rules=rules)
    return RPNTargets(
        labels=tf.stop_gradient(tf.where(inside, labels, -1)),
        deltas=tf.stop_gradient(tf.where(inside[..., None], deltas, 0.0)),
    )


def subsample(
    labels: tf.Tensor, random: tf.Tensor, batch_size: int = 256, positive_fraction: float = 0.5
) -> tf.Tensor:
    """Sets labels [B,A] to -1 at random until each image has at most ``batch_size`` used ones.

    At most ``positive_fraction`` of them are positives; negatives fill up the rest. ``random`` [A] in [0, 1).
    """
    positives = sampling.choose_at_most(
        labels == 1, tf.fill(tf.shape(labels)[:1], int(batch_size * positive_fraction)), random
    )
    room = batch_size - tf.reduce_sum(tf.cast(positives, tf.int32), axis=-1)  # B
    negatives = sampling.choose_at_most(labels == 0, room, random)
    return tf.where(positives, 1, tf.where(negatives, 0, -1))
