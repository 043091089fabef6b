"""Convolutions with batch normalisation, and the ShuffleNet unit made of them.

A grouped 1 x 1 convolution is computed as one dense matrix product with a block-diagonal kernel,
built from the grouped weights at each step: TensorFlow has no gradient of a grouped convolution on
CPUs, and splitting the channels costs more than multiplying by the zeros (figures:
``scripts/benchmark``). The channel shuffle that follows is only an order of that kernel's columns.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

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


def shuffle_columns(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """Lets a convolution's outputs come in shuffled order.

    Output channel g * n + j (group g, member j of n) moves to j * groups + g.

    Args:
        kernel: [..., C_out].
    """
    shape = kernel.shape.as_list()
    columns = tf.reshape(kernel, shape[:-1] + [groups, shape[-1] // groups])
    return tf.reshape(tf.linalg.matrix_transpose(columns), shape)


class ConvBN(keras.layers.Layer):
    """A convolution without bias, batch normalisation and, on request, ReLU.

    Args:
        filters: output channels (ignored where ``depthwise``).
        kernel_size, strides: of the square kernel; SAME padding.
        groups: of a 1 x 1 convolution; the kernel is stored as [1, 1, C_in / groups, filters].
        shuffle_groups: the channel shuffle over so many groups follows (1: none). The batch
            norm's variables are in shuffled order.
        depthwise: a depthwise 3 x 3 convolution.
        relu: whether ReLU follows.
        folded: inference form: one dense kernel with the batch norm multiplied in, and a bias;
            not trainable. :meth:`fold_from` fills it.
    """

    def __init__(
        self,
        filters,
        kernel_size=1,
        strides=1,
        *,
        groups=1,
        shuffle_groups=1,
        depthwise=False,
        relu=True,
        folded=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.groups, self.shuffle_groups, self.depthwise = groups, shuffle_groups, depthwise
        self.relu, self.folded = relu, folded
        self.norm = None if folded else BatchNorm(name="bn")

    def build(self, input_shape) -> None:
        """Creates the kernel (and, folded, the bias) for [B, h, w, C_in]."""
        size, channels = self.kernel_size, int(input_shape[-1])
        filters = channels if self.depthwise else self.filters
        if self.depthwise:
            shape = (size, size, channels, 1)
        else:
            shape = (size, size, channels if self.folded else channels // self.groups, filters)
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
        if self.folded:
            return kernel
        if self.groups > 1:
            kernel = block_diagonal(kernel, self.groups)
        return shuffle_columns(kernel, self.shuffle_groups) if self.shuffle_groups > 1 else kernel

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, h, w, C_in] to [B, ceil(h / strides), ceil(w / strides), C_out]."""
        kernel = tf.cast(self.dense_kernel(), inputs.dtype)
        if self.depthwise:
            strides = [1, self.strides, self.strides, 1]
            outputs = tf.nn.depthwise_conv2d(inputs, kernel, strides=strides, padding="SAME")
        else:
            outputs = tf.nn.conv2d(inputs, kernel, strides=self.strides, padding="SAME")
        if self.folded:
            outputs = tf.nn.bias_add(outputs, tf.cast(self.bias, outputs.dtype))
        else:
            outputs = self.norm(outputs, training=training)
        return tf.nn.relu(outputs) if self.relu else outputs

    def fold_from(self, source: ConvBN) -> None:
        """Takes over ``source``'s function in inference mode: w * scale and beta - mean * scale."""
        norm = source.norm
        scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)  # C_out
        kernel = source.dense_kernel()
        self.kernel.assign(kernel * (scale[:, None] if self.depthwise else scale))
        self.bias.assign(norm.beta - norm.moving_mean * scale)


class ShuffleUnit(keras.layers.Layer):
    """A ShuffleNet (v1) unit.

    1 x 1 to C / 4, ReLU, channel shuffle, depthwise 3 x 3, 1 x 1 to C. With stride 1 the input is
    added, then ReLU (or, with ``shortcut=False``, ReLU alone); with stride 2 the averaged input
    is concatenated in front of ReLU of the convolutions, which then give the missing channels.

    Args:
        channels: C.
        strides: 1 or 2.
        groups: of (the first, the second) 1 x 1 convolution. The shuffle has 3 groups always.
        shortcut: see above.
        folded: see :class:`ConvBN`.
    """

    SHUFFLE_GROUPS = 3

    def __init__(
        self, channels, in_channels, *, strides=1, groups=(3, 3), shortcut=True, folded=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.strides, self.shortcut = strides, shortcut
        expanded = channels - in_channels if strides == 2 else channels
        self.conv1 = ConvBN(
            channels // 4, groups=groups[0], shuffle_groups=self.SHUFFLE_GROUPS, folded=folded, name="conv1"
        )
        self.dconv = ConvBN(None, 3, strides, depthwise=True, relu=False, folded=folded, name="dconv")
        self.conv2 = ConvBN(expanded, groups=groups[1], relu=False, folded=folded, name="conv2")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, h, w, C_in] to [B, ceil(h / strides), ceil(w / strides), C]."""
        residual = self.conv2(
            self.dconv(self.conv1(inputs, training=training), training=training), training=training
        )
        if self.strides == 2:
            pooled = tf.nn.avg_pool2d(inputs, 3, 2, "SAME")
            return tf.concat([pooled, tf.nn.relu(residual)], axis=-1)
        return tf.nn.relu(inputs + residual if self.shortcut else residual)
