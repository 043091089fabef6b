"""Proposals: the best regions of the RPN after non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry import nms
from fgfi_tf.models.faster_rcnn import box_coding, rpn
from fgfi_tf.models.faster_rcnn.conventions import REFERENCE, Convention


class Proposals(NamedTuple):
    """``boxes`` float32 [B,N,4] by descending score, zero rows at the end, and ``count`` int32 [B]."""

    boxes: tf.Tensor
    count: tf.Tensor


def foreground_probability(scores: tf.Tensor, paired: bool = True) -> tf.Tensor:
    """Objectness [B,A] from RPN scores [B,h,w,2K]: channels 0..K-1 are background, K..2K-1 objects.

    Scores that are not ``paired``, [B,h,w,K], are of objects.
    """
    return tf.sigmoid(rpn.margins(scores, paired))


def decode_proposals(
    anchors: tf.Tensor, deltas: tf.Tensor, content_size: tf.Tensor, rules: Convention = REFERENCE
) -> tf.Tensor:
    """Clipped boxes [B,A,4]: RPN deltas [B,h,w,4K] on ``anchors`` [A,4] in pictures of ``content_size``."""
    boxes = box_coding.decode(anchors, rpn.anchor_deltas(deltas), rules=rules)
    return forms.clip(boxes, content_size[:, None, :], inclusive=rules.inclusive)


def propose(
    scores: Sequence[tf.Tensor],
    boxes: Sequence[tf.Tensor],
    pre_nms: int,
    post_nms: int,
    iou_threshold: float = 0.7,
    kind: str = "combined",
    inclusive: bool = True,
    smallest: float = 0.0,
) -> Proposals:
    """The ``post_nms`` best boxes of all levels that survive NMS among the best of their own level.

    Args:
        scores: for each level float32 [B,A]; rows of -inf take no part.
        boxes: for each level clipped boxes, float32 [B,A,4], corners.
        pre_nms: how many of a level's highest scores enter NMS.
        post_nms: rows of the result.
        iou_threshold: a box goes if its IoU with a better one of its level is above this.
        kind: of NMS, see ``nms.best_boxes``.
        inclusive: whether corners are.
        smallest: of the boxes that enter NMS those with a shorter side than this are dropped; the published
            models drop none.
    """
    kept = _best_of_all(
        [
            _best_of_level(*level, pre_nms, post_nms, iou_threshold, kind, inclusive, smallest)
            for level in zip(scores, boxes, strict=True)
        ],
        post_nms,
    )
    exists = tf.sequence_mask(kept["count"], post_nms)[..., None]
    selected = forms.inclusive(kept["boxes"]) if inclusive else kept["boxes"]
    return Proposals(tf.stop_gradient(tf.where(exists, selected, 0.0)), kept["count"])


def _best_of_level(scores, boxes, pre_nms, post_nms, iou_threshold, kind, inclusive, smallest):
    scores, order = tf.math.top_k(scores, k=tf.minimum(pre_nms, tf.shape(scores)[1]))  # B x P
    boxes = tf.gather(boxes, order, batch_dims=1)  # B x P x 4
    edges = forms.continuous(boxes) if inclusive else boxes
    if smallest > 0:
        large = tf.reduce_all(edges[..., 2:] - edges[..., :2] >= smallest, axis=-1)
        scores, order = tf.math.top_k(tf.where(large, scores, -float("inf")), k=tf.shape(scores)[1])
        edges = tf.gather(edges, order, batch_dims=1)
    return nms.best_boxes(edges, scores, post_nms, iou_threshold, kind)


def _best_of_all(levels: list[dict[str, tf.Tensor]], post_nms: int) -> dict[str, tf.Tensor]:
    """The best of what each level kept, by score; of equal ones the finer level's."""
    if len(levels) == 1:
        return levels[0]
    exists = tf.concat([tf.sequence_mask(level["count"], post_nms) for level in levels], axis=1)
    scores = tf.where(exists, tf.concat([level["scores"] for level in levels], axis=1), -float("inf"))
    _, order = tf.math.top_k(scores, k=post_nms)  # B x N
    boxes = tf.gather(tf.concat([level["boxes"] for level in levels], axis=1), order, batch_dims=1)
    total = sum(level["count"] for level in levels)  # oneDNN complains of AddN with integers
    return {"boxes": boxes, "count": tf.minimum(total, post_nms)}
