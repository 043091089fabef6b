"""Box heads: class scores and class-specific deltas of pooled RoIs, behind two layers or a ResNet's C5."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf import streams
from fgfi_tf.models.backbones.resnet import Stage, fold
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
        self.fc6 = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name="fc6")
        self.fc7 = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name="fc7")
        self.scores, self.deltas = _predictors(classes)

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
        return _by_image((self.scores(hidden), self.deltas(hidden)), shape)

    def fold_from(self, source: BoxHead) -> None:
        """Takes over ``source``'s function."""
        self.set_weights(source.get_weights())

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"units": self.units, "classes": self.classes, "dropout": self.dropout, "name": self.name}


class StageHead(keras.layers.Layer):
    """Pooled RoIs [B,R,n,n,C] to scores and deltas as :class:`BoxHead`, by a ResNet's last stage and a mean.

    Args:
        stage: the stage, which halves RoIs.
        classes: number of foreground classes.
        name: as in Keras.
    """

    def __init__(self, stage: Stage, classes: int, name: str = "head"):
        super().__init__(name=name)
        self.stage = stage
        self.scores, self.deltas = _predictors(classes)

    def call(self, pooled: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores [B,R,1 + classes] and deltas [B,R,4 (1 + classes)] of pooled RoIs [B,R,n,n,C].

        A ``dropout_seed`` says that this is training, for batch norm that is not frozen.
        """
        shape = tf.shape(pooled)
        regions = tf.reshape(pooled, [shape[0] * shape[1], *pooled.shape[2:]])
        hidden = tf.reduce_mean(self.stage(regions, training=dropout_seed is not None), axis=[1, 2])
        return _by_image((self.scores(hidden), self.deltas(hidden)), shape)

    def fold_from(self, source: StageHead) -> None:
        """Takes over ``source``'s function in inference mode; the stage of this one is ``folded``."""
        fold(self.stage.convolutions(), source.stage.convolutions())
        for mine, other in ((self.scores, source.scores), (self.deltas, source.deltas)):
            mine.set_weights(other.get_weights())


def _predictors(classes: int) -> tuple[keras.layers.Dense, keras.layers.Dense]:
    """The last layers, of scores and of deltas."""
    normal = keras.initializers.RandomNormal
    return (
        keras.layers.Dense(1 + classes, kernel_initializer=normal(stddev=0.01), name="scores"),
        keras.layers.Dense(4 * (1 + classes), kernel_initializer=normal(stddev=0.001), name="deltas"),
    )


def _by_image(heads: tuple[tf.Tensor, tf.Tensor], shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """[B R, n] each to [B,R,n]; ``shape`` begins with B and R."""
    return tuple(tf.reshape(h, [shape[0], shape[1], h.shape[-1]]) for h in heads)
