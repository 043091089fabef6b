"""A padded batch of images of different shape is its images alone, in every term of the loss."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.geometry.anchors import repeat_cell, rounded_cell
from fgfi_tf.imitation.distiller import OBSERVED, Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig, rpn_targets
from fgfi_tf.training.optimizers import MomentumSGD

HEIGHT, WIDTH = 208, 272
# (height, width) of each picture in the padded batch; the third has no object
PICTURES = np.array([[208, 200], [150, 272], [208, 272], [206, 270]], np.float32)
START = tf.constant(0, tf.int64)
SMALL = {"width": 0.05, "dropout": 0.0, "train_pre_nms": 600, "train_post_nms": 60, "roi_batch": 32}


def _distiller(parts=1):
    keras.utils.set_random_seed(2)
    student, teacher = (
        FasterRCNN(FasterRCNNConfig(backbone=name, rpn_batch=48, **SMALL)) for name in ("vgg11", "vgg16")
    )
    imitation = ImitationLoss(teacher.feature_channels, **student.imitation_options())
    distiller = Distiller(
        student, teacher, imitation, imitation_weight=0.01, seed=5, gradient_accumulation=parts
    )
    distiller.compile(optimizer=MomentumSGD(0.0))
    return distiller


def _batch(student):
    generator = np.random.default_rng(4)
    boxes = np.zeros([4, 3, 4], np.float32)
    boxes[0, :2] = [[10, 20, 150, 180], [60, 90, 190, 200]]
    boxes[1, :1] = [[30, 10, 170, 140]]
    boxes[3] = [[5, 5, 110, 180], [90, 30, 260, 190], [120, 100, 150, 130]]
    valid = np.any(boxes > 0, axis=-1)
    batch = {
        "image": generator.uniform(0, 255, [4, HEIGHT, WIDTH, 3]).astype(np.float32),
        "boxes": boxes,
        "classes": np.where(valid, generator.integers(0, 20, valid.shape), 0).astype(np.int32),
        "valid": valid,
        "content_size": PICTURES,
    }
    return student.prepare_images({key: tf.constant(value) for key, value in batch.items()})


def _counts(distiller, batch):
    """What each term is a mean over, [4] each: sampled anchors, images, sampled RoIs, mask positions."""
    student = distiller.student
    anchors = tf.reshape(repeat_cell(rounded_cell(), HEIGHT // 16, WIDTH // 16, 16), [-1, 4])
    labels = rpn_targets.assign(anchors, batch["boxes"], batch["valid"], batch["content_size"]).labels
    # at most 48, of which at most 24 are objects
    positive = np.minimum(np.sum(labels.numpy() == 1, axis=1), 24)
    anchors_used = positive + np.minimum(np.sum(labels.numpy() == 0, axis=1), 48 - positive)
    (mask,) = distiller.imitation.masks(
        student.imitation_anchors(HEIGHT, WIDTH),
        *student.imitation_boxes(batch),
        student.imitation_valid_mask(batch, HEIGHT, WIDTH),
    )
    return {
        "rpn_class": anchors_used,
        "rpn_box": np.ones(4),
        "rcnn_class": np.full(4, 32),
        "rcnn_box": np.full(4, 32),
        "imitation_loss": np.sum(mask.numpy(), axis=(1, 2)),
    }


def _piece_by_piece(distiller, batch, size, weights):
    """Terms of the loss and gradients from pieces of ``size`` images; ``weights``: each piece's share."""
    terms = dict.fromkeys(weights, 0.0)
    with tf.GradientTape() as tape:
        for piece in range(4 // size):
            rows = {key: value[piece * size :][:size] for key, value in batch.items()}
            part = piece if distiller.gradient_accumulation > 1 else 0
            alone = distiller.losses_of(rows, START, part)
            assert alone.keys() == terms.keys()
            for name, value in alone.items():
                terms[name] += value * float(weights[name][piece])
        total = tf.add_n(list(terms.values()))
    return terms, tape.gradient(total, distiller.trained_variables)


def _assert_step(distiller, batch, run_mode, expected, expected_gradients):
    """A step has these losses; its velocities are these gradients, those of biases doubled, with decay."""
    logs = run_mode(distiller.train_step)(batch)
    assert logs.keys() == expected.keys() | {"loss", *OBSERVED}
    for name, value in expected.items():
        assert value > 0 and logs[name].dtype == tf.float32
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)
    largest = max(np.abs(g).max() for g in expected_gradients)
    student = distiller.student
    for variable, wanted in zip(distiller.trained_variables, expected_gradients, strict=True):
        velocity = distiller.optimizer.get_slot(variable, "momentum").numpy()
        found = velocity / student.learning_rate_multiplier(variable)
        found -= student.decay_rate(variable) * variable.numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * largest, err_msg=variable.name)


def test_batch_of_four_is_four_batches_of_one(run_mode):
    distiller = _distiller()
    batch = _batch(distiller.student)
    counts = _counts(distiller, batch)
    # or the weights would not be told from a plain mean
    assert len(set(counts["rpn_class"])) > 1 and len(set(counts["imitation_loss"])) == 4
    assert counts["imitation_loss"][2] == 0
    weights = {name: count / np.sum(count) for name, count in counts.items()}
    _assert_step(distiller, batch, run_mode, *_piece_by_piece(distiller, batch, 1, weights))


def test_accumulating_is_the_mean_of_the_parts_and_counts_positions_over_all(run_mode):
    distiller = _distiller(parts=2)
    batch = _batch(distiller.student)
    positions = _counts(distiller, batch)["imitation_loss"].reshape(2, 2).sum(axis=1)
    weights = dict.fromkeys(distiller.student.loss_names, (0.5, 0.5))
    weights["imitation_loss"] = positions / np.sum(positions)
    assert positions[0] != positions[1]
    _assert_step(distiller, batch, run_mode, *_piece_by_piece(distiller, batch, 2, weights))


@pytest.mark.long
def test_a_compiled_step_is_the_same():
    """XLA has no form of the one kernel for suppression, and takes its other form."""
    logs, moved = [], []
    for compiled in (False, True):
        keras.utils.set_random_seed(2)
        distiller = Distiller(FasterRCNN(FasterRCNNConfig(rpn_batch=48, **SMALL)))
        distiller.compile(MomentumSGD(0.0), jit_compile=compiled)
        step = distiller.make_train_function()
        found = step(iter(tf.data.Dataset.from_tensors(_batch(distiller.student))))
        logs.append({name: float(value) for name, value in found.items()})
        slots = [distiller.optimizer.get_slot(v, "momentum") for v in distiller.trained_variables]
        moved.append(np.concatenate([np.ravel(slot) for slot in slots]))
    assert logs[1] == pytest.approx(logs[0], rel=1e-4) and logs[0]["rcnn_class"] > 0.1
    assert np.linalg.norm(moved[1] - moved[0]) < 1e-3 * np.linalg.norm(moved[0])
