"""Forms that int8 files are faster with; float32 files and TensorFlow's own kernels are not.

XNNPACK, which runs TFLite files on CPUs, has no average pooling of int8, and its convolutions fill input
channels up to 8 and output channels up to 16 (figures: ``scripts/benchmark/LOG.md``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import tensorflow as tf

from fgfi_tf.devices import prefers_int8_form

WINDOW, STRIDE = 3, 2  # of the pooling


def average_pool(x: tf.Tensor) -> tf.Tensor:
    """The mean of 3 x 3 positions in steps of 2, SAME padding, which takes no part in the mean.

    Args:
        x: [B, h, w, C]; of known h, w and C for int8.

    Returns:
        [B, ceil(h / 2), ceil(w / 2), C].
    """
    if not prefers_int8_form():
        return tf.nn.avg_pool2d(x, WINDOW, STRIDE, "SAME")
    rows = []
    for top, bottom, height in _spans(x.shape[1]):
        row = []
        for left, right, width in _spans(x.shape[2]):
            mean = tf.fill([height, width, x.shape[3], 1], tf.constant(1 / (height * width), x.dtype))
            # The converter would keep a slice of everything, and the file copy it.
            whole = (top, bottom, left, right) == (0, x.shape[1], 0, x.shape[2])
            part = x if whole else x[:, top:bottom, left:right]
            row.append(tf.nn.depthwise_conv2d(part, mean, [1, STRIDE, STRIDE, 1], "VALID"))
        rows.append(tf.concat(row, axis=2))
    return tf.concat(rows, axis=1)


def _spans(size: int) -> list[tuple[int, int, int]]:
    """(begin, end, window): the stretches of a side in which windows of one length lie inside the image."""
    count = -(-size // STRIDE)
    before = max((count - 1) * STRIDE + WINDOW - size, 0) // 2
    windows = []
    for first in range(-before, count * STRIDE - before, STRIDE):
        begin, end = max(first, 0), min(first + WINDOW, size)
        windows.append((begin, end, (begin - first, end - begin)))
    spans = []
    for (_, length), group in itertools.groupby(windows, lambda window: window[2]):
        inside = list(group)
        # A position more starts no further window and, where it is the last, saves cutting a part out.
        spans.append((inside[0][0], min(inside[-1][1] + STRIDE - 1, size), length))
    return spans


def convolve(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, activate: Callable[[tf.Tensor], tf.Tensor] = tf.identity
) -> tf.Tensor:
    """A convolution with stride 1 and SAME padding; of few channels as one of neighbouring columns at once.

    Args:
        x: [B, h, w, C_in]; of known h and w for int8.
        kernel: [k, k, C_in, C_out], k odd.
        bias: [C_out].
        activate: what follows, a function of each value alone.

    Returns:
        [B, h, w, C_out].
    """
    size, channels, filters = kernel.shape[1:]
    columns = _columns(x.shape[2], channels, size) if prefers_int8_form() else 1
    if columns == 1:
        return activate(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
    total = columns * size  # columns that a tap sees
    first = (columns - 1) * (size // 2)  # where column 0 begins
    shifted = [
        tf.pad(kernel, [[0, 0], [first + n, total - size - first - n], [0, 0], [0, 0]])
        for n in range(columns)
    ]  # for each column k x columns * k x C_in x C_out
    wide = tf.reshape(tf.stack(shifted, axis=3), [size, size, columns * channels, columns * filters])
    height, width = x.shape[1:3]
    joined = tf.reshape(x, [-1, height, width // columns, columns * channels])
    outputs = tf.nn.bias_add(tf.nn.conv2d(joined, wide, 1, "SAME"), tf.tile(bias, [columns]))
    return tf.reshape(activate(outputs), [-1, height, width, filters])


def _columns(width: int, channels: int, size: int) -> int:
    """How many columns at once fill up the channels of a square kernel's taps."""
    room = 16 if size == 1 else 8  # 1 x 1: no tap is there for a neighbour
    return next((n for n in (4, 2) if n * channels <= room and width % n == 0), 1)
