"""Optimizers. All are of Keras's ``legacy`` family, which tensorflow-addons extends."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.training import addons
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.moving_average import MovingAverage
from fgfi_tf.training.schedules import build_schedule

Optimizer = keras.optimizers.legacy.Optimizer

# Biases and the parameters of batch norm are not weights: decoupled decay leaves them alone.
NO_DECAY = ["bias", "gamma", "beta"]


@keras.utils.register_keras_serializable("fgfi_tf")
class MomentumSGD(keras.optimizers.legacy.SGD):
    """v = momentum * v + gradient; w = w - rate * v.

    The form of TensorFlow 1, Caffe and PyTorch: a new rate acts on the whole velocity at once. Keras's own
    SGD keeps rate * gradient in the velocity instead, which differs while the rate changes.
    """

    def __init__(self, learning_rate=0.01, momentum: float = 0.9, name: str = "MomentumSGD", **kwargs):
        kwargs.pop("nesterov", None)
        super().__init__(learning_rate=learning_rate, momentum=momentum, name=name, **kwargs)
        self._momentum = True  # the slot exists for momentum 0 as well

    def _resource_apply_dense(self, grad, var, apply_state=None):
        coefficients = (apply_state or {}).get(
            (var.device, var.dtype.base_dtype)
        ) or self._fallback_apply_state(var.device, var.dtype.base_dtype)
        return tf.raw_ops.ResourceApplyMomentum(
            var=var.handle,
            accum=self.get_slot(var, "momentum").handle,
            lr=coefficients["lr_t"],
            grad=grad,
            momentum=coefficients["momentum"],
            use_locking=self._use_locking,
            use_nesterov=False,
        )


def build_optimizer(config: ExperimentConfig) -> Optimizer:
    """The optimizer of an experiment, to be called in the strategy's scope.

    sgdw is SGD with decoupled weight decay (Loshchilov and Hutter, 2019), lamb Adam with layer-wise rates
    (You et al., 2020). With ``--ema`` weights have a moving average, with float16 losses are scaled.
    Raises UserError where tensorflow-addons is needed (sgdw, lamb) and missing.
    """
    schedule = build_schedule(config)
    if config.optimizer == "sgd":
        optimizer = MomentumSGD(schedule, config.momentum)
    elif config.optimizer == "adam":
        optimizer = keras.optimizers.legacy.Adam(schedule)
    elif config.optimizer == "sgdw":
        decay = build_schedule(config, start=config.weight_decay) if config.weight_decay else 0.0
        optimizer = addons.optimizers().SGDW(
            decay, learning_rate=schedule, momentum=config.momentum, exclude_from_weight_decay=NO_DECAY
        )
    else:
        optimizer = addons.optimizers().LAMB(
            schedule, weight_decay=config.weight_decay, exclude_from_weight_decay=NO_DECAY
        )
    if config.ema:
        optimizer = MovingAverage(optimizer, config.ema)
    if config.mixed_precision == "float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer without loss scaling around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)
