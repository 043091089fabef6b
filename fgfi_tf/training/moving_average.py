"""The moving average of weights (``--ema``), around any optimizer of Keras's ``legacy`` family."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

Optimizer = keras.optimizers.legacy.Optimizer


class MovingAverage(Optimizer):
    """Updates by another optimizer; the slot ``average`` of each weight holds its moving average.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that short runs are averaged too. Checkpoints
    are those of tensorflow-addons' optimizer of this name, which earlier versions used.
    """

    def __init__(self, optimizer: Optimizer, decay: float, name: str = "MovingAverage"):
        super().__init__(name)
        self._optimizer, self._average_decay = optimizer, decay
        self._track_trackable(optimizer, "awg_optimizer")

    @property
    def learning_rate(self):
        """The inner optimizer's."""
        return self._optimizer.learning_rate

    def _create_hypers(self):
        self._optimizer._iterations = self.iterations
        self._optimizer._create_hypers()

    def _create_slots(self, var_list):
        self._optimizer._create_slots(var_list)
        for variable in var_list:
            self.add_slot(variable, "average", variable.read_value())

    def _prepare_local(self, var_device, var_dtype, apply_state):
        self._optimizer._prepare_local(var_device, var_dtype, apply_state)
        step = tf.cast(self.iterations, tf.float32)
        decay = tf.minimum(self._average_decay, (1.0 + step) / (10.0 + step))
        apply_state[(var_device, var_dtype)]["average_decay"] = tf.cast(decay, var_dtype)

    def _resource_apply_dense(self, grad, var, apply_state):
        updated = self._optimizer._resource_apply_dense(grad, var, apply_state)
        average = self.get_slot(var, "average")
        decay = apply_state[(var.device, var.dtype.base_dtype)]["average_decay"]
        with tf.control_dependencies([updated]):
            moved = average.assign_sub((1.0 - decay) * (average - var))
        return tf.group(updated, moved)
