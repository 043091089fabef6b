"""ShuffleDet's losses by hand and beside the published loss, one GPU of the published run after the other."""

import math

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.models.shuffledet import losses

SIZE = (384, 1248)
# (cx, cy, w, h), far from every border
ANCHORS = np.array(
    [[200, 100, 40, 20], [400, 200, 80, 40], [600, 150, 60, 60], [900, 250, 100, 50]], np.float32
)


def compute(split, targets, anchors=ANCHORS, run_mode=lambda f: f):
    valid = targets["valid"]
    counts = (tf.constant(float(np.sum(valid))), tf.constant(float(len(valid))))
    found = run_mode(losses.detection_losses)(
        {k: tf.constant(v, tf.float32) for k, v in split.items()},
        {k: tf.constant(v) for k, v in targets.items()},
        tf.constant(anchors),
        SIZE,
        *counts,
    )
    return {name: float(value) for name, value in found.items()}


def test_all_three_by_hand(run_mode):
    """Two images of four anchors; three objects, on anchors 1 and 3 of image 0 and on 2 of image 1."""
    split = {
        "class_logits": np.zeros([2, 4, 3]),  # all classes 1/3
        "confidence_logits": np.zeros([2, 4]),  # all confidences 1/2
        "deltas": np.zeros([2, 4, 4]),  # boxes are the anchors, one pixel larger
    }
    split["class_logits"][0, 1] = np.log([2, 1, 1])  # 1/2, 1/4, 1/4
    split["confidence_logits"][1, 2] = math.log(3)  # 3/4
    split["deltas"][0, 3] = [0.5, 0, 0, 0]
    targets = {
        # Anchor 1 decodes to (360, 180) .. (440 + 1, 220 + 1), 81 x 41: a box of just that has IoU 1.
        # Anchor 2 to (570, 120) .. (631, 181): the box is its left 30.5 pixels, IoU 1/2. Anchor 3 is half a
        # width off, where no box is.
        "boxes": np.array(
            [
                [[400.5, 200.5, 81, 41], [100, 300, 20, 20], [0, 0, 0, 0]],
                [[570 + 15.25, 150.5, 30.5, 61], [0, 0, 0, 0], [0, 0, 0, 0]],
            ],
            np.float32,
        ),
        "classes": np.array([[0, 2, 0], [1, 0, 0]], np.int32),
        "valid": np.array([[True, True, False], [True, False, False]]),
        "anchor_index": np.array([[1, 3, 0], [2, 0, 0]], np.int32),
        "deltas": np.array(
            [[[0, 0.1, 0, 0], [0.25, 0, 0, -0.5], [9] * 4], [[0, 0, 0.2, 0], [9] * 4, [9] * 4]],
            np.float32,
        ),
    }
    found = compute(split, targets, run_mode=run_mode)
    # Right class: -ln p, each wrong one: -ln (1 - p). Objects on 1/2, 1/4, 1/4 (the first right), 1/3 twice.
    first, other = math.log(2) + 2 * math.log(4 / 3), math.log(3) + 2 * math.log(3 / 2)
    assert found["class_loss"] == pytest.approx((first + 2 * other) / 3, rel=1e-5)
    # IoUs 1, 0, 1/2 against confidences 1/2, 1/2, 3/4, weight 75 over 3 objects; the five other anchors'
    # 1/2 against 0, weight 100 over 4 - 3 anchors; the mean of two images.
    on_object, elsewhere = 1 / 4 + 1 / 4 + 1 / 16, 5 / 4
    expected = (75 / 3 * on_object + 100 / max(4 - 3, 4 / 2) * elsewhere) / 2
    assert found["confidence_loss"] == pytest.approx(expected, rel=1e-5)
    # 5 times the squares 0.1, 0.25 and 0.5, 0.2 over 3 objects
    assert found["box_loss"] == pytest.approx(5 * (0.01 + 0.0625 + 0.25 + 0.04) / 3, rel=1e-5)


def published_gpu(confidence, iou, assigned):
    """The 2019 code's confidence loss of one GPU: confidence, iou [B, A], assigned bool [B, A]."""
    objects = assigned.sum()
    weight = np.where(assigned, 75 / objects, 100 / (assigned.shape[1] - objects))
    return (weight * (np.where(assigned, iou, 0) - confidence) ** 2).sum(axis=1).mean()


def scene(images, objects, anchors=16848, seed=0):
    """Random confidences; each image's ``objects`` on its first anchors, at which boxes fit with IoU 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, anchors)).astype(np.float32)
    grid = np.tile([[600.0, 190.0, 50.0, 30.0]], [anchors, 1]).astype(np.float32)
    rows = max(objects)
    valid = np.arange(rows) < np.array(objects)[:, None]
    index = np.tile(np.arange(rows, dtype=np.int32), [images, 1])
    box = np.array([600.5, 190.5, 51, 31], np.float32)  # what the anchor decodes to
    targets = {
        "boxes": np.tile(box, [images, rows, 1]) * valid[..., None],
        "classes": np.zeros([images, rows], np.int32),
        "valid": valid,
        "anchor_index": np.where(valid, index, 0),
        "deltas": np.zeros([images, rows, 4], np.float32),
    }
    split = {
        "class_logits": np.zeros([images, anchors, 3]),
        "confidence_logits": logits,
        "deltas": np.zeros([images, anchors, 4]),
    }
    assigned = np.zeros([images, anchors], bool)
    assigned[:, :rows] = valid
    return split, targets, grid, 1 / (1 + np.exp(-logits.astype(np.float64))), assigned


@pytest.mark.parametrize("images", [1, 2, 8])
def test_confidence_loss_of_one_gpu_is_the_published_one(images):
    objects = ([5, 1, 12, 3] * 2)[:images]
    split, targets, grid, confidence, assigned = scene(images, objects)
    expected = published_gpu(confidence, 1.0, assigned)
    assert compute(split, targets, grid)["confidence_loss"] == pytest.approx(expected, rel=1e-5)


def test_confidence_loss_of_the_published_recipe(run_mode):
    """Batch 32: 4 GPUs with 8 images each, whose gradients (so, losses) are averaged."""
    split, targets, grid, confidence, assigned = scene(32, [5, 1, 12, 3, 4, 9, 2, 6] * 4)
    gpus = [published_gpu(confidence[i : i + 8], 1.0, assigned[i : i + 8]) for i in range(0, 32, 8)]
    found = compute(split, targets, grid, run_mode)["confidence_loss"]
    assert found == pytest.approx(np.mean(gpus), rel=1e-5)


@pytest.mark.parametrize(
    ("images", "objects", "anchors", "divisors"),
    [
        # objects * min(images, 8); max(A - objects of 8 images, A / 2) * images
        (2, 6, 216, (12, 2 * 210)),
        (32, 160, 16848, (160 * 8, 32 * (16848 - 40))),
        (32, 160, 144, (160 * 8, 32 * 104)),  # the old denominator: 144 - 160
        (32, 216, 216, (216 * 8, 32 * 162)),  # the old one: 0
        (32, 1152, 144, (1152 * 8, 32 * 72)),  # 288 objects in 8 images: A / 2
        (1, 144, 144, (144, 72)),  # every anchor assigned
        (4, 0, 216, (4, 4 * 216)),  # nothing to learn
        (64, 1, 216, (8, 64 * (216 - 1 / 8))),
    ],
)
def test_divisors_of_any_batch(images, objects, anchors, divisors):
    arguments = (tf.constant(float(x)) for x in (objects, images, anchors))
    np.testing.assert_allclose(losses.confidence_divisors(*arguments), divisors, rtol=1e-6)


def test_small_input_and_large_batch_are_finite_and_positive(run_mode):
    """More objects in the batch (160) than anchors in an image (144): negative before."""
    split, targets, grid, confidence, assigned = scene(32, [5] * 32, anchors=144)
    found = compute(split, targets, grid, run_mode)
    on_object = ((1 - confidence) ** 2)[assigned].sum()
    elsewhere = (confidence**2)[~assigned].sum()
    expected = 75 * on_object / (160 * 8) + 100 * elsewhere / (104 * 32)
    assert found["confidence_loss"] == pytest.approx(expected, rel=1e-5)
