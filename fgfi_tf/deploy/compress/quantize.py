"""Quantisation-aware training: what int8 does to weights and activations, done to them in every step.

The library quantises models of Keras' functional kind, layer by layer, by what a ``QuantizeConfig`` says of a
layer. Ours are of another kind and have layers that it does not know, so each has a config here, and its
``call`` is replaced by one that does what the config says. The variables stay what they are: such a student
is evaluated, exported and pruned like any other, and ``export.py --quantize=int8`` then finds weights and
ranges that int8 suits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.deploy.compress.library import tfmot
from fgfi_tf.errors import UserError
from fgfi_tf.models.backbones.efficientnet_lite import InvertedResidual
from fgfi_tf.models.backbones.keras_applications import KerasBackbone
from fgfi_tf.models.backbones.norm_conv import NormConv
from fgfi_tf.models.backbones.resnet import Block
from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.cpu_forms import depthwise
from fgfi_tf.models.cpu_forms.channels import pad_axes, padded_channels
from fgfi_tf.models.shuffledet.unit import ShuffleUnit

#: Ranges follow what is computed, whether a step trains or not: Keras tells that to no layer whose own call
#: does not ask, and what they are before, -6..6 for kernels, is far from what they become.
UPDATED = True
#: Layers whose own operation is a sum of what their convolutions give: they have an output and no kernel.
SUMS = (ShuffleUnit, Block, InvertedResidual)


class QuantizedLayers:
    """Layers of a model that compute as int8 will, from the time they are made until ``restore``.

    Batch norm is folded into the kernels, as it will be, with its averages, which stay as they are.

    Args:
        model: a built detector in float32.

    Raises:
        UserError: the library is not installed; the backbone is one of ``keras.applications``, whose batch
            norm and activations are layers of their own.
    """

    def __init__(self, model: keras.Model):
        if any(isinstance(layer, KerasBackbone) for layer in model._flatten_layers()):
            raise UserError(
                "--method=quantize: this student's backbone is one of keras.applications, whose layers it "
                "does not know; --method=prune does, and export.py --quantize=int8 without training, too"
            )
        library = tfmot().quantization.keras
        self._ranges = keras.layers.Layer(name="ranges")
        self._layers = list(_quantizable(model))
        for number, layer in enumerate(self._layers):
            config = make_config(library, layer)
            call = self._quantized(layer, config, number)
            object.__setattr__(layer, "call", tf.autograph.experimental.do_not_convert(call))

    @property
    def count(self) -> int:
        """How many layers there are."""
        return len(self._layers)

    def restore(self) -> None:
        """Gives the layers their own ``call`` back."""
        for layer in self._layers:
            object.__delattr__(layer, "call")

    def _quantized(self, layer: keras.layers.Layer, config: Any, number: int) -> Callable[..., tf.Tensor]:
        weights = [
            (
                quantizer,
                quantizer.build(_channels_last(layer, kernel).shape, f"kernel_{number}", self._ranges),
            )
            for kernel, quantizer in config.get_weights_and_quantizers(layer)
        ]
        outputs = [
            (quantizer, quantizer.build(None, f"output_{number}", self._ranges))
            for quantizer in config.get_output_quantizers(layer)
        ]
        plain = layer.call

        def of_kernel(kernel: tf.Tensor) -> tf.Tensor:
            for quantizer, ranges in weights:
                kernel = quantizer(_channels_last(layer, kernel), UPDATED, ranges)
                kernel = _channels_last(layer, kernel)
            return kernel

        def call(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
            if isinstance(layer, ConvBN | NormConv):
                found = folded_call(layer, inputs, of_kernel)
            elif isinstance(layer, keras.layers.Conv2D):
                found = layer.convolution_op(inputs, of_kernel(tf.convert_to_tensor(layer.kernel)))
                found = layer.activation(found + layer.bias if layer.use_bias else found)
            else:
                found = plain(inputs, training=training)
            for quantizer, ranges in outputs:
                found = quantizer(found, UPDATED, ranges)
            return found

        return call


def _quantizable(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, (ConvBN, NormConv, keras.layers.Conv2D, *SUMS)):
            yield layer


def _predicts(layer: keras.layers.Layer) -> bool:
    """Whether nothing of the network follows on its outputs."""
    return isinstance(layer, keras.layers.Conv2D) and layer.activation is keras.activations.linear


def _channels_last(layer: keras.layers.Layer, kernel: tf.Tensor) -> tf.Tensor:
    """A kernel with the axis that has ranges of its own last; its own inverse."""
    return tf.transpose(kernel, [0, 1, 3, 2]) if getattr(layer, "depthwise", False) else kernel


def folded_call(
    layer: ConvBN | NormConv, inputs: tf.Tensor, quantize: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """What the layer's folded form computes, from the trainable form's variables, all of them with gradients.

    Args:
        layer: in its trainable form.
        inputs: [B, h, w, C_in or more].
        quantize: of the kernel with batch norm multiplied in, [k, k, C_in / groups, C_out] or [k, k, C, 1].

    Returns:
        [B, h', w', C_out or more], zeros behind them, as of the trainable form.
    """
    if isinstance(layer, NormConv):
        scale, bias = layer.affine()
        return layer.applied(inputs, quantize(tf.convert_to_tensor(layer.kernel) * scale), bias)
    norm, kernel = layer.norm, tf.convert_to_tensor(layer.kernel)
    scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
    bias = norm.beta - norm.moving_mean * scale
    if layer.depthwise:
        kernel = pad_axes(quantize(kernel * scale[:, None]), {2: inputs.shape[-1]})
        found = depthwise.convolve(inputs, kernel, layer.strides)
    else:  # batch norm follows the shuffle, which is an order of the dense kernel's columns
        kernel = quantize(layer.dense_kernel() * scale)
        kernel = pad_axes(kernel, {2: inputs.shape[-1], 3: padded_channels(layer.filters)})
        found = tf.nn.conv2d(inputs, kernel, layer.strides, "SAME")
    return layer._activate(tf.nn.bias_add(found, pad_axes(bias, {0: found.shape[-1]})))


def make_config(library: Any, layer: keras.layers.Layer) -> Any:
    """The library's ``QuantizeConfig`` of one of our layers.

    Kernels have 8 bits with a range for each output channel around 0, activations 8 bits with one range, from
    the least to the largest value seen, as the converter does. Outputs of convolutions that predict are left
    alone.
    """
    quantizers = library.quantizers
    of_kernels = quantizers.LastValueQuantizer(8, per_axis=True, symmetric=True, narrow_range=True)
    of_outputs = quantizers.AllValuesQuantizer(8, per_axis=False, symmetric=False, narrow_range=False)

    class Config(library.QuantizeConfig):
        def get_weights_and_quantizers(self, layer: keras.layers.Layer) -> list:
            return [] if isinstance(layer, SUMS) else [(layer.kernel, of_kernels)]

        def get_activations_and_quantizers(self, layer: keras.layers.Layer) -> list:
            return []

        def set_quantize_weights(self, layer: keras.layers.Layer, quantize_weights: list) -> None:
            raise NotImplementedError("the layer's call is given them")

        def set_quantize_activations(self, layer: keras.layers.Layer, quantize_activations: list) -> None:
            """There are none."""

        def get_output_quantizers(self, layer: keras.layers.Layer) -> list:
            return [] if _predicts(layer) else [of_outputs]

        def get_config(self) -> dict:
            return {}

    return Config()
