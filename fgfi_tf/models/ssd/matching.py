"""Which default box learns which ground truth (pure graph functions, vectorised over images).

Every default box with an IoU of at least 0.5 takes the ground truth that it overlaps most, and every ground
truth has a default box in any case. Which one differs where two ground truths want the same:

``each_best``
    its best one; the later ground truth in the list has it, the earlier may have none (torchvision, and
    PyTorch ports of SSD);
``bipartite``
    one of its own: again and again the best pair of those left (Caffe, the published code).
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.geometry.boxes import corners_from_centres
from fgfi_tf.geometry.crowds import last_row
from fgfi_tf.geometry.iou import pairwise_iou

MATCH_IOU = 0.5
RULES = ("bipartite", "each_best")


def match(boxes: tf.Tensor, valid: tf.Tensor, defaults: tf.Tensor, rule: str = "bipartite") -> tf.Tensor:
    """The ground truth of each default box.

    Args:
        boxes: float32 [B, M, 4], corners as fractions of the input.
        valid: bool [B, M], False for padding.
        defaults: float32 [A, 4], (cx, cy, w, h).
        rule: one of ``RULES``.

    Returns:
        int32 [B, A], index into the M, -1 for none.

    Raises ValueError for another rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; known are {', '.join(RULES)}")
    # A batch has room for the fullest image of all: what is padding in every image here costs nothing.
    most = last_row(valid)
    boxes, valid = boxes[:, :most], valid[:, :most]  # M is now as many as the fullest image of the batch has
    iou = pairwise_iou(boxes, corners_from_centres(defaults))  # B x M x A
    iou = tf.where(valid[..., None], iou, -1.0)
    padded = tf.pad(iou, [[0, 0], [0, 1], [0, 0]], constant_values=-1.0)  # one row where M is 0
    best = tf.where(
        tf.reduce_max(padded, axis=1) >= MATCH_IOU, tf.argmax(padded, axis=1, output_type=tf.int32), -1
    )
    own = _best_of_each(iou) if rule == "each_best" else _one_for_each(iou)
    own = tf.where(valid, own, -1)  # B x M: a default box for each, -1 for none
    return _take(best, own)


def _best_of_each(iou: tf.Tensor) -> tf.Tensor:
    return tf.argmax(iou, axis=-1, output_type=tf.int32)


def _one_for_each(iou: tf.Tensor) -> tf.Tensor:
    """int32 [B, M]: greedily by IoU, no default box twice; -1 for a ground truth that overlaps none left.

    Of equal pairs the first ground truth's goes first, then the first default box's. A pair that is the best
    of its ground truth's and of its default box's is taken whatever the others: all such pairs in one round,
    so that a crowd takes a few rounds and not one for each ground truth.
    """
    batch, count, anchors = tf.unstack(tf.shape(iou))
    # Of its best M default boxes at most M - 1 can go to others: no further ones are looked at.
    values, places = tf.math.top_k(iou, tf.minimum(count, anchors))  # B x M x K, of equal ones the first
    rows = tf.range(count)
    ids = places + tf.range(batch)[:, None, None] * anchors  # of all images' default boxes
    total = batch * anchors

    def a_round(values, waiting, own):
        left = tf.where(waiting[..., None], values, -1.0)
        rank = tf.argmax(left, axis=2, output_type=tf.int32)[..., None]  # B x M x 1, of equal ones the first
        best, place, own_id = (tf.gather(x, rank, batch_dims=2)[..., 0] for x in (left, places, ids))
        waiting &= best > 0.0  # some default box is left
        highest = tf.gather(tf.math.unsorted_segment_max(left, ids, total), ids)  # of the default box
        first = tf.where(left == highest, rows[:, None], count)
        first = tf.gather(tf.math.unsorted_segment_min(first, ids, total), own_id)
        taken = waiting & (first == rows)
        used = tf.math.unsorted_segment_max(tf.cast(taken, tf.int32), own_id, total) > 0
        values = tf.where(tf.gather(used, ids), -1.0, values)
        waiting, own = waiting & ~taken, tf.where(taken, place, own)
        return tuple(
            tf.ensure_shape(x, [None] * x_rank) for x, x_rank in ((values, 3), (waiting, 2), (own, 2))
        )

    *_, own = tf.while_loop(
        lambda _, waiting, own: tf.reduce_any(waiting),
        a_round,
        (values, tf.ones([batch, count], tf.bool), tf.fill([batch, count], -1)),
        parallel_iterations=1,
        shape_invariants=tuple(tf.TensorShape([None] * rank) for rank in (3, 2, 2)),
    )
    return tf.ensure_shape(own, iou.shape[:2])


def _take(best: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
    """``best`` [B, A], with each ground truth's default box ``own`` [B, M] given to it; the later wins."""
    batch, anchors = tf.unstack(tf.shape(best))
    count = tf.shape(own)[1]
    images = tf.tile(tf.range(batch)[:, None], [1, count])
    order = tf.tile(tf.range(count)[None], [batch, 1])
    # One place too many, for those without a default box.
    places = tf.stack([images, tf.where(own >= 0, own, anchors)], axis=-1)
    forced = tf.tensor_scatter_nd_max(tf.fill([batch, anchors + 1], -1), places, order)[:, :anchors]
    return tf.where(forced >= 0, forced, best)
