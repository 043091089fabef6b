"""Channels filled up with zeros, and matrix products in place of 1 x 1 convolutions.

Batch norm on CPUs takes two to five times as long for 30 or 120 channels as for 32 or 128, and tensor cores
like such numbers too. Variables, checkpoints and outputs of a network know nothing of it.
"""

from __future__ import annotations

import tensorflow as tf

CHANNEL_MULTIPLE = 16  # float32 values in the widest vector register


def pointwise(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A 1 x 1 convolution as a matrix product, whose gradients CPUs compute faster.

    Args:
        x: [B, h, w, C_in].
        kernel: [1, 1, C_in, C_out].

    Returns:
        [B, h, w, C_out].
    """
    product = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel[0, 0])
    return tf.reshape(product, tf.concat([tf.shape(x)[:-1], kernel.shape[-1:]], axis=0))


def padded_channels(channels: int) -> int:
    """The next multiple of ``CHANNEL_MULTIPLE``."""
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def pad_axes(x: tf.Tensor, sizes: dict[int, int]) -> tf.Tensor:
    """Zeros behind ``x``, up to the given size of each named axis."""
    margins = [[0, sizes.get(axis, size) - size] for axis, size in enumerate(x.shape)]
    return tf.pad(x, margins) if any(last for _, last in margins) else x


def first_channels(x: tf.Tensor, count: int) -> tf.Tensor:
    """[B, h, w, C] to [B, h, w, count]: ``x`` without its padding."""
    # Not x[..., :count]: the gradient of a strided slice is ten times as slow on CPUs.
    return x if x.shape[-1] == count else tf.slice(x, [0, 0, 0, 0], [-1, -1, -1, count])
