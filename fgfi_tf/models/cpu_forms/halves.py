"""A 3 x 3 convolution of one image as a batch of its two halves."""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.devices import prefers_plain_form

# From so many input channels on the two halves of an image take 0.5 to 0.75 of the time of the whole
# (scripts/benchmark/LOG.md).
HALVED_CHANNELS = 256


def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The convolution [B,h,w,C'] of [B,h,w,C] with [3,3,C,C'], padded with zeros; of one image in halves.

    A batch of one is slow: TensorFlow's oneDNN kernel leaves its weights in their plain order, which takes up
    to twice the time. The gradients do not suffer from it and are those of the whole image.
    """
    narrow = kernel.shape[2] < HALVED_CHANNELS
    if narrow or inputs.shape[0] not in (1, None) or prefers_plain_form():
        return tf.nn.conv2d(inputs, kernel, 1, "SAME")
    return halved_if_alone(inputs, kernel)


@tf.custom_gradient
def halved_if_alone(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The convolution [B,h,w,C'] of [B,h,w,C] with [3,3,C,C'], computed in halves where B is 1."""
    if inputs.shape[0] == 1:
        outputs = _in_halves(inputs, kernel)
    else:
        alone = tf.shape(inputs)[0] == 1
        outputs = tf.cond(
            alone, lambda: _in_halves(inputs, kernel), lambda: tf.nn.conv2d(inputs, kernel, 1, "SAME")
        )

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        options = {"out_backprop": upstream, "strides": [1, 1, 1, 1], "padding": "SAME"}
        return (
            tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(inputs), filter=kernel, **options),
            tf.raw_ops.Conv2DBackpropFilter(input=inputs, filter_sizes=tf.shape(kernel), **options),
        )

    return tf.ensure_shape(outputs, [*inputs.shape[:3], kernel.shape[3]]), gradient


def _in_halves(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Of any height; an odd one gets a row of zeros, which is cut off again."""
    height, width = tf.shape(inputs)[1], tf.shape(inputs)[2]
    half = (height + 1) // 2
    padded = tf.pad(inputs, [[0, 0], [1, 1 + 2 * half - height], [0, 0], [0, 0]])
    # Each half with the row above and the row below it.
    halves = tf.concat([padded[:, : half + 2], padded[:, half:]], axis=0)  # 2 x half + 2 x w x C
    outputs = tf.nn.conv2d(halves, kernel, 1, [[0, 0], [0, 0], [1, 1], [0, 0]])  # 2 x half x w x C'
    return tf.reshape(outputs, [1, 2 * half, width, kernel.shape[3]])[:, :height]
