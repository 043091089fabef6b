"""A 3 x 3 convolution that is as fast on one image as on several."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.devices import prefers_gpu_form

# From so many input channels on the two halves of an image take 0.5 to 0.75 of the time of the whole
# (scripts/benchmark/LOG.md).
HALVED_CHANNELS = 256


class Conv3x3(keras.layers.Conv2D):
    """``Conv2D`` with stride 1, padded with zeros; on CPUs one wide image is computed as a batch of two.

    TensorFlow's oneDNN kernel leaves the weights of a batch of one in their plain order, which takes up to
    twice the time. The gradients do not suffer from it and are those of the whole image.

    Args:
        filters: output channels.
        kwargs: as for ``Conv2D``; size, stride and padding are what they are.
    """

    def __init__(self, filters: int, **kwargs):
        fixed = {"kernel_size": 3, "strides": 1, "padding": "same"}
        super().__init__(filters, **{**kwargs, **fixed})

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """[B,h,w,C] and [3,3,C,C'] to [B,h,w,C'], as Keras wants it of a convolution."""
        narrow = kernel.shape[2] < HALVED_CHANNELS
        if narrow or inputs.shape[0] not in (1, None) or prefers_gpu_form():
            return super().convolution_op(inputs, kernel)
        return halved_if_alone(inputs, tf.convert_to_tensor(kernel))


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
