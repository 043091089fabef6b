"""VGG without its last pool and its classifier (Simonyan & Zisserman 2015)."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.convolutions import Conv3x3
from fgfi_tf.models.pixels import Pixels


@dataclasses.dataclass(frozen=True)
class Layout:
    """Output channels of each convolution, per stage; 2 x 2 pools between the stages.

    ``frozen`` counts the leading convolutions that are never trained.
    """

    stages: tuple[tuple[int, ...], ...]
    frozen: int


# The published student freezes one convolution more than its authors meant to: conv3_1.
LAYOUTS = {
    "vgg11": Layout(((64,), (128,), (256, 256), (512, 512), (512, 512)), frozen=3),
    "vgg16": Layout(((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)), frozen=4),
}
# Without ImageNet weights the first layer takes pixel values of about this deviation to unit variance.
PIXEL_DEVIATION = 58.0


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, at least 1, rounded."""
    return max(1, round(channels * width))


def _he_normal(input_deviation: float) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0 / input_deviation**2, "fan_in", "truncated_normal")


class VGG(Backbone):
    """VGG's convolutions, each with a ReLU. Takes inputs of any size.

    Pools drop an odd last row or column, so that a map of stride s has H // s rows and W // s columns; or
    they keep it, as in SSD (Liu et al. 2016), whose map of stride 8 has 38 x 38 positions at 300 x 300.

    Args:
        kind: a key of ``LAYOUTS``.
        width: channel multiplier.
        taps: the stages, 1 to 5, whose last convolutions give the maps; ascending.
        name: as in Keras.
        keep_odd: pools keep an odd last row and column.
        frozen: leading convolutions that are never trained; None: as many as the layout says.
    """

    pixels = Pixels((122.7717, 115.9465, 102.9801), bgr=True)

    def __init__(
        self,
        kind: str,
        width: float = 1.0,
        taps: tuple[int, ...] = (5,),
        name: str = "base",
        *,
        keep_odd: bool = False,
        frozen: int | None = None,
    ):
        super().__init__(name=name)
        self.kind, self.width, self.taps = kind, width, tuple(taps)
        layout = LAYOUTS[kind]
        self.keep_odd, self.frozen = keep_odd, layout.frozen if frozen is None else frozen
        self.stages, index = [], 0
        for number, stage in enumerate(layout.stages[: self.taps[-1]], start=1):
            layers = []
            for position, channels in enumerate(stage, start=1):
                layers.append(
                    Conv3x3(
                        scaled(channels, width),
                        activation="relu",
                        kernel_initializer=_he_normal(PIXEL_DEVIATION if index == 0 else 1.0),
                        trainable=index >= self.frozen,
                        name=f"conv{number}_{position}",
                    )
                )
                index += 1
            self.stages.append(layers)
        self.strides = tuple(2 ** (tap - 1) for tap in self.taps)
        self.channels = tuple(scaled(layout.stages[tap - 1][-1], width) for tap in self.taps)

    @property
    def convolutions(self) -> list[keras.layers.Conv2D]:
        """The convolutions from input to output."""
        return [layer for stage in self.stages for layer in stage]

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """Preprocessed images [B,H,W,3] to a map [B,h,w,C] for each of ``strides``."""
        features, maps, padding = inputs, [], "SAME" if self.keep_odd else "VALID"
        for number, stage in enumerate(self.stages, start=1):
            if number > 1:
                features = tf.nn.max_pool2d(features, 2, 2, padding)
            for layer in stage:
                features = layer(features)
            if number in self.taps:
                maps.append(features)
        return tuple(maps)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        names = ("kind", "width", "taps", "name", "keep_odd", "frozen")
        return {name: getattr(self, name) for name in names}
