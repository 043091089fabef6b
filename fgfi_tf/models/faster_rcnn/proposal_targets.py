"""Training RoIs of the second stage: which proposals it sees and what it should say of them."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from fgfi_tf.geometry import coding
from fgfi_tf.models.faster_rcnn import box_coding, sampling
from fgfi_tf.models.faster_rcnn.conventions import REFERENCE, Convention


class Candidates(NamedTuple):
    """Proposals and ground truth boxes, each with the ground truth box that it overlaps most.

    ``boxes`` [B,N,4]; ``best_iou`` [B,N], -1 for padding rows; ``best_truth`` int32 [B,N].
    """

    boxes: tf.Tensor
    best_iou: tf.Tensor
    best_truth: tf.Tensor


class RoITargets(NamedTuple):
    """``boxes`` and normalised ``deltas`` [B,R,4], ``labels`` int32 [B,R] (0 background, -1 no RoI)."""

    boxes: tf.Tensor
    labels: tf.Tensor
    deltas: tf.Tensor


def match(
    proposals: tf.Tensor,
    boxes: tf.Tensor,
    valid: tf.Tensor,
    count: tf.Tensor | None = None,
    rules: Convention = REFERENCE,
) -> Candidates:
    """Proposals [B,P,4], then ground truth [B,M,4]; of each the best box (the first on a tie).

    ``count`` int32 [B]: how many of the proposals are some; needed where corners are not inclusive, since
    padding rows cannot be told there.
    """
    # a row that is not valid must be no candidate, whatever it holds
    ground_truth = tf.where(valid[..., None], boxes, 0.0)
    candidates = tf.concat([proposals, ground_truth], axis=1)  # B x (P + M) x 4
    iou = box_coding.target_iou(candidates, boxes, valid, rules)
    if not rules.inclusive:
        exists = tf.concat([tf.sequence_mask(count, tf.shape(proposals)[1]), valid], axis=1)  # B x (P + M)
        iou = tf.where(exists[..., None], iou, -1.0)
    return Candidates(candidates, tf.reduce_max(iou, axis=-1), tf.argmax(iou, axis=-1, output_type=tf.int32))


def normalized_deltas(rois: tf.Tensor, boxes: tf.Tensor, rules: Convention = REFERENCE) -> tf.Tensor:
    """Deltas [..., 4] of ``boxes`` on ``rois``, divided by their usual deviations (0.1, 0.1, 0.2, 0.2)."""
    return box_coding.encode(rois, boxes, coding.DEVIATIONS, rules)


def sample(
    candidates: Candidates,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    priorities: tf.Tensor,
    draws: tf.Tensor,
    foreground_fraction: float = 0.25,
    foreground_iou: float = 0.5,
    background_iou: float = 0.0,
) -> RoITargets:
    """Draws R RoIs per image, foreground first.

    Foreground (IoU of at least ``foreground_iou``) is drawn without replacement up to its share, background
    (``background_iou`` <= IoU < ``foreground_iou``) with replacement; where an image has only one kind, all R
    are drawn from it with replacement.

    Args:
        candidates: what ``match`` returned.
        boxes: ground truth [B,M,4].
        classes: their classes 1..C (0 is background), int32 [B,M].
        priorities: uniform [0, 1) float32 [N], for each candidate.
        draws: uniform [0, 1) float32 [R], for each RoI; R is static.
        foreground_fraction: the most foreground, as a part of R.
        foreground_iou: see above.
        background_iou: see above.
    """
    rois = draws.shape[0]
    foreground = candidates.best_iou >= foreground_iou
    background = tf.logical_and(candidates.best_iou >= background_iou, tf.logical_not(foreground))
    available = tf.reduce_sum(tf.cast(foreground, tf.int32), axis=-1, keepdims=True)  # B x 1
    has_background = tf.reduce_any(background, axis=-1, keepdims=True)
    quota = int(rois * foreground_fraction)
    of_foreground = tf.where(has_background, tf.minimum(quota, available), rois * tf.minimum(available, 1))

    distinct = sampling.first_members(foreground, quota, priorities)  # B x quota
    distinct = tf.pad(distinct, [[0, 0], [0, rois - quota]])
    repeated = sampling.draw_with_replacement(foreground, draws)
    chosen_foreground = tf.where(has_background, distinct, repeated)
    is_foreground = tf.range(rois)[None] < of_foreground  # B x R
    chosen = tf.where(is_foreground, chosen_foreground, sampling.draw_with_replacement(background, draws))

    any_kind = tf.logical_or(available > 0, has_background)
    return _targets(candidates, boxes, classes, chosen, is_foreground, any_kind, REFERENCE)


def sample_distinct(
    candidates: Candidates,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    priorities: tf.Tensor,
    count: int,
    rules: Convention,
    foreground_fraction: float = 0.25,
    foreground_iou: float = 0.5,
) -> RoITargets:
    """Draws at most R = ``count`` different RoIs per image, foreground first, as torchvision does.

    Foreground (IoU of at least ``foreground_iou``) up to its share, then background. An image with fewer
    candidates has rows of label -1 at the end. Further arguments as for :func:`sample`.
    """
    foreground = candidates.best_iou >= foreground_iou  # B x N
    background = tf.logical_and(candidates.best_iou >= 0.0, tf.logical_not(foreground))
    quota = tf.fill(tf.shape(foreground)[:1], int(count * foreground_fraction))
    foreground = sampling.choose_at_most(foreground, quota, priorities)
    rest = count - tf.reduce_sum(tf.cast(foreground, tf.int32), axis=-1)  # B
    background = sampling.choose_at_most(background, rest, priorities)
    kind = tf.where(foreground, 2, tf.where(background, 1, 0))  # B x N
    kind, chosen = tf.math.top_k(tf.pad(kind, [[0, 0], [0, count]]), k=count)  # B x R
    chosen = tf.minimum(chosen, tf.shape(foreground)[1] - 1)
    return _targets(candidates, boxes, classes, chosen, kind == 2, kind > 0, rules)


def _targets(candidates, boxes, classes, chosen, is_foreground, is_roi, rules) -> RoITargets:
    """Those of the ``chosen`` candidates, int32 [B,R], of which some are no RoI."""
    roi_boxes = tf.gather(candidates.boxes, chosen, batch_dims=1)  # B x R x 4
    truth = tf.gather(candidates.best_truth, chosen, batch_dims=1)  # B x R
    labels = tf.where(is_foreground, tf.gather(classes, truth, batch_dims=1), 0)
    labels = tf.where(is_roi, labels, -1)
    deltas = normalized_deltas(roi_boxes, tf.gather(boxes, truth, batch_dims=1), rules)
    deltas = tf.where((labels > 0)[..., None], deltas, 0.0)
    return RoITargets(*(tf.stop_gradient(t) for t in (roi_boxes, labels, deltas)))
