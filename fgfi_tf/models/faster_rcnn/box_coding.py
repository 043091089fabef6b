"""Box geometry of Faster R-CNN: IoU of inclusive boxes, delta coding, clipping.

Boxes are (x1, y1, x2, y2), float32, 0-based inclusive pixel corners: width = x2 - x1 + 1.
"""

from __future__ import annotations

import tensorflow as tf

Tensor = tf.Tensor


def centers_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (x, y) = corner + size / 2 and size (w, h) of inclusive boxes [..., 4], each [..., 2]."""
    sizes = boxes[..., 2:] - boxes[..., :2] + 1.0
    return boxes[..., :2] + 0.5 * sizes, sizes


def encode(references: Tensor, boxes: Tensor) -> Tensor:
    """Deltas (dx, dy, dw, dh) [..., 4] that turn ``references`` [..., 4] into ``boxes`` [..., 4].

    dx = (box centre - reference centre) / reference width, dw = ln(box width / reference width).
    """
    reference_centers, reference_sizes = centers_and_sizes(references)
    centers, sizes = centers_and_sizes(boxes)
    shifts = (centers - reference_centers) / reference_sizes
    return tf.concat([shifts, tf.math.log(sizes / reference_sizes)], axis=-1)


def decode(references: Tensor, deltas: Tensor) -> Tensor:
    """Boxes [..., 4] from deltas [..., 4] on ``references`` (broadcast against ``deltas``).

    As in the published models x2 = centre + width / 2 without a final - 1: a decoded box is one
    pixel larger to the right and below than the encoded one. Sizes are not limited before exp.
    """
    reference_centers, reference_sizes = centers_and_sizes(references)
    centers = deltas[..., :2] * reference_sizes + reference_centers
    half_sizes = 0.5 * tf.exp(deltas[..., 2:]) * reference_sizes
    return tf.concat([centers - half_sizes, centers + half_sizes], axis=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Limits boxes [..., 4] to x in [0, w - 1] and y in [0, h - 1]; ``sizes`` [..., 2] is (h, w)."""
    far = tf.stack([sizes[..., 1], sizes[..., 0], sizes[..., 1], sizes[..., 0]], axis=-1) - 1.0
    return tf.maximum(tf.minimum(boxes, far), 0.0)


def is_one_pixel(boxes: Tensor) -> Tensor:
    """Where width and height are both exactly 1, [...] bool: zero padding rows and true one-pixel boxes."""
    return tf.reduce_all(boxes[..., :2] == boxes[..., 2:], axis=-1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of inclusive boxes [..., N, 4] and [..., M, 4]: [..., N, M]."""
    a = first[..., :, None, :]  # ... x N x 1 x 4
    b = second[..., None, :, :]  # ... x 1 x M x 4
    overlap = tf.maximum(tf.minimum(a[..., 2:], b[..., 2:]) - tf.maximum(a[..., :2], b[..., :2]) + 1.0, 0.0)
    intersection = overlap[..., 0] * overlap[..., 1]  # ... x N x M
    return intersection / (_area(a) + _area(b) - intersection)


def target_iou(candidates: Tensor, truths: Tensor, valid: Tensor) -> Tensor:
    """IoU [B,N,M] that targets are assigned by, with the rules of the published code for one-pixel boxes.

    A truth of exactly one pixel, and a row that is not ``valid``, has IoU 0 with everything; a candidate of
    exactly one pixel (a zero padding proposal) has -1 with everything, which no threshold accepts.

    Args:
        candidates: anchors or RoIs [N,4] or [B,N,4].
        truths: boxes [B,M,4].
        valid: which of them are objects, bool [B,M].
    """
    usable = tf.logical_and(valid, tf.logical_not(is_one_pixel(truths)))  # B x M
    iou = tf.where(usable[:, None, :], pairwise_iou(candidates, truths), 0.0)
    return tf.where(is_one_pixel(candidates)[..., None], -1.0, iou)


def _area(boxes: Tensor) -> Tensor:
    sizes = boxes[..., 2:] - boxes[..., :2] + 1.0
    return sizes[..., 0] * sizes[..., 1]
