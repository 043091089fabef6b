"""Proposals: the best regions of the RPN after non-maximum suppression."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from fgfi_tf.models.faster_rcnn import box_coding

NMS_KINDS = ("combined", "padded")


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
    nms: str = "combined",
) -> Proposals:
    """The ``post_nms`` best boxes that survive NMS among the ``pre_nms`` highest scores.

    Args:
        scores: float32 [B,A]; rows of -inf take no part.
        boxes: clipped boxes, float32 [B,A,4], inclusive corners.
        pre_nms: how many of the highest scores enter NMS.
        post_nms: rows of the result.
        iou_threshold: a box goes if its IoU with a better one is above this.
        nms: ``"combined"`` (one kernel, exact, CPU and GPU) or ``"padded"`` (tensor operations only, for
            XLA).

    No minimum size is asked of a box, as in the published models.
    """
    scores, order = tf.math.top_k(scores, k=tf.minimum(pre_nms, tf.shape(scores)[1]))  # B x P
    boxes = tf.gather(boxes, order, batch_dims=1)  # B x P x 4
    # the library's IoU has no + 1: an inclusive box reaches to x2 + 1
    edges = boxes + tf.constant([0.0, 0.0, 1.0, 1.0])
    select = _combined if nms == "combined" else _padded
    selected, count = select(edges, scores, post_nms, iou_threshold)  # B x N x 4
    kept = tf.sequence_mask(count, post_nms)[..., None]
    selected = tf.where(kept, selected - tf.constant([0.0, 0.0, 1.0, 1.0]), 0.0)
    return Proposals(tf.stop_gradient(selected), count)


def _combined(edges, scores, post_nms, iou_threshold):
    result = tf.image.combined_non_max_suppression(
        edges[:, :, None, :],  # B x P x 1 x 4; IoU is the same with x and y exchanged
        scores[:, :, None],
        max_output_size_per_class=post_nms,
        max_total_size=post_nms,
        iou_threshold=iou_threshold,
        # scores are probabilities: only rows of -inf, which are no boxes, are left out
        score_threshold=-1.0,
        clip_boxes=False,
    )
    return result.nmsed_boxes, result.valid_detections


def _padded(edges, scores, post_nms, iou_threshold):
    indices, count = tf.image.non_max_suppression_padded(
        edges,
        scores,
        max_output_size=post_nms,
        iou_threshold=iou_threshold,
        score_threshold=-1.0,
        pad_to_max_output_size=True,
        sorted_input=True,
    )
    return tf.gather(edges, indices, batch_dims=1), count


def decode_proposals(anchors: tf.Tensor, deltas: tf.Tensor, content_size: tf.Tensor) -> tf.Tensor:
    """Clipped boxes [B,A,4]: RPN deltas [B,h,w,4K] on ``anchors`` [A,4] in pictures of ``content_size``."""
    flat = tf.reshape(tf.cast(deltas, tf.float32), [tf.shape(deltas)[0], -1, 4])  # B x A x 4
    return box_coding.clip(box_coding.decode(anchors, flat), content_size[:, None, :])
