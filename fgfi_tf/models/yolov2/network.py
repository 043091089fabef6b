"""Darknet-19 with a passthrough: from images to YOLOv2's last feature map and its predictions.

Redmon, Farhadi: YOLO9000 (CVPR 2017), the layers of ``yolov2-voc.cfg``. Every convolution but the last one is
followed by batch norm and leaky ReLU (slope 0.1).
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.cpu_forms.channels import first_channels
from fgfi_tf.models.yolov2.reorg import REORGS

STRIDE = 32
# (kernel size, channels) of each convolution at full width; a 0 is a 2 x 2 max pool.
TRUNK = (
    (3, 32), 0, (3, 64), 0, (3, 128), (1, 64), (3, 128), 0, (3, 256), (1, 128), (3, 256), 0,
    (3, 512), (1, 256), (3, 512), (1, 256), (3, 512), 0,
    (3, 1024), (1, 512), (3, 1024), (1, 512), (3, 1024),
)  # fmt: skip
HEAD = ((3, 1024), (3, 1024))
PASSTHROUGH_CHANNELS = 64
LAST_CHANNELS = 1024
_PASSTHROUGH_AFTER = 13  # convolutions of the trunk, the last one of stride 16
MOMENTUM, EPSILON = 0.99, 1e-5


@dataclasses.dataclass(frozen=True)
class Variant:
    """One width of the family: every channel count times ``width``, rounded to the nearest."""

    width: float

    def channels(self, full: int) -> int:
        """Channels where the full network has ``full``."""
        return max(1, round(full * self.width))


VARIANTS = {"yolov2": Variant(1.0), "yolov2_0.25x": Variant(0.25), "yolov2_0.15x": Variant(0.15)}


class Network(keras.layers.Layer):
    """The whole network.

    Args:
        variant: its width.
        num_anchors, num_classes: of the predictions.
        reorg: ``space_to_depth``, or ``original`` for published weights (see ``reorg``).
        folded: inference form with batch norm inside the convolutions; see :meth:`fold_from`.

    Raises:
        ValueError: the original reorg where the passthrough's channels are no multiple of 4.
    """

    def __init__(
        self,
        variant: Variant,
        num_anchors: int,
        num_classes: int,
        *,
        reorg: str = "space_to_depth",
        folded: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.folded = folded
        self._number = 0
        stride_16, channels = self._build_trunk(variant)
        self.head = []
        for size, full in HEAD:
            self.head.append(self._convolution(channels, variant.channels(full), size))
            channels = variant.channels(full)
        through = variant.channels(PASSTHROUGH_CHANNELS)
        self.passthrough = self._convolution(stride_16, through, 1)
        self.feature_channels = variant.channels(LAST_CHANNELS)
        self.last = self._convolution(4 * through + channels, self.feature_channels, 3)
        self.predict = keras.layers.Conv2D(
            num_anchors * (5 + num_classes),
            1,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, mode="fan_in"),
            name="predict",
        )
        self.set_reorg(reorg)

    def _build_trunk(self, variant: Variant) -> tuple[int, int]:
        """Makes its layers; channels of its maps of stride 16 and 32."""
        channels, stride_16 = 3, 0
        self.trunk: list[ConvBN | None] = []  # None: a max pool
        for layer in TRUNK:
            if not layer:
                self.trunk.append(None)
                continue
            size, width = layer[0], variant.channels(layer[1])
            self.trunk.append(self._convolution(channels, width, size))
            channels = width
            if self._number == _PASSTHROUGH_AFTER:
                stride_16 = width
        return stride_16, channels

    def set_reorg(self, reorg: str) -> None:
        """Takes another of ``reorg.REORGS``. Raises ValueError as the constructor does."""
        through = self.passthrough.filters
        if reorg == "original" and through % 4:
            raise ValueError(f"the original reorg needs a multiple of 4 passthrough channels, not {through}")
        self.reorg = reorg

    def _convolution(self, channels: int, width: int, size: int) -> ConvBN:
        self._number += 1
        return ConvBN(
            channels,
            width,
            size,
            activation="leaky",
            epsilon=EPSILON,
            momentum=MOMENTUM,
            folded=self.folded,
            name=f"conv{self._number}",
        )

    def trunk_convolutions(self) -> list[ConvBN]:
        """Those of Darknet-19."""
        return [convolution for convolution in self.trunk if convolution is not None]

    def convolutions(self) -> list[ConvBN]:
        """In the order of the cfg file, and so of a weight file; ``predict`` follows them."""
        return [*self.trunk_convolutions(), *self.head, self.passthrough, self.last]

    def call(self, inputs: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Images [B, 32h, 32w, 3] in 0..1 to the map that is imitated and the predictions.

        Returns:
            ``stride_16`` [B, 2h, 2w, 512 * width], ``trunk`` [B, h, w, 1024 * width], ``features``
            [B, h, w, 1024 * width] and ``predictions`` [B, h, w, anchors * (5 + classes)], float32.
        """
        stride_16, trunk = self._trunk_maps(inputs, training)
        x = trunk
        for layer in self.head:
            x = layer(x, training=training)
        through = self.passthrough(stride_16, training=training)
        through = first_channels(through, self.passthrough.filters)
        x = first_channels(x, self.head[-1].filters)
        joined = tf.concat([REORGS[self.reorg](through), x], axis=-1)  # the passthrough first
        features = first_channels(self.last(joined, training=training), self.feature_channels)
        return {
            "stride_16": first_channels(stride_16, self.passthrough.in_channels),
            "trunk": first_channels(trunk, self.head[0].in_channels),
            "features": features,
            "predictions": tf.cast(self.predict(features), tf.float32),
        }

    def _trunk_maps(self, inputs: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The trunk's maps of stride 16 [B, 2h, 2w, C] and 32 [B, h, w, C'], with padded channels."""
        x, number, stride_16 = inputs, 0, None
        for layer in self.trunk:
            if layer is None:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
                continue
            x = layer(x, training=training)
            number += 1
            if number == _PASSTHROUGH_AFTER:
                stride_16 = x
        return stride_16, x

    def fold_from(self, source: Network) -> None:
        """Takes over the function of a trained network, of the same variant, in inference mode."""
        for own, other in zip(self.convolutions(), source.convolutions(), strict=True):
            own.fold_from(other)
        self.predict.set_weights(source.predict.get_weights())
