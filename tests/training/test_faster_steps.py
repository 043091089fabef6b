"""Options that change how a step is computed and not what it computes, or hardly."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_run import assert_same, scalars, weights

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models import registry
from fgfi_tf.training import run
from fgfi_tf.training.optimizers import MomentumSGD

CLASSES = ("Car", "Pedestrian", "Cyclist")


@pytest.fixture(name="both")
def both_fixture(experiment, tmp_path):
    """Trains with and without some options; the folders of the last checkpoints."""

    def train(**changes):
        paths = []
        for name, options in (("plain", {}), ("changed", changes)):
            result = run.train(
                experiment(output_dir=str(tmp_path / name), steps=7, checkpoint_every=7, **options)
            )
            paths.append(result.folder.checkpoints / "ckpt-7")
        return paths

    return train


def test_several_steps_in_one_execution_are_the_same_steps(both, tmp_path):
    assert_same(*both(steps_per_execution=3))
    # Executions end at steps 3, 6 and 7: summaries are due at 2, 4 and 6.
    assert scalars(tmp_path / "changed/tensorboard")["train/loss"] == [3, 6]


def test_xla_computes_the_same_steps(both):
    plain, compiled = (weights(path) for path in both(jit_compile=True))
    for name, value in plain.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(compiled[name], value, rtol=0, atol=1e-4 * scale, err_msg=name)


def test_bfloat16_keeps_float32_weights_and_nearly_the_same_steps(both):
    plain, mixed = (weights(path) for path in both(mixed_precision="bfloat16"))
    for name in (name for name in plain if name.startswith("student/") and "SLOT" not in name):
        assert mixed[name].dtype == np.float32
        np.testing.assert_allclose(mixed[name], plain[name], atol=0.03, rtol=0.05)
    assert keras.mixed_precision.global_policy().name == "float32"


def batch(images: int) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(5)
    corner = generator.uniform(0, 20, (images, 2, 2))
    return {
        "image": tf.constant(generator.uniform(0, 255, (images, 64, 96, 3)), tf.float32),
        "boxes": tf.constant(np.concatenate([corner, corner + 30], -1), tf.float32),
        "classes": tf.constant(generator.integers(0, 3, (images, 2)), tf.int32),
        "valid": tf.constant([[True, i % 3 > 0] for i in range(images)]),
    }


def test_accumulated_gradients_are_the_mean_over_the_parts(run_mode):
    student, teacher = (
        registry.build(name, input_size=(64, 96), class_names=CLASSES)
        for name in ("tiny_plain", "tiny_teacher")
    )
    distiller = Distiller(student, teacher, ImitationLoss((12,)), gradient_accumulation=3)
    distiller.compile(optimizer=MomentumSGD(0.0))
    whole = batch(6)
    expected, loss = [], 0.0
    for i in range(3):
        part = {name: value[2 * i : 2 * i + 2] for name, value in whole.items()}
        with tf.GradientTape() as tape:
            terms = distiller.losses_of(part, tf.constant(0, tf.int64), i)
            total = tf.add_n(list(terms.values()))
        expected.append(tape.gradient(total, distiller.trained_variables))
        loss += float(total) / 3
    logs = run_mode(distiller.train_step)(whole)
    assert float(logs["loss"]) == pytest.approx(loss, rel=1e-5)
    for variable, *gradients in zip(distiller.trained_variables, *expected, strict=True):
        velocity = distiller.optimizer.get_slot(variable, "momentum")
        np.testing.assert_allclose(velocity, np.mean(gradients, axis=0), atol=1e-5)


def test_accumulating_run_learns_and_refuses_what_does_not_divide(experiment):
    assert run.train(experiment(gradient_accumulation=2, steps=2)).finished
    with pytest.raises(UserError, match="--gradient_accumulation=3 does not divide --batch_size=4"):
        run.train(experiment(gradient_accumulation=3))
