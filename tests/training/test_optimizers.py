"""Optimizers and schedules against updates worked out by hand, on one device and two, saved and restored."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.training import addons
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.optimizers import MomentumSGD, build_optimizer, inner_optimizer
from fgfi_tf.training.schedules import LinearWarmup, build_schedule

needs_addons = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_addons") is None, reason="tensorflow-addons is not installed"
)
ADDON_CHANGES = [{"optimizer": "sgdw"}, {"optimizer": "lamb"}, {"optimizer": "lamb", "ema": 0.9}]


def config(**changes) -> ExperimentConfig:
    return ExperimentConfig(output_dir="unused", **changes)


def rates(schedule, steps):
    return [float(schedule(tf.constant(s, tf.int64))) for s in steps]


def test_cosine_reaches_the_published_final_rate():
    schedule = build_schedule(config())
    middle = 2e-9 + 0.5 * (0.02 - 2e-9)
    np.testing.assert_allclose(
        rates(schedule, [0, 20000, 40000, 50000]), [0.02, middle, 2e-9, 2e-9], rtol=1e-3
    )


def test_step_schedule_falls_at_its_steps():
    schedule = build_schedule(config(schedule="step", lr_decay_steps="10,20", learning_rate=1.0))
    np.testing.assert_allclose(rates(schedule, [0, 9, 10, 19, 20]), [1, 1, 0.1, 0.1, 0.01], rtol=1e-5)


def test_warmup_rises_linearly():
    schedule = build_schedule(config(schedule="constant", learning_rate=0.8, lr_warmup_steps=4))
    np.testing.assert_allclose(rates(schedule, [0, 1, 2, 3, 9]), [0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-6)


def test_burn_in_rises_by_a_power():
    """Darknet's: rate * (batch / burn_in)^4, batches counted from 1."""
    schedule = build_schedule(
        config(schedule="constant", learning_rate=0.8, lr_warmup_steps=4, lr_warmup_power=4.0)
    )
    expected = [0.8 / 256, 0.8 * 16 / 256, 0.8 * 81 / 256, 0.8, 0.8]
    np.testing.assert_allclose(rates(schedule, [0, 1, 2, 3, 9]), expected, rtol=1e-5)


def test_schedules_serialise():
    schedule = build_schedule(config(lr_warmup_steps=4, lr_warmup_power=2.0))
    again = LinearWarmup.from_config(schedule.get_config())
    assert rates(again, [0, 3, 77]) == rates(schedule, [0, 3, 77])


def apply(optimizer, variable, gradients):
    @tf.function
    def step(gradient):
        optimizer.apply_gradients([(gradient, variable)])

    for gradient in gradients:
        step(tf.constant(gradient))
    return variable.numpy()


def test_momentum_sgd_applies_the_rate_to_the_velocity():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.01])
    variable = tf.Variable([1.0, -2.0])
    # v: [1, 2], then [0.5 + 3, 1 + 4]; w: w - 0.1 * v1 - 0.01 * v2
    result = apply(MomentumSGD(schedule, momentum=0.5), variable, [[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(result, [1 - 0.1 - 0.035, -2 - 0.2 - 0.05], rtol=1e-6)


def test_momentum_sgd_without_momentum_is_gradient_descent():
    variable = tf.Variable([1.0])
    np.testing.assert_allclose(
        apply(MomentumSGD(0.1, momentum=0.0), variable, [[1.0], [2.0]]), [0.7], rtol=1e-6
    )


@needs_addons
def test_sgdw_decays_kernels_and_not_biases():
    optimizer = build_optimizer(
        config(optimizer="sgdw", weight_decay=0.1, schedule="constant", learning_rate=1.0, momentum=0.0)
    )
    kernel, bias = tf.Variable([2.0], name="conv/kernel"), tf.Variable([2.0], name="conv/bias")
    optimizer.apply_gradients([(tf.constant([0.5]), kernel), (tf.constant([0.5]), bias)])
    np.testing.assert_allclose(kernel.numpy(), [2 - 0.2 - 0.5], rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), [1.5], rtol=1e-6)


@needs_addons
def test_sgdw_decay_follows_the_schedule():
    optimizer = build_optimizer(
        config(optimizer="sgdw", weight_decay=0.1, schedule="step", lr_decay_steps="1", learning_rate=1.0)
    )
    kernel = tf.Variable([1.0], name="kernel")
    np.testing.assert_allclose(apply(optimizer, kernel, [[0.0], [0.0]]), [0.9 * 0.99], rtol=1e-6)


@needs_addons
def test_lamb_first_step_has_the_length_of_the_weight():
    optimizer = build_optimizer(config(optimizer="lamb", schedule="constant", learning_rate=0.1))
    kernel = tf.Variable([3.0, 4.0], name="kernel")
    # Adam's first direction is (1, 1) whatever the gradient; LAMB gives it the norm of w, 5.
    expected = np.array([3.0, 4.0]) - 0.1 * 5 / math.sqrt(2)
    np.testing.assert_allclose(apply(optimizer, kernel, [[0.7, 0.2]]), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_average_changes_no_update(name):
    variables = [tf.Variable([1.0, 2.0], name="kernel") for _ in range(2)]
    gradients = [[0.3, -0.1], [0.2, 0.5], [-0.4, 0.1]]
    for variable, ema in zip(variables, (0.0, 0.9), strict=True):
        apply(build_optimizer(config(optimizer=name, ema=ema, steps=10)), variable, gradients)
    np.testing.assert_array_equal(*variables)


def test_the_decay_of_the_average_grows_to_its_value():
    optimizer = build_optimizer(config(ema=0.15, schedule="constant", learning_rate=1.0, momentum=0.0))
    variable = tf.Variable([0.0])
    apply(optimizer, variable, [[-1.0]] * 3)  # w: 1, 2, 3; decays 1 / 10, min(0.15, 2 / 11) = 0.15, 0.15
    average = 0.15 * (0.15 * (0.9 * 1) + 0.85 * 2) + 0.85 * 3
    np.testing.assert_allclose(optimizer.get_slot(variable, "average").numpy(), [average], rtol=1e-6)
    assert optimizer.learning_rate(0) == 1.0


@needs_addons
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_checkpoint_of_the_moving_average_of_tensorflow_addons_goes_on(name, tmp_path):
    gradients = [[0.3, -0.1], [0.2, 0.5], [-0.4, 0.1], [0.1, 0.1]]
    changes = {"optimizer": name, "steps": 10}
    first = tf.Variable([1.0, 2.0], name="kernel")
    optimizer = addons.optimizers().MovingAverage(
        build_optimizer(config(**changes)), average_decay=0.9, dynamic_decay=True
    )
    apply(optimizer, first, gradients[:2])
    path = tf.train.Checkpoint(v=first, optimizer=optimizer).write(str(tmp_path / "ckpt"))
    expected = apply(optimizer, first, gradients[2:])
    average = optimizer.get_slot(first, "average").numpy()

    second, optimizer = tf.Variable([0.0, 0.0], name="kernel"), build_optimizer(config(**changes, ema=0.9))
    optimizer._create_all_weights([second])
    tf.train.Checkpoint(v=second, optimizer=optimizer).read(path).assert_consumed()
    np.testing.assert_allclose(apply(optimizer, second, gradients[2:]), expected, rtol=1e-6)
    np.testing.assert_allclose(optimizer.get_slot(second, "average").numpy(), average, rtol=1e-6)


def test_moving_average_of_weights():
    optimizer = build_optimizer(config(ema=0.05, schedule="constant", learning_rate=1.0, momentum=0.0))
    variable = tf.Variable([1.0])
    apply(optimizer, variable, [[1.0], [1.0]])  # w: 1, 0, -1; decay min(0.05, ...) = 0.05
    np.testing.assert_allclose(
        optimizer.get_slot(variable, "average").numpy(), [0.05 * 0.05 - 0.95], rtol=1e-6
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam"},
        {"ema": 0.9},
        {"optimizer": "adam", "ema": 0.9},
        *(pytest.param(c, marks=needs_addons) for c in ADDON_CHANGES),
    ],
)
def test_saved_and_restored_optimizer_goes_on_alike(changes, tmp_path):
    gradients = [[0.3, -0.1], [0.2, 0.5], [-0.4, 0.1], [0.1, 0.1]]
    whole = tf.Variable([1.0, 2.0], name="kernel")
    expected = apply(build_optimizer(config(**changes, steps=10)), whole, gradients)

    first, optimizer = tf.Variable([1.0, 2.0], name="kernel"), build_optimizer(config(**changes, steps=10))
    apply(optimizer, first, gradients[:2])
    path = tf.train.Checkpoint(v=first, optimizer=optimizer).write(str(tmp_path / "ckpt"))
    second, optimizer = tf.Variable([0.0, 0.0], name="kernel"), build_optimizer(config(**changes, steps=10))
    tf.train.Checkpoint(v=second, optimizer=optimizer).read(path)
    np.testing.assert_allclose(apply(optimizer, second, gradients[2:]), expected, rtol=1e-6)
    assert int(optimizer.iterations) == 4


def test_float16_scales_the_loss():
    optimizer = build_optimizer(config(mixed_precision="float16"))
    assert isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)
    assert isinstance(inner_optimizer(optimizer), MomentumSGD)


def test_missing_addons_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_addons", None)
    with pytest.raises(UserError, match="--optimizer=sgdw and --optimizer=lamb need tensorflow-addons"):
        addons.optimizers()
