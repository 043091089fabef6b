"""The published adaptation layer's initial weights."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("fgfi_tf")
class FoldedNormal(keras.initializers.Initializer):
    """Standard normal numbers folded into (-2, 2) by the remainder of a division by 2, times ``stddev``.

    2.3 becomes 0.3 with its sign kept, where a truncated normal would draw again.

    Args:
        stddev: the factor.
        seed: as in Keras.
    """

    def __init__(self, stddev: float = 1e-4, seed: int | None = None):
        self.stddev, self.seed = stddev, seed

    def __call__(self, shape, dtype=tf.float32, **_) -> tf.Tensor:
        """Draws a tensor of ``shape``."""
        values = tf.random.normal(shape, dtype=dtype, seed=self.seed)
        return tf.math.sign(values) * tf.math.floormod(tf.abs(values), 2.0) * self.stddev

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"stddev": self.stddev, "seed": self.seed}
