"""Gradient accumulation: the parts give the update of the whole batch, but for batch norm's statistics."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from test_run import assert_same, stop_at

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.imitation.weight import RunningWeight
from fgfi_tf.models import registry
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.replica import accumulating, global_counts, global_sum, num_shares
from fgfi_tf.training import run
from fgfi_tf.training.optimizers import MomentumSGD

pytestmark = pytest.mark.usefixtures("short_shuffledet")

CLASSES = ("Car", "Pedestrian", "Cyclist")


def batch(images: int) -> dict[str, tf.Tensor]:
    """Images 0 and 1 have two objects, image 2 one; from then on one and none, in turns."""
    generator = np.random.default_rng(5)
    corner = generator.uniform(0, 20, (images, 2, 2))
    size = generator.uniform(20, 40, (images, 2, 2))
    objects = [2, 2, 1, *(i % 2 for i in range(max(images - 3, 0)))][:images]
    return {
        "image": tf.constant(generator.uniform(0, 255, (images, 64, 96, 3)), tf.float32),
        "boxes": tf.constant(np.concatenate([corner, corner + size], -1), tf.float32),
        "classes": tf.constant(generator.integers(0, 3, (images, 2)), tf.int32),
        "valid": tf.constant([[count > 0, count > 1] for count in objects]),
    }


def distiller_of(student: str, teacher: str, parts: int, weight: float | RunningWeight = 1.0) -> Distiller:
    student, teacher = (
        registry.build(name, input_size=(64, 96), class_names=CLASSES) for name in (student, teacher)
    )
    student.dropout = 0.0
    imitation = ImitationLoss(teacher.feature_channels, weight_decay=0.001)
    distiller = Distiller(student, teacher, imitation, imitation_weight=weight, gradient_accumulation=parts)
    distiller.compile(optimizer=MomentumSGD(0.0))
    return distiller


@pytest.fixture(name="statistics_at_rest")
def statistics_at_rest_fixture(monkeypatch):
    """Batch norm in its inference form, in training too."""
    original = BatchNorm.call

    def call(self, inputs, training=False):
        return original(self, inputs, training=False)

    monkeypatch.setattr(BatchNorm, "call", call)


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("tiny_plain", "tiny_teacher"), 6),
        pytest.param(("shuffledet_0.25x", "shuffledet_0.5x"), 3, marks=pytest.mark.slow),
    ],
    ids=["tiny", "shuffledet"],
)
@pytest.mark.usefixtures("statistics_at_rest")
def test_three_parts_give_the_gradient_and_losses_of_the_whole(run_mode, names, images):
    distiller, whole = distiller_of(*names, parts=3), batch(images)
    objects = whole["valid"].numpy().reshape(3, -1).sum(1)
    assert len(set(objects)) > 1  # parts with different counts, or nothing is shown
    # The same distiller, with the batch in one piece.
    with tf.GradientTape() as tape:
        terms = distiller.losses_of(whole, tf.constant(0, tf.int64))
        total = tf.add_n(list(terms.values()))
    expected = tape.gradient(total, distiller.trained_variables)
    assert float(terms["imitation_loss"]) > 0

    logs = run_mode(distiller.train_step)(whole)
    assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-5)
    for name, value in terms.items():
        assert float(logs[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-7), name
    for variable, gradient in zip(distiller.trained_variables, expected, strict=True):
        velocity = distiller.optimizer.get_slot(variable, "momentum").numpy()
        scale = max(1.0, float(np.abs(gradient).max()))
        np.testing.assert_allclose(velocity, gradient, rtol=0, atol=1e-5 * scale, err_msg=variable.name)


@pytest.mark.usefixtures("statistics_at_rest")
def test_three_parts_show_and_weigh_what_the_whole_does(run_mode):
    names, whole, shown = ("tiny_plain", "tiny_teacher"), batch(6), []
    models = [distiller_of(*names, parts=parts, weight=RunningWeight(0.7)) for parts in (1, 3)]
    for name in ("student", "teacher", "imitation"):
        getattr(models[1], name).set_weights(getattr(models[0], name).get_weights())
    for model in models:
        step = run_mode(model.train_step)
        step(whole)
        model.reset_metrics()
        shown.append({name: float(value) for name, value in step(whole).items()})
        shown[-1]["average"] = float(model.imitation_weight.detection)
    assert shown[1] == pytest.approx(shown[0], rel=1e-4)
    losses = sum(shown[0][name] for name in ("class_loss", "box_loss", "confidence_loss"))
    assert shown[0]["average"] == pytest.approx((1 - 0.98**2) * losses, rel=1e-4)
    assert shown[0]["imitation_loss"] == pytest.approx(0.7 * losses, rel=1e-4)  # the rate is 0: all stays
    assert 0 < shown[0]["imitation_mask_share"] < 1 and shown[0]["imitation_active_share"] > 0.9


def test_batch_norm_sees_each_part_on_its_own(run_mode):
    distiller, whole = distiller_of("tiny_plain", "tiny_teacher", parts=2), batch(4)
    student = distiller.student
    features = student.stem(student.preprocess(whole["image"])).numpy()
    first, second = (features[rows].mean((0, 1, 2)) for rows in (slice(2), slice(2, 4)))
    run_mode(distiller.train_step)(whole)
    expected = 0.9 * 0.1 * first + 0.1 * second
    np.testing.assert_allclose(student.norm.moving_mean.numpy(), expected, atol=1e-5)


def test_a_batch_whose_parts_have_no_object_at_all(run_mode):
    distiller, whole = distiller_of("tiny_plain", "tiny_teacher", parts=2), batch(4)
    whole["valid"] = tf.zeros_like(whole["valid"])
    logs = {name: float(value) for name, value in run_mode(distiller.train_step)(whole).items()}
    assert logs["class_loss"] == logs["box_loss"] == logs["imitation_loss"] == 0.0
    assert np.isfinite(list(logs.values())).all()
    slots = [distiller.optimizer.get_slot(v, "momentum").numpy() for v in distiller.trained_variables]
    assert all(np.isfinite(slot).all() for slot in slots)


def test_counts_of_a_part():
    part = {"valid": tf.constant([[True, True], [True, False]])}
    assert [float(v) for v in global_counts(part)] == [3.0, 2.0]
    assert (float(global_sum(tf.constant(5.0))), num_shares()) == (5.0, 1)
    with accumulating(4):
        assert (float(global_sum(tf.constant(5.0))), num_shares()) == (20.0, 4)
        known = {**part, "global_counts": tf.constant([7.0, 8.0])}
        assert [float(v) for v in global_counts(known)] == [7.0, 8.0]
    assert num_shares() == 1


def test_positions_of_the_whole_are_what_the_layer_divides_by():
    layer = ImitationLoss((12,), normalization=2.0)
    student = registry.build("tiny_plain", input_size=(64, 96), class_names=CLASSES)
    examples = batch(4)
    anchors, (boxes, valid) = student.imitation_anchors(64, 96), student.imitation_boxes(examples)
    features, teacher = tf.random.normal([4, 4, 6, 8]), tf.random.normal([4, 4, 6, 12])
    alone = float(layer([features], [teacher], anchors, boxes, valid))
    count, everywhere = layer.count_positions(anchors, boxes, valid).numpy()
    assert everywhere == 4 * 4 * 6
    assert count == sum(int(mask.numpy().sum()) for mask in layer.masks(anchors, boxes, valid)) > 0
    known = tf.constant([4 * count, everywhere])
    shared = layer([features], [teacher], anchors, boxes, valid, global_positions=known)
    assert float(shared) == pytest.approx(alone / 4, rel=1e-5)


def test_accumulating_run_ends_resumes_exactly_and_refuses_what_does_not_divide(experiment, tmp_path):
    whole, parts = (
        experiment(output_dir=str(tmp_path / name), gradient_accumulation=2) for name in ("whole", "parts")
    )
    assert run.train(whole).finished
    stop_at(4, lambda: run.train(parts))
    assert run.train(parts).finished
    assert_same(tmp_path / "whole/checkpoints/ckpt-6", tmp_path / "parts/checkpoints/ckpt-6")
    with pytest.raises(UserError, match="--gradient_accumulation=3 does not divide --batch_size=4"):
        run.train(experiment(gradient_accumulation=3))
