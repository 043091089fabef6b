"""The ShuffleDet network: from preprocessed images to the imitated feature map."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.cpu_forms.channels import first_channels
from fgfi_tf.models.shuffledet.unit import ShuffleUnit

# Channels at scale 1 of (group1, group2, group3), and how many units each has.
GROUP_CHANNELS = (240, 480, 960)
GROUP_UNITS = (4, 6, 4)
FEATURE_CHANNELS = 768


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the published family.

    Attributes:
        scale: width multiplier of the groups and of the feature map.
        stem_channels: outputs of conv1. The 1x network, the teacher, has 16, the students 24.
    """

    scale: float
    stem_channels: int


VARIANTS = {
    "shuffledet_1x": Variant(1.0, 16),
    "shuffledet_0.5x": Variant(0.5, 24),
    "shuffledet_0.25x": Variant(0.25, 24),
}


def unit_groups(variant: Variant, in_channels: int) -> tuple[int, int]:
    """Groups of the two 1 x 1 convolutions of the unit that follows the stem.

    The students leave only the first ungrouped, the 1x network both.
    """
    if in_channels != variant.stem_channels:
        return 3, 3
    return (1, 1) if variant.scale == 1.0 else (1, 3)


class ShuffleBackbone(keras.layers.Layer):
    """conv1, three groups and two added units; stride 16.

    Args:
        variant: widths.
        folded: inference form with batch norm inside the convolutions (see ``ConvBN``).
    """

    def __init__(self, variant: Variant, *, folded: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.stem = ConvBN(3, variant.stem_channels, 3, activation=None, folded=folded, name="conv1")
        self.units: list[ShuffleUnit] = []
        channels = variant.stem_channels
        for group, (width, count) in enumerate(zip(GROUP_CHANNELS, GROUP_UNITS, strict=True), start=1):
            width = int(width * variant.scale)
            for block in range(count):
                unit = ShuffleUnit(
                    width,
                    channels,
                    strides=2 if block == 0 else 1,
                    groups=unit_groups(variant, channels),
                    folded=folded,
                    name=f"group{group}/block{block}",
                )
                self.units.append(unit)
                channels = width
        self.feature_channels = int(FEATURE_CHANNELS * variant.scale)
        self.units.append(ShuffleUnit(channels, channels, folded=folded, name="added3/block0"))
        self.units.append(
            ShuffleUnit(self.feature_channels, channels, shortcut=False, folded=folded, name="added3/block1")
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, H, W, 3] to [B, H / 16, W / 16, 768 * scale], after the last ReLU."""
        x = self.stem(inputs, training=training)  # B x H x W
        # ReLU and max-pool commute, and here ReLU has a quarter of the positions to go through.
        x = tf.nn.relu(tf.nn.max_pool2d(x, 3, 2, "SAME"))  # B x H/2 x W/2
        for unit in self.units:
            x = unit(x, training=training)
        return first_channels(x, self.feature_channels)

    def convolutions(self) -> dict[str, ConvBN]:
        """Every convolution by its name in the reference's checkpoints (``group1/block0/dconv``)."""
        named = {"conv1": self.stem}
        for unit in self.units:
            for conv in (unit.conv1, unit.dconv, unit.conv2):
                named[f"{unit.name}/{conv.name}"] = conv
        return named

    def fold_from(self, source: ShuffleBackbone) -> None:
        """Takes over ``source``'s function in inference mode; this one is ``folded``."""
        convolutions = source.convolutions()
        for name, target in self.convolutions().items():
            target.fold_from(convolutions[name])
