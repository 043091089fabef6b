"""The metrics of a training step that runs on many replicas."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras


class GlobalMean(keras.metrics.Metric):
    """Mean over steps of a value that every replica knows in full; kept once, not for each replica.

    Keras's own Mean keeps each replica's sum and count and exchanges both at each step.
    """

    def __init__(self, name: str, **kwargs):
        super().__init__(name=name, **kwargs)
        once = {
            "initializer": "zeros",
            "synchronization": tf.VariableSynchronization.ON_WRITE,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        }
        self.total = self.add_weight(name="total", **once)
        self.count = self.add_weight(name="count", **once)

    def update_state(self, value: tf.Tensor, counts: tf.Tensor | bool = True) -> None:
        """Adds a scalar, where it counts."""
        self.total.assign_add(tf.where(counts, tf.cast(value, self.total.dtype), 0.0))
        self.count.assign_add(tf.where(counts, 1.0, 0.0))

    def result(self) -> tf.Tensor:
        """The mean, 0 before the first value."""
        return tf.math.divide_no_nan(self.total, self.count)
