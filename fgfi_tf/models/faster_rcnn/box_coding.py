"""Deltas between boxes as a Faster R-CNN counts pixels, and the IoU that it assigns targets by.

Boxes are float32 corners (x1, y1, x2, y2), 0-based: inclusive ones, width = x2 - x1 + 1, as in the published
models, unless the convention has edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry import coding
from fgfi_tf.geometry.iou import pairwise_iou
from fgfi_tf.models.faster_rcnn.conventions import REFERENCE, Convention


def encode(
    references: tf.Tensor,
    boxes: tf.Tensor,
    deviations: Sequence[float] | None = None,
    rules: Convention = REFERENCE,
) -> tf.Tensor:
    """Deltas (dx, dy, dw, dh) [..., 4] that turn ``references`` [..., 4] into ``boxes`` [..., 4]."""
    centres = (forms.centres_from_corners(corners, rules.inclusive) for corners in (boxes, references))
    return coding.encode(*centres, deviations)


def decode(
    references: tf.Tensor,
    deltas: tf.Tensor,
    deviations: Sequence[float] | None = None,
    rules: Convention = REFERENCE,
) -> tf.Tensor:
    """Boxes [..., 4] from deltas [..., 4] on ``references`` (broadcast against ``deltas``).

    As in the published models x2 = centre + width / 2 without a final - 1: a decoded box of inclusive corners
    is one pixel larger to the right and below than the encoded one.
    """
    centres = forms.centres_from_corners(references, rules.inclusive)
    return coding.decode(deltas, centres, deviations, coding.capped_exp if rules.capped else tf.exp)


def target_iou(
    candidates: tf.Tensor, boxes: tf.Tensor, valid: tf.Tensor, rules: Convention = REFERENCE
) -> tf.Tensor:
    """IoU [B,N,M] that targets are assigned by, with the rules of the published code for one-pixel boxes.

    A row that is not ``valid`` has IoU 0 with everything. Of inclusive corners a box of exactly one pixel has
    it, too, and a candidate of exactly one pixel (a zero padding proposal) has -1 with everything, which no
    threshold accepts.

    Args:
        candidates: anchors or RoIs [N,4] or [B,N,4].
        boxes: ground truth [B,M,4].
        valid: which of them are objects, bool [B,M].
        rules: see :class:`Convention`.
    """
    if not rules.inclusive:
        return tf.where(valid[:, None, :], pairwise_iou(candidates, boxes), 0.0)
    usable = tf.logical_and(valid, tf.logical_not(forms.is_one_pixel(boxes)))  # B x M
    iou = tf.where(usable[:, None, :], pairwise_iou(candidates, boxes, inclusive=True), 0.0)
    return tf.where(forms.is_one_pixel(candidates)[..., None], -1.0, iou)
