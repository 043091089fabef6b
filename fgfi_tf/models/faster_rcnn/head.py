"""The box head: VGG's two fully connected layers, class scores and class-specific deltas."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf import streams
from fgfi_tf.models.dropout import stateless_dropout

POOLED_SIZE = 7  # rows and columns of what RoIs are pooled to


class BoxHead(keras.layers.Layer):
    """Pooled RoIs [B,R,n,n,C] to class scores [B,R,1 + classes] and deltas [B,R,4 (1 + classes)].

    Args:
        units: of fc6 and fc7.
        classes: number of foreground classes.
        dropout: rate after each of them while training.
        name: as in Keras.
    """

    def __init__(self, units: int, classes: int, dropout: float = 0.5, name: str = "head"):
        super().__init__(name=name)
        self.units, self.classes, self.dropout = units, classes, dropout
        normal = keras.initializers.RandomNormal
        self.fc6 = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name="fc6")
        self.fc7 = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name="fc7")
        self.scores = keras.layers.Dense(1 + classes, kernel_initializer=normal(stddev=0.01), name="scores")
        self.deltas = keras.layers.Dense(
            4 * (1 + classes), kernel_initializer=normal(stddev=0.001), name="deltas"
        )

    def call(self, pooled: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores [B,R,1 + classes] and deltas [B,R,4 (1 + classes)] of pooled RoIs [B,R,n,n,C].

        Dropout is active where ``dropout_seed`` (integers [2]) is given.
        """
        shape = tf.shape(pooled)
        hidden = tf.reshape(
            pooled, [shape[0] * shape[1], pooled.shape[2] * pooled.shape[3] * pooled.shape[4]]
        )
        for index, layer in enumerate((self.fc6, self.fc7)):
            hidden = layer(hidden)
            if dropout_seed is not None and self.dropout > 0:
                hidden = stateless_dropout(hidden, self.dropout, streams.fold(dropout_seed, index))
        heads = (self.scores(hidden), self.deltas(hidden))
        return tuple(tf.reshape(h, [shape[0], shape[1], h.shape[-1]]) for h in heads)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"units": self.units, "classes": self.classes, "dropout": self.dropout, "name": self.name}
