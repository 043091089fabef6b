"""Classifiers of ``keras.applications`` as backbones. Another one is one entry of ``APPLICATIONS``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models import pixels
from fgfi_tf.models.backbones import pretrained
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.normalization import BatchNorm

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True)
class Application:
    """A classifier of ``keras.applications``.

    Attributes:
        function: its name there.
        taps: stride -> name of the layer that gives the last map of it.
        pixels: what it was trained on, the layers that scale its inputs included.
        takes_any_size: it pads alike whatever the size of its inputs.
    """

    function: str
    taps: Mapping[int, str]
    pixels: pixels.Pixels
    takes_any_size: bool = False


APPLICATIONS = {
    "mobilenet_v2": Application(
        "MobileNetV2",
        {4: "block_2_add", 8: "block_5_add", 16: "block_12_add", 32: "block_16_project_BN"},
        pixels.SIGNED,
    ),
    "efficientnet_b0": Application(
        "EfficientNetB0",
        {4: "block2b_add", 8: "block3b_add", 16: "block5c_add", 32: "block7a_project_bn"},
        pixels.NORMALIZED,
    ),
    "resnet50": Application(
        "ResNet50",
        {4: "conv2_block3_out", 8: "conv3_block4_out", 16: "conv4_block6_out", 32: "conv5_block3_out"},
        pixels.CAFFE,
        takes_any_size=True,
    ),
}


def without_top(name: str, input_size: tuple[int, int] | None, weights: str | None = None) -> keras.Model:
    """The network of ``APPLICATIONS[name]`` as Keras builds it, without its classifier."""
    function = getattr(keras.applications, APPLICATIONS[name].function)
    return function(include_top=False, weights=weights, input_shape=(*(input_size or (None, None)), 3))


class KerasBackbone(Backbone):
    """A classifier of ``keras.applications``, for inputs of one size, or of any that its padding allows.

    Batch norm is over the global batch, as in every network here; nothing is dropped; and layers that scale
    the inputs are left out, since ``pixels`` does what they do.

    Args:
        application: a key of ``APPLICATIONS``.
        input_size: see :class:`Backbone`; None: inputs of any size.
        folded: see :class:`Backbone`.
        strides: of the maps that it gives, ascending; of 4, 8, 16 and 32.
        even: every input will have sides that are multiples of the largest stride, so that no size has to be
            given: they are padded alike.

    Raises:
        ValueError: a stride that it has no map of; no size where the padding depends on it.
    """

    def __init__(
        self,
        application: str,
        input_size: tuple[int, int] | None,
        *,
        folded: bool = False,
        strides: Sequence[int] = Backbone.strides,
        even: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        entry = APPLICATIONS[application]
        if not set(strides) <= set(entry.taps):
            raise ValueError(f"{application} has maps of the strides {', '.join(map(str, entry.taps))}")
        if input_size is None and not (entry.takes_any_size or even):
            raise ValueError(f"{application} pads by the size of its inputs: input_size has to be given")
        self.application, self.pixels, self.strides = application, entry.pixels, tuple(strides)
        self.probe_size = tuple(input_size or (self.strides[-1],) * 2)
        original = without_top(application, input_size)
        taps = [original.get_layer(entry.taps[stride]).output for stride in strides]
        self.model = keras.models.clone_model(
            keras.Model(original.inputs, taps, name=application), clone_function=_converter(original, folded)
        )
        self.channels = tuple(tap.shape[-1] for tap in taps)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """[B, H, W, 3], H x W as in ``input_size``, to a map for each stride."""
        return tuple(tf.nest.flatten(self.model(inputs, training=training)))

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> None:
        """Loads the ``.h5`` without the classifier (``..._notop.h5``); ``"imagenet"``: Keras's download."""
        size = (224, 224)  # that the weights are of; it changes no shape
        pretrained.load_keras(
            self.model,
            APPLICATIONS[self.application].function,
            lambda weights: without_top(self.application, size, weights),
            str(path),
        )

    def fold_from(self, source: KerasBackbone) -> None:
        """Takes over ``source``'s function in inference mode; this one is ``folded``."""
        norms = _norms_by_convolution(source.model, BatchNorm)
        for layer in self.model.layers:
            if layer.weights:
                weights = source.model.get_layer(layer.name).get_weights()
                norm = norms.get(layer.name)
                layer.set_weights(weights if norm is None else _folded(layer, weights, norm))


class StridedPointwise(keras.layers.Conv2D):
    """A strided 1 x 1 convolution: every so many positions first, as in ``NormConv``.

    The gradient of TensorFlow 2.21's own (oneDNN) writes where it should not on CPUs.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """[B,h,w,C_in] to [B,ceil(h / strides),ceil(w / strides),C_out], without bias."""
        rows, columns = self.strides
        return tf.nn.conv2d(inputs[:, ::rows, ::columns], kernel, 1, "VALID")


def _converter(original: keras.Model, folded: bool):
    """What each layer of a Keras classifier becomes."""
    normalized = _norms_by_convolution(original, keras.layers.BatchNormalization)

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization) and not folded:
            return BatchNorm(epsilon=layer.epsilon, name=layer.name, dtype=config["dtype"])
        if isinstance(
            layer,
            (
                keras.layers.BatchNormalization,
                keras.layers.Rescaling,
                keras.layers.Normalization,
                keras.layers.Dropout,
            ),
        ):
            return keras.layers.Activation("linear", name=layer.name, dtype=config["dtype"])
        if folded and layer.name in normalized:
            config["use_bias"] = True
        kind = type(layer)
        strided = kind is keras.layers.Conv2D and layer.kernel_size == (1, 1) and max(layer.strides) > 1
        if strided and not folded:
            kind = StridedPointwise
        return kind.from_config(config)

    return convert


def _norms_by_convolution(model: keras.Model, kind: type) -> dict[str, keras.layers.Layer]:
    """The batch norm, of some class, that follows each convolution, by the convolution's name."""
    followed = {}
    for layer in model.layers:
        if isinstance(layer, kind):
            before = layer.input.node.layer
            assert isinstance(before, CONVOLUTIONS), before
            followed[before.name] = layer
    return followed


def _folded(layer: keras.layers.Layer, weights: list, norm: BatchNorm) -> list[tf.Tensor]:
    """Kernel and bias of a convolution with the batch norm behind it multiplied in."""
    kernel, *bias = weights
    scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
    shift = norm.beta - norm.moving_mean * scale + (bias[0] * scale if bias else 0.0)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return [kernel * (scale[:, None] if depthwise else scale), shift]
