"""The region proposal network's layers."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.convolutions import Conv3x3


class RPNHead(keras.layers.Layer):
    """Features [B,h,w,C] to scores [B,h,w,2K] (K background, then K object channels) and deltas [B,h,w,4K].

    Where scores are not paired they are [B,h,w,K], of objects. Delta channel 4k + i is component i (dx, dy,
    dw, dh) of anchor k. One head serves every feature level.

    Args:
        channels: of the 3 x 3 convolution.
        anchors: K, anchors per cell.
        paired: whether an anchor has two scores.
        name: as in Keras.
    """

    def __init__(self, channels: int, anchors: int = 9, name: str = "rpn", paired: bool = True):
        super().__init__(name=name)
        self.channels, self.anchors, self.paired = channels, anchors, paired

        def normal() -> keras.initializers.Initializer:
            return keras.initializers.RandomNormal(stddev=0.01)

        self.conv = Conv3x3(channels, activation="relu", kernel_initializer=normal(), name="conv")
        logits = 2 * anchors if paired else anchors
        self.scores = keras.layers.Conv2D(logits, 1, kernel_initializer=normal(), name="scores")
        self.deltas = keras.layers.Conv2D(4 * anchors, 1, kernel_initializer=normal(), name="deltas")

    def call(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores [B,h,w,2K] or [B,h,w,K] and deltas [B,h,w,4K] of one feature map [B,h,w,C]."""
        hidden = self.conv(features)
        return self.scores(hidden), self.deltas(hidden)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        names = ("channels", "anchors", "name", "paired")
        return {name: getattr(self, name) for name in names}


def margins(scores: tf.Tensor, paired: bool = True) -> tf.Tensor:
    """How much the object logit of each anchor exceeds its background logit, float32 [B,A], of [B,h,w,2K].

    Of scores that are not ``paired``, [B,h,w,K], the logit itself.
    """
    scores = tf.cast(scores, tf.float32)
    if not paired:
        return tf.reshape(scores, [tf.shape(scores)[0], -1])
    background, foreground = tf.split(scores, 2, axis=-1)
    return tf.reshape(foreground - background, [tf.shape(scores)[0], -1])


def anchor_deltas(deltas: tf.Tensor) -> tf.Tensor:
    """Deltas of each anchor, float32 [B,A,4], of [B,h,w,4K]."""
    return tf.reshape(tf.cast(deltas, tf.float32), [tf.shape(deltas)[0], -1, 4])
