"""The anchor grid of the region proposal network.

Flat order everywhere: row, column, anchor within the cell; flat index = (y * W + x) * K + k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

BASE_SIZE = 16
RATIOS = (0.5, 1.0, 2.0)
SCALES = (8.0, 16.0, 32.0)


def base_anchors(
    base_size: int = BASE_SIZE, ratios: Sequence[float] = RATIOS, scales: Sequence[float] = SCALES
) -> np.ndarray:
    """Anchors of the cell at the origin, float32 [K,4] inclusive corners; h / w outer, scale inner.

    Each ratio keeps the area of the ``base_size`` square up to rounding of the sides to whole pixels; scales
    then multiply the sides about the centre of that square.
    """
    widths = np.round(np.sqrt(base_size**2 / np.asarray(ratios)))
    heights = np.round(widths * ratios)
    sizes = np.stack([widths, heights], axis=-1)[:, None, :] * np.asarray(scales)[None, :, None]
    sizes = sizes.reshape(-1, 2)  # K x 2 (w, h)
    center = 0.5 * (base_size - 1)
    return np.concatenate([center - 0.5 * (sizes - 1), center + 0.5 * (sizes - 1)], axis=-1).astype(
        np.float32
    )


def anchor_grid(
    height: int | tf.Tensor, width: int | tf.Tensor, stride: int = 16, base: np.ndarray | None = None
) -> tf.Tensor:
    """Anchors of a ``height`` x ``width`` feature map, float32 [height,width,K,4], inclusive input pixels."""
    base = base_anchors() if base is None else base
    x, y = tf.meshgrid(tf.range(width) * stride, tf.range(height) * stride)  # height x width
    shifts = tf.cast(tf.stack([x, y, x, y], axis=-1), tf.float32)
    return shifts[:, :, None, :] + tf.constant(base)


def inside(anchors: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Which anchors [A,4] lie wholly inside images of ``sizes`` [B,2] (h, w): bool [B,A]."""
    near = tf.reduce_all(anchors[:, :2] >= 0.0, axis=-1)  # A
    far = tf.reduce_all(anchors[None, :, 2:] < tf.reverse(sizes, [-1])[:, None, :], axis=-1)  # B x A
    return tf.logical_and(near[None], far)
