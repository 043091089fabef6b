"""Deltas between boxes as the published Faster R-CNN counts pixels, and the IoU that it assigns targets by.

Boxes are float32 inclusive corners (x1, y1, x2, y2), 0-based: width = x2 - x1 + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry import coding
from fgfi_tf.geometry.iou import pairwise_iou


def encode(references: tf.Tensor, boxes: tf.Tensor, deviations: Sequence[float] | None = None) -> tf.Tensor:
    """Deltas (dx, dy, dw, dh) [..., 4] that turn ``references`` [..., 4] into ``boxes`` [..., 4]."""
    centres = (forms.centres_from_corners(corners, inclusive=True) for corners in (boxes, references))
    return coding.encode(*centres, deviations)


def decode(references: tf.Tensor, deltas: tf.Tensor, deviations: Sequence[float] | None = None) -> tf.Tensor:
    """Boxes [..., 4] from deltas [..., 4] on ``references`` (broadcast against ``deltas``).

    As in the published models x2 = centre + width / 2 without a final - 1: a decoded box is one
    pixel larger to the right and below than the encoded one. Sizes are not limited before exp.
    """
    centres = forms.centres_from_corners(references, inclusive=True)
    return coding.decode(deltas, centres, deviations)


def target_iou(candidates: tf.Tensor, boxes: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """IoU [B,N,M] that targets are assigned by, with the rules of the published code for one-pixel boxes.

    A box of exactly one pixel, and a row that is not ``valid``, has IoU 0 with everything; a candidate of
    exactly one pixel (a zero padding proposal) has -1 with everything, which no threshold accepts.

    Args:
        candidates: anchors or RoIs [N,4] or [B,N,4].
        boxes: ground truth [B,M,4].
        valid: which of them are objects, bool [B,M].
    """
    usable = tf.logical_and(valid, tf.logical_not(forms.is_one_pixel(boxes)))  # B x M
    iou = tf.where(usable[:, None, :], pairwise_iou(candidates, boxes, inclusive=True), 0.0)
    return tf.where(forms.is_one_pixel(candidates)[..., None], -1.0, iou)
