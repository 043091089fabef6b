"""Convolutions with batch normalisation, for networks of every family.

A grouped 1 x 1 convolution is computed as one dense matrix product with a block-diagonal kernel,
built from the grouped weights at each step: TensorFlow has no gradient of a grouped convolution on
CPUs, and splitting the channels costs more than multiplying by the zeros (figures:
``scripts/benchmark``). The channel shuffle that follows is only an order of that kernel's columns.

Trainable convolutions with batch norm also compute a few channels too many (``cpu_forms.channels``).
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.devices import differentiates_dilated, prefers_gpu_form
from fgfi_tf.models.cpu_forms import depthwise, halves, int8
from fgfi_tf.models.cpu_forms.channels import CHANNEL_MULTIPLE, pad_axes, padded_channels, pointwise
from fgfi_tf.models.normalization import BatchNorm


def he_normal() -> keras.initializers.Initializer:
    """Variance scaling as in the reference: truncated normal of variance 2 / fan in.

    One for each kernel: an initializer without seed that serves twice gives equal values.
    """
    return keras.initializers.VarianceScaling(2.0, mode="fan_in")


def block_diagonal(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """The dense kernel of a grouped 1 x 1 convolution.

    Args:
        kernel: [1, 1, C_in / groups, C_out], output channels group after group.
        groups: number of groups.

    Returns:
        [1, 1, C_in, C_out], zero outside the groups' blocks.
    """
    fan_in, channels = kernel.shape[2], kernel.shape[3]
    blocks = tf.transpose(tf.reshape(kernel, [fan_in, groups, -1]), [1, 0, 2])  # g x in x out
    dense = blocks[:, :, None, :] * tf.eye(groups, dtype=kernel.dtype)[:, None, :, None]  # g x in x g x out
    return tf.reshape(dense, [1, 1, groups * fan_in, channels])


def shuffle_channels(x: tf.Tensor, groups: int) -> tf.Tensor:
    """Channel g * n + j (group g, member j of n) moves to j * groups + g.

    Of a kernel [..., C_out] this lets the convolution's outputs come in shuffled order. The
    inverse is the shuffle with n groups.
    """
    members = tf.reshape(x, [-1, groups, x.shape[-1] // groups])
    known = x.shape[1:].is_fully_defined()  # ONNX then knows it too, whatever the number of images
    return tf.reshape(tf.linalg.matrix_transpose(members), [-1, *x.shape[1:]] if known else tf.shape(x))


_ACTIVATIONS = {"relu": tf.nn.relu, "relu6": tf.nn.relu6, "leaky": lambda x: tf.nn.leaky_relu(x, 0.1)}


class Conv3x3(keras.layers.Conv2D):
    """``Conv2D`` with a bias, stride 1, padded with zeros.

    Args:
        filters: output channels.
        kwargs: as for ``Conv2D``; ``kernel_size``, ``strides`` and ``padding`` are set here and ignored.
    """

    def __init__(self, filters: int, **kwargs):
        fixed = {"kernel_size": 3, "strides": 1, "padding": "same"}
        super().__init__(filters, **{**kwargs, **fixed})

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """[B,h,w,C] and [3,3,C,C'] to [B,h,w,C'], as Keras wants it of a convolution."""
        return halves.convolve(inputs, tf.convert_to_tensor(kernel))


class DilatedConv(keras.layers.Conv2D):
    """``Conv2D`` with a dilation rate, by the operation that has one, where that can be trained.

    Keras rearranges the map into one for each offset instead, filled up to one size, and convolves
    these: with a rate of 6 on 19 x 19 positions that takes 2.5 times as long (``scripts/benchmark/LOG.md``).
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """[B,h,w,C] and [k,k,C,C'] to [B,h',w',C'], as Keras wants it of a convolution."""
        if not differentiates_dilated(inputs.dtype):
            return super().convolution_op(inputs, kernel)
        padding, rate = self.padding.upper(), self.dilation_rate
        return tf.nn.conv2d(inputs, kernel, self.strides, padding, dilations=rate)


class ConvBN(keras.layers.Layer):
    """A convolution without bias, batch normalisation and, on request, ReLU.

    Inputs may have more than ``in_channels`` channels; those behind are zeros, for speed. The trainable form
    pads its outputs with such zeros up to ``padded_channels(filters)``.

    Args:
        in_channels: C_in.
        filters: C_out; C_in where ``depthwise``.
        kernel_size, strides: of the square kernel; SAME padding.
        groups: of a 1 x 1 convolution; the kernel is stored as [1, 1, C_in / groups, filters].
        shuffle_groups: the channel shuffle over so many groups follows (1: none). The batch
            norm's variables are in shuffled order.
        depthwise: a depthwise 3 x 3 convolution.
        activation: what follows: ``"relu"``, ``"relu6"``, ``"leaky"`` (slope 0.1) or None.
        epsilon, momentum: of the batch norm.
        folded: inference form: a kernel with the batch norm multiplied in, and a bias; not
            trainable. :meth:`fold_from` fills it. CPUs have a kernel for grouped convolution
            without gradient, which this form uses where the groups are wide enough to gain.
    """

    def __init__(
        self,
        in_channels,
        filters,
        kernel_size=1,
        strides=1,
        *,
        groups=1,
        shuffle_groups=1,
        depthwise=False,
        activation="relu",
        epsilon=1e-5,
        momentum=0.9,
        folded=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.in_channels, self.filters = in_channels, filters
        self.kernel_size, self.strides = kernel_size, strides
        self.groups, self.shuffle_groups, self.depthwise = groups, shuffle_groups, depthwise
        self.activation, self.folded = activation, folded
        self.splits = folded and groups > 1 and _grouped_is_faster(in_channels, filters, groups)
        self.norm = None if folded else BatchNorm(momentum, epsilon, name="bn")

    def build(self, input_shape) -> None:
        """Creates the kernel and, folded, the bias."""
        size, filters = self.kernel_size, self.filters
        if self.depthwise:
            shape = (size, size, filters, 1)
        else:
            dense = self.folded and not self.splits
            shape = (size, size, self.in_channels // (1 if dense else self.groups), filters)
        self.kernel = self.add_weight(
            name="kernel", shape=shape, dtype=tf.float32, initializer=he_normal(), trainable=not self.folded
        )
        if self.folded:
            self.bias = self.add_weight(
                name="bias", shape=(filters,), dtype=tf.float32, initializer="zeros", trainable=False
            )
        else:
            self.norm.build([None, None, None, filters])
        super().build(input_shape)

    def dense_kernel(self) -> tf.Tensor:
        """The kernel as one convolution applies it, [k, k, C_in, C_out] or [k, k, C, 1]."""
        kernel = tf.convert_to_tensor(self.kernel)
        if self.groups > 1:
            kernel = block_diagonal(kernel, self.groups)
        return shuffle_channels(kernel, self.shuffle_groups) if self.shuffle_groups > 1 else kernel

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, h, w, C_in or more] to [B, ceil(h / strides), ceil(w / strides), C_out or more]."""
        if self.folded:
            return self._call_folded(inputs)
        sizes = {2: inputs.shape[-1]} | ({} if self.depthwise else {3: padded_channels(self.filters)})
        kernel = pad_axes(tf.cast(self.dense_kernel(), inputs.dtype), sizes)
        outputs = pointwise(inputs, kernel) if self.kernel_size == 1 else self._convolve(inputs, kernel)
        return self._activate(self.norm(outputs, training=training))

    def _call_folded(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel, bias = tf.cast(self.kernel, inputs.dtype), tf.cast(self.bias, inputs.dtype)
        if self.strides == 1 and not (self.depthwise or self.splits):
            return int8.convolve(inputs, kernel, bias, self._activate)
        outputs = self._activate(tf.nn.bias_add(self._convolve(inputs, kernel), bias))
        shuffles = self.splits and self.shuffle_groups > 1
        return shuffle_channels(outputs, self.shuffle_groups) if shuffles else outputs

    def _activate(self, x: tf.Tensor) -> tf.Tensor:
        return x if self.activation is None else _ACTIVATIONS[self.activation](x)

    def _convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if self.depthwise:
            return depthwise.convolve(inputs, kernel, self.strides)
        return tf.nn.conv2d(inputs, kernel, strides=self.strides, padding="SAME")

    def fold_from(self, source: ConvBN) -> None:
        """Takes over ``source``'s function in inference mode: w * scale and beta - mean * scale."""
        norm = source.norm
        scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)  # C_out
        bias = norm.beta - norm.moving_mean * scale
        if self.splits:
            kernel = source.kernel
            if self.shuffle_groups > 1:  # batch norm follows the shuffle, bias and scale here precede it
                members = self.filters // self.shuffle_groups
                scale, bias = shuffle_channels(scale, members), shuffle_channels(bias, members)
        else:
            kernel = source.dense_kernel()
        self.kernel.assign(kernel * (scale[:, None] if self.depthwise else scale))
        self.bias.assign(bias)


def _grouped_is_faster(in_channels: int, filters: int, groups: int) -> bool:
    """Measured on CPUs; on GPUs a dense product of this size is."""
    narrow = min(in_channels, filters) // groups < CHANNEL_MULTIPLE
    return not narrow and not prefers_gpu_form()
