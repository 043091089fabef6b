"""VGG bases without their last pool (Simonyan & Zisserman 2015): stride 16, ending in a ReLU."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.faster_rcnn.convolution import Conv3x3


@dataclasses.dataclass(frozen=True)
class VGG:
    """A VGG base: output channels of each convolution, per stage; 2 x 2 pools between the stages.

    ``frozen`` counts the leading convolutions that are never trained.
    """

    stages: tuple[tuple[int, ...], ...]
    frozen: int

    @property
    def convolutions(self) -> int:
        """Their number."""
        return sum(len(stage) for stage in self.stages)


# The published student freezes one convolution more than its authors meant to: conv3_1.
BACKBONES = {
    "vgg11": VGG(((64,), (128,), (256, 256), (512, 512), (512, 512)), frozen=3),
    "vgg16": VGG(((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)), frozen=4),
}
STRIDE = 16
POOLED_SIZE = 7
RGB_MEANS = (122.7717, 115.9465, 102.9801)  # of ImageNet, which the network is given pixels without
# Without ImageNet weights the first layer takes pixel values of about this deviation to unit variance.
PIXEL_DEVIATION = 58.0


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, at least 1, rounded."""
    return max(1, round(channels * width))


def _he_normal(input_deviation: float) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0 / input_deviation**2, "fan_in", "truncated_normal")


class VGGBase(keras.layers.Layer):
    """Preprocessed images [B,H,W,3] to features [B,H // 16,W // 16,512 width].

    Pools drop an odd last row or column, so a side is halved and rounded down four times.

    Args:
        kind: a key of ``BACKBONES``.
        width: channel multiplier.
        name: as in Keras.
    """

    def __init__(self, kind: str, width: float = 1.0, name: str = "base"):
        super().__init__(name=name)
        self.kind, self.width = kind, width
        vgg = BACKBONES[kind]
        self.stages, index = [], 0
        for number, stage in enumerate(vgg.stages, start=1):
            layers = []
            for position, channels in enumerate(stage, start=1):
                layers.append(
                    Conv3x3(
                        scaled(channels, width),
                        activation="relu",
                        kernel_initializer=_he_normal(PIXEL_DEVIATION if index == 0 else 1.0),
                        trainable=index >= vgg.frozen,
                        name=f"conv{number}_{position}",
                    )
                )
                index += 1
            self.stages.append(layers)
        self.channels = scaled(vgg.stages[-1][-1], width)

    @property
    def convolutions(self) -> list[keras.layers.Conv2D]:
        """The convolutions from input to output."""
        return [layer for stage in self.stages for layer in stage]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """See the class."""
        features = inputs
        for number, stage in enumerate(self.stages):
            if number:
                features = tf.nn.max_pool2d(features, 2, 2, "VALID")
            for layer in stage:
                features = layer(features)
        return features

    def get_config(self) -> dict:
        """As in Keras."""
        return {"kind": self.kind, "width": self.width, "name": self.name}
