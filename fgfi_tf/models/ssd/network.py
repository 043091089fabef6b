"""SSD's network: VGG with its last layers made convolutions, or a backbone; six maps, and the heads of each.

Liu et al., SSD (ECCV 2016), section 2.1; the published Caffe network and torchvision's are this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.backbones.vgg import VGG, scaled
from fgfi_tf.models.convolutions import Conv3x3, DilatedConv
from fgfi_tf.models.normalization import L2Normalization
from fgfi_tf.models.pixels import Pixels

#: Of the VGG that its authors started from.
PIXELS = Pixels((123.0, 117.0, 104.0))
FULLY_CONNECTED = 1024
# Channels of the 1 x 1 and of the 3 x 3 convolution of each block behind fc7, and its stride.
EXTRAS = ((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1))


class Trunk(Backbone):
    """The six maps that SSD predicts from, each after its ReLU.

    conv4_3 (L2 normalised), fc7, conv6_2, conv7_2, conv8_2 and conv9_2 of VGG16: of an input of 300 x 300
    38, 19, 10, 5, 3 and 1 positions a side. VGG11 has conv4_2 in place of conv4_3.

    Args:
        kind: a key of ``vgg.LAYOUTS``.
        width: factor on every channel count.
        name: as in Keras.
    """

    pixels = PIXELS

    def __init__(self, kind: str, width: float = 1.0, name: str = "backbone"):
        super().__init__(name=name)
        self.vgg = VGG(kind, width, taps=(4, 5), name="vgg", keep_odd=True, frozen=0)
        self.norm = L2Normalization(name="conv4_norm")
        channels = scaled(FULLY_CONNECTED, width)
        self.fc6 = DilatedConv(channels, 3, padding="same", dilation_rate=6, activation="relu", name="fc6")
        self.fc7 = keras.layers.Conv2D(channels, 1, activation="relu", name="fc7")
        self.extras = extra_blocks(EXTRAS, width)
        self.channels = (self.vgg.channels[0], channels, *(scaled(wide, width) for _, wide, _ in EXTRAS))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """Preprocessed images [B,H,W,3] to the six maps [B,h,w,C]; H and W are at least 257."""
        fine, coarse = self.vgg(inputs)
        coarse = self.fc7(self.fc6(tf.nn.max_pool2d(coarse, 3, 1, "SAME")))
        return extended([self.norm(fine), coarse], self.extras)


class BackboneTrunk(Backbone):
    """Six maps on a backbone that ImageNet has trained: its own at stride 8, 16 and 32, and three blocks.

    They are of the same sizes as :class:`Trunk`'s. Batch norm has made them alike: none is normalised again.

    Args:
        backbone: gives maps of stride 8, 16 and 32, whose sizes are rounded up.
        width: factor on the channels of the blocks.
        name: as in Keras.
    """

    def __init__(self, backbone: Backbone, width: float = 1.0, name: str = "backbone"):
        super().__init__(name=name)
        self.backbone, self.pixels = backbone, backbone.pixels
        specifications = EXTRAS[1:]
        self.extras = extra_blocks(specifications, width)
        self.channels = (*backbone.channels, *(scaled(wide, width) for _, wide, _ in specifications))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """Preprocessed images [B,H,W,3] to the six maps [B,h,w,C]; H and W are at least 257."""
        return extended(self.backbone(inputs, training=training), self.extras)

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> None:
        """Those of the backbone."""
        self.backbone.load_pretrained(path, pixels)

    def fold_from(self, source: BackboneTrunk) -> None:
        """Takes over ``source``'s function in inference mode; the backbone of this one is folded."""
        self.backbone.fold_from(source.backbone)
        for ours, theirs in zip(self.extras, source.extras, strict=True):
            for layer, other in zip(ours, theirs, strict=True):
                layer.set_weights(other.get_weights())


def extra_blocks(
    specifications: Sequence[tuple[int, int, int]], width: float = 1.0
) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """A 1 x 1 and a 3 x 3 convolution for each (channels of both, stride), named up to conv9."""
    first = 10 - len(specifications)
    return [
        (
            keras.layers.Conv2D(scaled(narrow, width), 1, activation="relu", name=f"conv{number}_1"),
            keras.layers.Conv2D(
                scaled(wide, width), 3, strides=stride, activation="relu", name=f"conv{number}_2"
            ),
        )
        for number, (narrow, wide, stride) in enumerate(specifications, start=first)
    ]


def extended(
    maps: Sequence[tf.Tensor], blocks: Sequence[tuple[keras.layers.Layer, keras.layers.Layer]]
) -> tuple[tf.Tensor, ...]:
    """The maps, and what each block makes of the last one."""
    maps = list(maps)
    for narrow, wide in blocks:
        features = narrow(maps[-1])
        if wide.strides[0] > 1:  # as published: a row above and below, where SAME would pad below alone
            features = tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]])
        maps.append(wide(features))
    return tuple(maps)


class Heads(keras.layers.Layer):
    """A 3 x 3 convolution for the classes and one for the offsets of each map's default boxes.

    Args:
        boxes: default boxes of a position, for each map.
        classes: scores of a box, background included.
        deviation: of the normally distributed initial kernels; None: Glorot's, as published.
        name: as in Keras.
    """

    def __init__(
        self, boxes: Sequence[int], classes: int, deviation: float | None = None, name: str = "heads"
    ):
        super().__init__(name=name)
        self.outputs = classes

        def convolution(channels: int, name: str) -> Conv3x3:
            kernel = keras.initializers.RandomNormal(stddev=deviation) if deviation else "glorot_uniform"
            return Conv3x3(channels, kernel_initializer=kernel, name=name)

        self.logits = [convolution(count * classes, f"logits_{i}") for i, count in enumerate(boxes)]
        self.offsets = [convolution(count * 4, f"offsets_{i}") for i, count in enumerate(boxes)]

    def call(self, maps: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Maps [B,h,w,C] to logits [B,A,classes], background first, and offsets [B,A,4], both float32."""
        return _joined(self.logits, maps, self.outputs), _joined(self.offsets, maps, 4)


def _joined(layers: Sequence[keras.layers.Layer], maps: Sequence[tf.Tensor], last: int) -> tf.Tensor:
    """What layers predict from maps, as float32 [B,A,last] in the order of ``default_boxes``."""
    rows = []
    for layer, features in zip(layers, maps, strict=True):
        predicted = tf.cast(layer(features), tf.float32)  # B x h x w x K*last
        rows.append(tf.reshape(predicted, [tf.shape(predicted)[0], -1, last]))
    return tf.concat(rows, axis=1)
