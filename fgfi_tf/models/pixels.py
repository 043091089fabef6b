"""The pixels that a network was trained on, and which of its input are picture."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Pixels:
    """(x - mean) / std of each channel, RGB or BGR.

    Equal values mean equal inputs, which teacher and student then share.

    Attributes:
        mean, std: in 0..255, red first.
        bgr: whether blue comes first in what the network is given.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False

    def of(self, images: tf.Tensor) -> tf.Tensor:
        """RGB images [B, H, W, 3], 0..255, any dtype, to the network's input, float32."""
        images, mean, std = tf.cast(images, tf.float32), self.mean, self.std
        if self.bgr:
            # Not images[..., ::-1], which CPUs compute three times as slowly.
            images, mean, std = tf.reverse(images, [-1]), mean[::-1], std[::-1]
        images -= tf.constant(mean)
        return images if std == (1.0, 1.0, 1.0) else images * tf.constant([1.0 / value for value in std])


# Caffe's: BGR minus the means of ImageNet.
CAFFE = Pixels((123.68, 116.779, 103.939), bgr=True)
# The same in the code of Fast and Faster R-CNN, whose means are other ones.
FAST_RCNN = Pixels((122.7717, 115.9465, 102.9801), bgr=True)
# -1..1.
SIGNED = Pixels((127.5,) * 3, (127.5,) * 3)
# torchvision's: 0..1, minus the mean of ImageNet, divided by its standard deviation.
NORMALIZED = Pixels((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))


def content_mask(content: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Which cells of a ``height`` x ``width`` grid hold picture: bool [B, height, width].

    ``content``: (h, w) in cells of each picture, in its upper left corner, [B, 2].
    """
    content = tf.cast(content, tf.int32)
    rows = tf.range(height)[None] < content[:, :1]  # B x height
    columns = tf.range(width)[None] < content[:, 1:]  # B x width
    return tf.logical_and(rows[:, :, None], columns[:, None, :])
