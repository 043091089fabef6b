"""Loss scaling of ``--mixed_precision=float16``: what an overflowing update changes, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
import tiny_detector
from test_accumulation import batch
from test_run import assert_same, stop_at, weights

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.training import run
from fgfi_tf.training.checkpoints import list_checkpoints
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.optimizers import build_optimizer, inner_optimizer

FIRST_SCALE = 2.0**15


def test_a_run_learns_keeps_float32_weights_and_ends_at_its_last_step(experiment, capsys):
    config = experiment(
        mixed_precision="float16", model="tiny_plain", steps=30, checkpoint_every=30, summary_every=10
    )
    result = run.train(config)
    saved = weights(result.folder.checkpoints / "ckpt-30")
    assert (result.step, result.finished) == (30, True)
    assert all(value.dtype != np.float16 for value in saved.values())
    assert saved["optimizer/loss_scale/current_loss_scale/.ATTRIBUTES/VARIABLE_VALUE"] <= FIRST_SCALE
    (iterations,) = (int(value) for name, value in saved.items() if "/iter/" in name)
    assert iterations == 30 == int(saved["step/.ATTRIBUTES/VARIABLE_VALUE"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert all(", loss_scale " in line for line in lines)


class Overflowing(tiny_detector.TinyDetector):
    """Its losses are small, and the gradient of one too large for float16 at ``steps``."""

    steps: tuple[int, ...] = ()
    factor = 1e36  # times the first loss scale this is above the largest float32

    def detection_losses(self, outputs, batch):
        terms = {name: 0.01 * term for name, term in super().detection_losses(outputs, batch).items()}
        now = tf.reduce_any(tf.equal(batch["seed"][1], tf.constant(self.steps, tf.int32)))

        @tf.custom_gradient
        def steep(x):
            return x, lambda upstream: upstream * tf.where(now, self.factor, 1.0)

        return {**terms, "class_loss": steep(terms["class_loss"])}


def overflowing(optimizer_changes=None, precision="float16", **attributes):
    keras.mixed_precision.set_global_policy("float32" if precision == "none" else f"mixed_{precision}")
    try:
        student = Overflowing(input_size=(64, 96), class_names=tiny_detector.CLASSES)
        for name, value in attributes.items():
            setattr(student, name, value)
        distiller = Distiller(student)
        config = ExperimentConfig(
            output_dir="unused",
            mixed_precision=precision,
            schedule="step",
            lr_decay_steps="1",
            **(optimizer_changes or {}),
        )
        distiller.compile(optimizer=build_optimizer(config))
        return distiller
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "adam"}, {"clip_norm": 1.0}, {"ema": 0.9}],
    ids=["sgd", "adam", "clipped", "ema"],
)
def test_an_update_that_overflows_is_passed_over_but_counted(run_mode, changes):
    distiller = overflowing(changes, steps=(1,))
    distiller.clip_norm = changes.get("clip_norm", 0.0)
    optimizer, inner = distiller.optimizer, inner_optimizer(distiller.optimizer)
    step, examples = run_mode(distiller.train_step), batch(2)
    slots = [
        inner.get_slot(v, name)
        for v in distiller.student.trainable_variables
        for name in inner.get_slot_names()
    ]
    kept = [*distiller.student.trainable_variables, *slots]
    assert slots

    first = step(examples)
    assert (float(first["loss_scale"]), int(optimizer.iterations)) == (FIRST_SCALE, 1)
    before = [value.numpy() for value in kept]

    second = step(examples)  # overflows
    for value, old in zip(kept, before, strict=True):
        np.testing.assert_array_equal(value.numpy(), old)
    assert (float(second["loss_scale"]), int(optimizer.iterations)) == (FIRST_SCALE / 2, 2)
    assert all(np.isfinite(float(value)) for value in second.values())
    # The schedule fell at step 1, which brought no update.
    assert float(inner.learning_rate(tf.cast(optimizer.iterations, tf.float32))) == pytest.approx(0.002)

    third = step(examples)
    assert (float(third["loss_scale"]), int(optimizer.iterations)) == (FIRST_SCALE / 2, 3)
    changed = [not np.array_equal(v.numpy(), old) for v, old in zip(kept, before, strict=True)]
    assert all(changed)


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_those_of_float32_to_half_precision(run_mode, parts):
    gradients = []
    for precision in ("none", "float16"):
        keras.utils.set_random_seed(1)
        distiller = overflowing({"momentum": 0.0}, precision=precision)
        distiller.gradient_accumulation = parts
        logs = run_mode(distiller.train_step)(batch(4))
        assert ("loss_scale" in logs) == (precision == "float16")
        inner = inner_optimizer(distiller.optimizer)
        gradients.append(
            [inner.get_slot(v, "momentum").numpy() for v in distiller.student.trainable_variables]
        )
    for exact, half in zip(*gradients, strict=True):
        assert np.abs(exact).max() > 0
        np.testing.assert_allclose(half, exact, rtol=0, atol=0.02 * np.abs(exact).max())


@pytest.mark.slow
def test_xla_and_accumulation_under_float16(experiment):
    result = run.train(experiment(mixed_precision="float16", jit_compile=True, gradient_accumulation=2))
    saved = weights(result.folder.checkpoints / "ckpt-6")
    assert all(np.isfinite(value).all() and value.dtype != np.float16 for value in saved.values())


@pytest.fixture(name="overflow_at")
def overflow_at_fixture(monkeypatch):
    """Makes the detector ``tiny`` overflow at some steps."""

    def at(steps, factor=Overflowing.factor):
        monkeypatch.setattr(Overflowing, "steps", steps)
        monkeypatch.setattr(Overflowing, "factor", factor)
        tiny_detector.register(Overflowing)

    return at


@pytest.mark.parametrize("changes", [{}, {"steps_per_execution": 2}], ids=["single", "several"])
def test_passed_over_updates_shift_no_step_and_resume_is_exact(experiment, tmp_path, overflow_at, changes):
    overflow_at((1, 2, 5))
    whole, parts = (
        experiment(output_dir=str(tmp_path / name), steps=8, mixed_precision="float16", **changes)
        for name in ("whole", "parts")
    )
    run.train(whole)
    stop_at(4, lambda: run.train(parts))
    assert run.train(parts).finished
    found = [path.name for path in list_checkpoints(tmp_path / "whole/checkpoints")]
    assert found == (["ckpt-4", "ckpt-6", "ckpt-8"] if changes else ["ckpt-3", "ckpt-6", "ckpt-8"])
    assert_same(tmp_path / "whole/checkpoints/ckpt-8", tmp_path / "parts/checkpoints/ckpt-8")
    saved = weights(tmp_path / "parts/checkpoints/ckpt-8")
    assert saved["optimizer/loss_scale/current_loss_scale/.ATTRIBUTES/VARIABLE_VALUE"] == FIRST_SCALE / 8


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(experiment, overflow_at):
    overflow_at(tuple(range(3, 100)), factor=float("inf"))
    # Halved at steps 4 to 18, the scale is 1; the update after is skipped at scale 1.
    with pytest.raises(
        UserError,
        match=r"stopped at step 19: the gradient is not finite, .*last good checkpoint is .*ckpt-18",
    ):
        run.train(experiment(mixed_precision="float16", steps=100))


def test_a_loss_that_is_not_finite_ends_a_float16_run_too(experiment, monkeypatch):
    original = tiny_detector.TinyDetector.detection_losses

    def losses(self, outputs, batch):
        terms = original(self, outputs, batch)
        terms["class_loss"] *= tf.where(batch["seed"][1] == 4, float("nan"), 1.0)
        return terms

    monkeypatch.setattr(tiny_detector.TinyDetector, "detection_losses", losses)
    with pytest.raises(
        UserError, match="stopped at step 5: .*class_loss is nan.*last good checkpoint is .*ckpt-3"
    ):
        run.train(experiment(mixed_precision="float16"))
