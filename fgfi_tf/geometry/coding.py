"""Boxes as deltas from reference boxes (anchors, default boxes, RoIs), float32; pure graph functions.

Boxes and references are centres (cx, cy, w, h); ``boxes`` converts the forms. Families differ in what deltas
are divided by (SSD's "variances", Faster R-CNN's deviations), in how large a decoded size may become, and in
what counts as a width, which the conversion decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

# Of SSD's offsets and of Faster R-CNN's second stage.
DEVIATIONS = (0.1, 0.1, 0.2, 0.2)


def encode(boxes: tf.Tensor, references: tf.Tensor, deviations: Sequence[float] | None = None) -> tf.Tensor:
    """Deltas (dx, dy, dw, dh) [..., 4] of ``boxes`` [..., 4] from ``references`` [..., 4].

    dx is the centres' distance by the reference's width, dw the logarithm of the widths' ratio, each divided
    by its deviation.
    """
    (centres, sizes), (origins, units) = (tf.split(form, 2, axis=-1) for form in (boxes, references))
    deltas = tf.concat([(centres - origins) / units, tf.math.log(sizes / units)], axis=-1)
    return deltas if deviations is None else deltas / tf.constant(deviations)


def decode(
    deltas: tf.Tensor,
    references: tf.Tensor,
    deviations: Sequence[float] | None = None,
    exp: Callable[[tf.Tensor], tf.Tensor] = tf.exp,
) -> tf.Tensor:
    """The inverse of :func:`encode`, as continuous corners [..., 4] of ``deltas`` [..., 4].

    ``exp`` takes the place of the exponential, where very large sizes are to be limited.
    """
    if deviations is not None:
        deltas *= tf.constant(deviations)
    (shifts, growths), (origins, units) = (tf.split(form, 2, axis=-1) for form in (deltas, references))
    centres, half = shifts * units + origins, 0.5 * (exp(growths) * units)
    return tf.concat([centres - half, centres + half], axis=-1)


def linear_exp(x: tf.Tensor, threshold: float = 1.0) -> tf.Tensor:
    """exp(x) up to ``threshold`` and its slope's line, exp(threshold) * x, beyond (ShuffleDet)."""
    slope = tf.exp(threshold)
    return tf.where(x > threshold, slope * x, tf.exp(tf.minimum(x, threshold)))


def capped_exp(x: tf.Tensor, largest: float = 1000.0 / 16.0) -> tf.Tensor:
    """exp(x), at most ``largest`` (torchvision and Detectron2)."""
    return tf.exp(tf.minimum(x, tf.math.log(largest)))


def decode_in_cells(xy: tf.Tensor, wh: tf.Tensor, shapes: tf.Tensor) -> tf.Tensor:
    """Boxes whose centre stays in its cell (YOLOv2).

    Args:
        xy, wh: [B, h, w, K, 2], raw.
        shapes: of the anchors, float32 [K, 2], (width, height) in cells.

    Returns:
        [B, h, w, K, 4], (cx, cy, w, h) as fractions of the network input's width and height.
    """
    height, width = xy.shape[1] or tf.shape(xy)[1], xy.shape[2] or tf.shape(xy)[2]
    columns, rows = tf.meshgrid(tf.range(width), tf.range(height))  # h x w
    cells = tf.cast(tf.stack([columns, rows], axis=-1), tf.float32)[:, :, None]  # h x w x 1 x 2
    size = tf.cast(tf.stack([width, height]), tf.float32)
    return tf.concat([(cells + tf.sigmoid(xy)) / size, shapes * tf.exp(wh) / size], axis=-1)
