"""VGG without its classifier (Simonyan & Zisserman 2015)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.backbones import vgg_weights
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.convolutions import Conv3x3
from fgfi_tf.models.normalization import L2Normalization
from fgfi_tf.models.pixels import FAST_RCNN


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
LAST_POOL = 6  # as a stage
# Without ImageNet weights the first layer takes pixel values of about this deviation to unit variance.
PIXEL_DEVIATION = 58.0


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, at least 1, rounded."""
    return max(1, round(channels * width))


def _he_normal(input_deviation: float) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0 / input_deviation**2, "fan_in", "truncated_normal")


class VGG(Backbone):
    """VGG's convolutions, each with a ReLU. Takes inputs of any size.

    Stage n has stride 2 ** (n - 1): conv3_x 4, conv4_x 8, conv5_x 16. No convolution has stride 32; there the
    map is the pool behind conv5_x, which the classifier reads.

    Pools drop an odd last row or column, so that a map of stride s has H // s rows and W // s columns; or
    they keep it, as in SSD (Liu et al. 2016), whose map of stride 8 has 38 x 38 positions at 300 x 300.

    Without batch norm the stages of ImageNet weights differ in size, by ten times and more. Where several are
    added they are normalised first, as ParseNet does (Liu et al. 2015) and SSD's conv4_3.

    Args:
        kind: a key of ``LAYOUTS``.
        width: channel multiplier.
        taps: the stages, 1 to 5, whose last convolutions give the maps, and 6, the last pool; ascending.
        name: as in Keras.
        keep_odd: pools keep an odd last row and column.
        frozen: leading convolutions that are never trained; None: as many as the layout says.
        normalized: each map is L2-normalised, with a learnt factor a channel.
    """

    pixels = FAST_RCNN

    def __init__(
        self,
        kind: str,
        width: float = 1.0,
        taps: Sequence[int] = (5,),
        name: str = "base",
        *,
        keep_odd: bool = False,
        frozen: int | None = None,
        normalized: bool = False,
    ):
        super().__init__(name=name)
        self.kind, self.width, self.taps = kind, width, tuple(taps)
        layout = LAYOUTS[kind]
        self.keep_odd, self.frozen = keep_odd, layout.frozen if frozen is None else frozen
        self.normalized = normalized
        channels_of = (*layout.stages, ())[: self.taps[-1]]
        self.stages, index = [], 0
        for number, stage in enumerate(channels_of, start=1):
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
        deepest = len(layout.stages)  # whose channels the last pool keeps
        self.channels = tuple(scaled(layout.stages[min(tap, deepest) - 1][-1], width) for tap in self.taps)
        self.norms = [L2Normalization(name=f"norm{tap}") for tap in self.taps] if normalized else []

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
        if self.normalized:
            maps = [norm(features) for norm, features in zip(self.norms, maps, strict=True)]
        return tuple(maps)

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> None:
        """Loads a classifier's convolutions; see ``vgg_weights.load``."""
        vgg_weights.load(self, path, pixels)

    def fold_from(self, source: VGG) -> None:
        """Takes over ``source``'s function."""
        mine, others = (*self.convolutions, *self.norms), (*source.convolutions, *source.norms)
        for layer, other in zip(mine, others, strict=True):
            layer.set_weights(other.get_weights())

    def get_config(self) -> dict:
        """The constructor's arguments."""
        names = ("kind", "width", "taps", "name", "keep_odd", "frozen", "normalized")
        return {name: getattr(self, name) for name in names}
