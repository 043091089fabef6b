"""A convolution with frozen, synchronised or folded batch norm, padded as the published ResNets pad."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.cpu_forms import halves
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.models.recomputed import recomputed

FROZEN, SYNCHRONISED = "frozen", "synchronised"
NORMS = (FROZEN, SYNCHRONISED)
EPSILON = 1e-5


class NormConv(keras.layers.Layer):
    """A convolution without bias, batch norm, and ReLU on request; padded by half its kernel on every side.

    TensorFlow's SAME padding shifts strided convolutions by a pixel against the published networks.

    Args:
        in_channels, filters: C_in, C_out.
        kernel_size, strides: of the square kernel.
        norm: ``"frozen"``: batch norm by stored statistics, scale and shift constant as well, multiplied into
            the kernel at each step; ``"synchronised"``: by those of the global batch while training.
        activation: whether a ReLU follows.
        gain: variance of the initial kernel times its fan in.
        folded: inference form, a kernel and a bias, not trainable; :meth:`fold_from` fills it.
        name: as in Keras.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        *,
        norm: str = FROZEN,
        activation: bool = True,
        gain: float = 2.0,
        folded: bool = False,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.in_channels, self.filters, self.gain = in_channels, filters, gain
        self.kernel_size, self.strides = kernel_size, strides
        self.frozen, self.activation, self.folded = norm == FROZEN, activation, folded
        self.norm = None
        if not folded:
            self.norm = BatchNorm(epsilon=EPSILON, name="bn", trainable=not self.frozen)

    def build(self, input_shape) -> None:
        """Creates kernel and batch norm, or kernel and bias."""
        size = self.kernel_size
        exact = {"dtype": tf.float32, "experimental_autocast": False, "trainable": not self.folded}
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size, self.in_channels, self.filters),
            initializer=keras.initializers.VarianceScaling(self.gain, "fan_in"),
            **exact,
        )
        if self.folded:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros", **exact)
        else:
            self.norm.build([None, None, None, self.filters])
        super().build(input_shape)

    def affine(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Scale and shift [C_out] that the stored statistics amount to."""
        norm = self.norm
        scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
        return scale, norm.beta - norm.moving_mean * scale

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B,h,w,C_in] to [B,ceil(h / strides),ceil(w / strides),C_out]."""
        kernel = tf.convert_to_tensor(self.kernel)
        if self.folded:
            return self.applied(inputs, kernel, tf.convert_to_tensor(self.bias))
        if self.frozen:
            scale, shift = self.affine()
            outputs = recomputed(lambda x, k, scale: self._convolve(x, k * scale), inputs, kernel, scale)
            return self._activate(tf.nn.bias_add(outputs, tf.cast(shift, inputs.dtype)))
        outputs = recomputed(self._convolve, inputs, kernel)
        return self._activate(self.norm(outputs, training=training))

    def applied(self, inputs: tf.Tensor, kernel: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        """The layer with a kernel [k,k,C_in,C_out] and a shift [C_out] in place of its own and batch norm."""
        outputs = self._convolve(inputs, kernel)
        return self._activate(tf.nn.bias_add(outputs, tf.cast(shift, inputs.dtype)))

    def _activate(self, outputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(outputs) if self.activation else outputs

    def _convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = tf.cast(kernel, inputs.dtype)
        if self.strides == 1 and self.kernel_size == 3:
            return halves.convolve(inputs, kernel)
        if self.kernel_size == 1:
            # The gradient of TensorFlow 2.21's own strided one (oneDNN) writes where it should not on CPUs.
            inputs = inputs[:, :: self.strides, :: self.strides]
            return tf.nn.conv2d(inputs, kernel, 1, "VALID")
        return tf.nn.conv2d(padded(inputs, self.kernel_size // 2), kernel, self.strides, "VALID")

    def fold_from(self, source: NormConv) -> None:
        """Takes over ``source``'s function in inference mode."""
        scale, shift = source.affine()
        self.kernel.assign(source.kernel * scale)
        self.bias.assign(shift)


def padded(x: tf.Tensor, size: int) -> tf.Tensor:
    """[B,h,w,C] with ``size`` zeros on each side of the map."""
    return tf.pad(x, [[0, 0], [size, size], [size, size], [0, 0]])
