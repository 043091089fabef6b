"""Depthwise convolution with gradients that are fast on CPUs too.

On CPUs TensorFlow computes two of them slowly: the filter's of kernels wider than 3, and, in half precision,
the input's with stride 2.
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.devices import prefers_gpu_form

WINDOW = 3  # the widest kernel whose filter gradient is fast


def convolve(x: tf.Tensor, kernel: tf.Tensor, strides: int = 1) -> tf.Tensor:
    """A depthwise convolution with SAME padding.

    Args:
        x: [B, h, w, C].
        kernel: [k, k, C, 1].
        strides: along both sides.

    Returns:
        [B, ceil(h / strides), ceil(w / strides), C].
    """
    steps = [1, strides, strides, 1]
    wide = kernel.shape[0] > WINDOW
    half = strides > 1 and x.dtype != tf.float32
    if not (wide or half) or prefers_gpu_form():
        return tf.nn.depthwise_conv2d(x, kernel, steps, "SAME")

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(upstream):
            dtype = tf.float32 if half else x.dtype
            exact = tf.cast(kernel, dtype), tf.cast(upstream, dtype)
            of_x = tf.nn.depthwise_conv2d_backprop_input(tf.shape(x), *exact, steps, "SAME")
            of_x = tf.cast(of_x, x.dtype)
            if wide:
                return of_x, _wide_filter_gradient(x, kernel, upstream, strides)
            return of_x, tf.nn.depthwise_conv2d_backprop_filter(x, kernel.shape, upstream, steps, "SAME")

        return tf.nn.depthwise_conv2d(x, kernel, steps, "SAME"), gradient

    return convolution(x, kernel)


def _wide_filter_gradient(x: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor, strides: int) -> tf.Tensor:
    """The gradient of a wide kernel [k, k, C, 1], put together from those of 3 x 3 windows of it.

    The kernel's rows i .. i + 2 see the rows of the padded x from i on, and so do the columns.
    """
    size = kernel.shape[0]
    channels = x.shape[-1]
    outputs = tf.shape(upstream)[1:3]
    reach = (outputs - 1) * strides  # from the first window's start to the last's
    total = tf.maximum(reach + size - tf.shape(x)[1:3], 0)
    before = total // 2
    margins = tf.stack([[0, 0], [before[0], total[0] - before[0]], [before[1], total[1] - before[1]], [0, 0]])
    padded = tf.pad(x, margins)
    starts = [*range(0, size - WINDOW, WINDOW), size - WINDOW]  # the last two may overlap
    new = [start - previous for start, previous in zip(starts, [-WINDOW, *starts], strict=False)]

    def window(row: int, column: int) -> tf.Tensor:
        seen = tf.slice(
            padded, [0, row, column, 0], tf.concat([[-1], reach + WINDOW, [-1]], axis=0)
        )  # B x reach + 3 x reach + 3 x C
        return tf.nn.depthwise_conv2d_backprop_filter(
            seen, [WINDOW, WINDOW, channels, 1], upstream, [1, strides, strides, 1], "VALID"
        )

    rows = [
        tf.concat(
            [window(row, column)[:, WINDOW - fresh :] for column, fresh in zip(starts, new, strict=True)],
            axis=1,
        )[WINDOW - fresh_rows :]
        for row, fresh_rows in zip(starts, new, strict=True)
    ]
    return tf.concat(rows, axis=0)
