"""The region proposal network's layers."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras


class RPNHead(keras.layers.Layer):
    """Features [B,h,w,C] to scores [B,h,w,2K] (K background, then K object channels) and deltas [B,h,w,4K].

    Delta channel 4k + i is component i (dx, dy, dw, dh) of anchor k.

    Args:
        channels: of the 3 x 3 convolution.
        anchors: K, anchors per cell.
        name: as in Keras.
    """

    def __init__(self, channels: int, anchors: int = 9, name: str = "rpn"):
        super().__init__(name=name)
        self.channels, self.anchors = channels, anchors

        def convolution(filters: int, size: int, layer_name: str, activation: str | None = None):
            initializer = keras.initializers.RandomNormal(stddev=0.01)
            return keras.layers.Conv2D(
                filters,
                size,
                padding="same",
                activation=activation,
                kernel_initializer=initializer,
                name=layer_name,
            )

        self.conv = convolution(channels, 3, "conv", "relu")
        self.scores = convolution(2 * anchors, 1, "scores")
        self.deltas = convolution(4 * anchors, 1, "deltas")

    def call(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class."""
        hidden = self.conv(features)
        return self.scores(hidden), self.deltas(hidden)

    def get_config(self) -> dict:
        """As in Keras."""
        return {"channels": self.channels, "anchors": self.anchors, "name": self.name}
