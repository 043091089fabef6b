"""Learning-rate schedules: cosine, steps or constant, with a warm-up."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.training.config import ExperimentConfig

Schedule = keras.optimizers.schedules.LearningRateSchedule


@keras.utils.register_keras_serializable("fgfi_tf")
class LinearWarmup(Schedule):
    """``schedule`` scaled by (step + 1) / steps in the first ``steps`` steps, to the power of ``power``."""

    def __init__(self, schedule: Schedule, steps: int, power: float = 1.0):
        self.schedule = schedule
        self.steps, self.power = steps, power

    def __call__(self, step) -> tf.Tensor:
        """The rate (float32 scalar) of the update after ``step`` updates."""
        share = (tf.cast(step, tf.float32) + 1.0) / float(self.steps)
        return self.schedule(step) * tf.minimum(share, 1.0) ** self.power

    def get_config(self) -> dict:
        """Every constructor argument."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "steps": self.steps, "power": self.power}

    @classmethod
    def from_config(cls, config: dict) -> LinearWarmup:
        """Inverse of :meth:`get_config`."""
        return cls(**{**config, "schedule": keras.optimizers.schedules.deserialize(config["schedule"])})


@keras.utils.register_keras_serializable("fgfi_tf")
class Constant(Schedule):
    """The same rate at every step."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, step) -> tf.Tensor:
        """``rate`` as a float32 scalar."""
        return tf.constant(self.rate, tf.float32)

    def get_config(self) -> dict:
        """Every constructor argument."""
        return {"rate": self.rate}


def cosine_steps(config: ExperimentConfig) -> int:
    """Steps that the cosine schedule of an experiment spans."""
    return config.schedule_steps or config.steps


def check_schedule(before: ExperimentConfig, now: ExperimentConfig) -> None:
    """Raises UserError where a run would go on with a cosine of another span without having been told to.

    The learning rate would jump: after the last step of a finished run, from its final rate up again.
    """
    old, new = cosine_steps(before), cosine_steps(now)
    if now.schedule == "cosine" and old != new and not now.schedule_steps:
        raise UserError(
            f"--steps={now.steps}: the learning rate of the run in {now.output_dir} follows a cosine over "
            f"{old} steps; over {new} it would jump. --schedule_steps={old} keeps the schedule, "
            f"--schedule_steps={new} changes it"
        )


def build_schedule(config: ExperimentConfig, start: float | None = None) -> Schedule:
    """The schedule of an experiment, from ``start`` (None: the learning rate) and with its shape."""
    rate = config.learning_rate if start is None else start
    if config.schedule == "cosine":
        schedule = keras.optimizers.schedules.CosineDecay(
            rate,
            cosine_steps(config),
            alpha=config.final_learning_rate / config.learning_rate,
        )
    elif config.schedule == "step":
        boundaries = list(config.lr_boundaries)
        values = [rate * config.lr_decay_factor**i for i in range(len(boundaries) + 1)]
        # Keras keeps the old value at the boundary itself; a fall "at step b" is first seen by update b.
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([b - 1 for b in boundaries], values)
    else:
        schedule = Constant(rate)
    if not config.lr_warmup_steps:
        return schedule
    return LinearWarmup(schedule, config.lr_warmup_steps, config.lr_warmup_power)
