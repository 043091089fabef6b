"""Proposals: the best regions of the RPN after non-maximum suppression."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry import nms
from fgfi_tf.models.faster_rcnn import box_coding


class Proposals(NamedTuple):
    """``boxes`` float32 [B,N,4] by descending score, zero rows at the end, and ``count`` int32 [B]."""

    boxes: tf.Tensor
    count: tf.Tensor


def foreground_probability(logits: tf.Tensor) -> tf.Tensor:
    """Objectness [B,A] from RPN scores [B,h,w,2K]: channels 0..K-1 are background, K..2K-1 objects."""
    background, foreground = tf.split(logits, 2, axis=-1)
    return tf.reshape(tf.sigmoid(foreground - background), [tf.shape(logits)[0], -1])


def propose(
    scores: tf.Tensor,
    boxes: tf.Tensor,
    pre_nms: int,
    post_nms: int,
    iou_threshold: float = 0.7,
    kind: str = "combined",
) -> Proposals:
    """The ``post_nms`` best boxes that survive NMS among the ``pre_nms`` highest scores.

    Args:
        scores: float32 [B,A]; rows of -inf take no part.
        boxes: clipped boxes, float32 [B,A,4], inclusive corners.
        pre_nms: how many of the highest scores enter NMS.
        post_nms: rows of the result.
        iou_threshold: a box goes if its IoU with a better one is above this.
        kind: of NMS, see ``nms.best_boxes``.

    No minimum size is asked of a box, as in the published models.
    """
    scores, order = tf.math.top_k(scores, k=tf.minimum(pre_nms, tf.shape(scores)[1]))  # B x P
    boxes = tf.gather(boxes, order, batch_dims=1)  # B x P x 4
    kept = nms.best_boxes(forms.continuous(boxes), scores, post_nms, iou_threshold, kind)
    exists = tf.sequence_mask(kept["count"], post_nms)[..., None]
    selected = tf.where(exists, forms.inclusive(kept["boxes"]), 0.0)  # B x N x 4
    return Proposals(tf.stop_gradient(selected), kept["count"])


def decode_proposals(anchors: tf.Tensor, deltas: tf.Tensor, content_size: tf.Tensor) -> tf.Tensor:
    """Clipped boxes [B,A,4]: RPN deltas [B,h,w,4K] on ``anchors`` [A,4] in pictures of ``content_size``."""
    flat = tf.reshape(tf.cast(deltas, tf.float32), [tf.shape(deltas)[0], -1, 4])  # B x A x 4
    return forms.clip(box_coding.decode(anchors, flat), content_size[:, None, :], inclusive=True)
