"""The region proposal network's layers."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.convolutions import Conv3x3


class RPNHead(keras.layers.Layer):
    """Features [B,h,w,C] to scores [B,h,w,2K] (K background, then K object channels) and deltas [B,h,w,4K].

    Delta channel 4k + i is component i (dx, dy, dw, dh) of anchor k. One head serves every feature level.

    Args:
        channels: of the 3 x 3 convolution.
        anchors: K, anchors per cell.
        name: as in Keras.
    """

    def __init__(self, channels: int, anchors: int = 9, name: str = "rpn"):
        super().__init__(name=name)
        self.channels, self.anchors = channels, anchors

        def normal() -> keras.initializers.Initializer:
            return keras.initializers.RandomNormal(stddev=0.01)

        self.conv = Conv3x3(channels, activation="relu", kernel_initializer=normal(), name="conv")
        self.scores = keras.layers.Conv2D(2 * anchors, 1, kernel_initializer=normal(), name="scores")
        self.deltas = keras.layers.Conv2D(4 * anchors, 1, kernel_initializer=normal(), name="deltas")

    def call(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores [B,h,w,2K] and deltas [B,h,w,4K] of one feature map [B,h,w,C]."""
        hidden = self.conv(features)
        return self.scores(hidden), self.deltas(hidden)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"channels": self.channels, "anchors": self.anchors, "name": self.name}


def margins(scores: tf.Tensor) -> tf.Tensor:
    """How much the object logit of each anchor exceeds its background logit, float32 [B,A], of [B,h,w,2K]."""
    background, foreground = tf.split(tf.cast(scores, tf.float32), 2, axis=-1)
    return tf.reshape(foreground - background, [tf.shape(scores)[0], -1])


def anchor_deltas(deltas: tf.Tensor) -> tf.Tensor:
    """Deltas of each anchor, float32 [B,A,4], of [B,h,w,4K]."""
    return tf.reshape(tf.cast(deltas, tf.float32), [tf.shape(deltas)[0], -1, 4])
