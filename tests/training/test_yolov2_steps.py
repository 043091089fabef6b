"""YOLOv2's training step in parts, in 16 bits and compiled: the same losses, gradients and updates."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models import registry
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.optimizers import MomentumSGD, build_optimizer

SIZE, ROWS = 64, 70  # rows beyond 64: ground truths are compared chunk by chunk


def batch_of(images: int = 3) -> dict[str, tf.Tensor]:
    """Image 0 has ten faces, two of them in one cell and alike, 1 has one, the others none."""
    random = np.random.default_rng(3)
    first = random.uniform(0, 40, (images, ROWS, 2))
    boxes = np.concatenate([first, first + random.uniform(6, 22, (images, ROWS, 2))], axis=-1)
    boxes[0, 1] = boxes[0, 0] + 1.0
    counts = np.array([10, 1, *[0] * images])[:images]
    return {
        "image": tf.constant(random.uniform(0, 255, (images, SIZE, SIZE, 3)), tf.float32),
        "boxes": tf.constant(boxes, tf.float32),
        "classes": tf.zeros([images, ROWS], tf.int32),
        "valid": tf.constant(np.arange(ROWS) < counts[:, None]),
        "content_size": tf.fill([images, 2], float(SIZE)),
    }


def distiller_of(parts: int = 1, optimizer=None, taught: bool = True) -> Distiller:
    keras.utils.set_random_seed(5)
    student, teacher = (
        registry.build(
            name, input_size=(SIZE, SIZE), class_names=("face",), width=width, anchors="0.3x0.4,1x1"
        )
        for name, width in (("yolov2", 1 / 64), ("yolov2", 1 / 32))
    )
    layer = ImitationLoss(teacher.feature_channels) if taught else None
    distiller = Distiller(student, teacher if taught else None, layer, gradient_accumulation=parts)
    distiller.compile(optimizer=optimizer or MomentumSGD(0.0))
    return distiller


@pytest.fixture(name="statistics_at_rest")
def statistics_at_rest_fixture(monkeypatch):
    """Batch norm in its inference form, in training too."""
    original = BatchNorm.call
    monkeypatch.setattr(BatchNorm, "call", lambda self, inputs, training=False: original(self, inputs))


def step_of(distiller: Distiller, wrap, batch) -> tuple[dict[str, float], np.ndarray]:
    """What the step says, and the gradients, which momentum holds after the first one."""
    logs = {name: float(value) for name, value in wrap(distiller.train_step)(batch).items()}
    slots = [distiller.optimizer.get_slot(v, "momentum").numpy() for v in distiller.trained_variables]
    return logs, np.concatenate([slot.ravel() for slot in slots])


@functools.cache
def whole_step(taught: bool = True) -> tuple[dict[str, float], np.ndarray]:
    """Of the batch in one piece, not traced, float32, with the statistics at rest."""
    return step_of(distiller_of(taught=taught), lambda function: function, batch_of())


def assert_near(found, expected, share):
    assert found[0] == pytest.approx(expected[0], rel=share, abs=1e-6)
    assert expected[0]["object_loss"] > 0.1 and expected[0].get("imitation_loss", 1.0) > 0
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=share * np.abs(expected[1]).max())


@pytest.mark.usefixtures("statistics_at_rest")
def test_three_parts_give_the_losses_and_gradients_of_the_whole(run_mode):
    """Ten, one and no faces: the divisors are the images and the mask's positions of the whole batch."""
    assert_near(step_of(distiller_of(parts=3), run_mode, batch_of()), whole_step(), 1e-5)


@pytest.mark.usefixtures("statistics_at_rest")
@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_sixteen_bits_learn_what_float32_does(precision, share):
    """Losses are float32 sums: of the networks' own rounding only."""
    exact = whole_step()
    keras.mixed_precision.set_global_policy(f"mixed_{precision}")
    try:
        config = ExperimentConfig(output_dir="unused", mixed_precision=precision, schedule="constant")
        distiller = distiller_of(optimizer=build_optimizer(config))
        assert distiller.student.compute_dtype == precision
        outputs = distiller.student(distiller.student.preprocess(batch_of()["image"]))
        assert outputs["predictions"].dtype == tf.float32
        logs = {name: float(v) for name, v in distiller.train_step(batch_of()).items()}
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for name in ("no_object_loss", "box_loss", "object_loss", "imitation_loss"):
        assert logs[name] == pytest.approx(exact[0][name], rel=share), name
    assert all(variable.dtype == tf.float32 for variable in distiller.trained_variables)
    assert all(np.isfinite(variable).all() for variable in distiller.trained_variables)


@pytest.mark.slow
@pytest.mark.usefixtures("statistics_at_rest")
def test_a_compiled_step_is_the_same():
    def compiled(function):
        return tf.function(function, jit_compile=True, autograph=False)

    assert_near(step_of(distiller_of(taught=False), compiled, batch_of()), whole_step(taught=False), 1e-4)
