"""The shared imitation layer on Faster R-CNN's grid, against the reference's masks and losses."""

import numpy as np
import pytest
import tensorflow as tf
from places import GOLDEN

from fgfi_tf.imitation import losses, masks
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.initializers import FoldedNormal


@pytest.fixture(scope="module", name="detector")
def _detector():
    return FasterRCNN(FasterRCNNConfig(width=0.05))


def _mask_arguments(detector, boxes, height):
    batch = {"boxes": tf.constant(boxes[..., :4]), "valid": tf.constant(boxes[..., 4] > 0)}
    return detector.imitation_anchors(height * 16 + 8, 800), *detector.imitation_boxes(batch)


def _golden_masks(golden, height):
    """bool [10, height, 50]."""
    bits = np.unpackbits(golden[f"mask_{height}x50"], count=10 * height * 50)
    return bits.reshape(10, height, 50).astype(bool)


@pytest.mark.parametrize("height", [37, 38])
def test_masks_equal_the_reference(detector, height, run_mode):
    golden = np.load(GOLDEN / "frcnn/imitation_mask.npz")
    anchors, boxes, valid = _mask_arguments(detector, golden["gt_boxes"], height)
    (mask,) = run_mode(masks.fine_grained_masks)(anchors, boxes, valid)
    expected = _golden_masks(golden, height)
    assert mask.shape == expected.shape and not expected[list(golden["names"]).index("no_boxes")].any()
    for index, name in enumerate(golden["names"]):
        np.testing.assert_array_equal(mask[index], expected[index], err_msg=str(name))


def test_best_iou_equals_the_reference(detector):
    golden = np.load(GOLDEN / "frcnn/imitation_mask.npz")
    anchors, boxes, valid = _mask_arguments(detector, golden["gt_boxes"], 37)
    best = tf.reduce_max(masks.best_iou_per_position(anchors[0], boxes), axis=(2, 3))
    np.testing.assert_allclose(tf.where(valid, best, 0.0), golden["max_iou_37x50"], atol=1e-6)


@pytest.mark.parametrize("squared_error", [losses.dense_squared_error, losses.gathered_squared_error])
def test_adaptation_and_gradient_equal_the_reference(squared_error):
    """6 x 6 positions of the reference's 37 x 50, of which 24 are in its mask of 401; 4 of 32 channels.

    Its loss is divided by 2 x 401. The gradient by the teacher's features is minus that by the adapted ones.
    """
    golden = np.load(GOLDEN / "frcnn/imitation_loss.npz")
    student = tf.constant(golden["student"][None])  # 1 x 8 x 8 x 32, one position around the 6 x 6
    kernel = tf.constant(golden["adapt_weight"].transpose(2, 3, 1, 0))
    bias = tf.constant(golden["adapt_bias"])
    adapted = losses.adapt(student, kernel, bias)[0, 1:7, 1:7]
    np.testing.assert_allclose(adapted, golden["adapted"], rtol=1e-4, atol=1e-5)
    around = [[0, 0], [1, 1], [1, 1], [0, 0]]
    teacher = tf.pad(golden["teacher"][None], around)
    mask = tf.pad(tf.constant(golden["mask"][None] > 0), around[:3])
    assert golden["positions"] == 401 and np.sum(mask) == 24
    with tf.GradientTape() as tape:
        tape.watch(teacher)
        loss = squared_error(student, teacher, mask, kernel, bias)[0] / (2.0 * 401)
    found = -tape.gradient(loss, teacher)[0, 1:7, 1:7]
    np.testing.assert_allclose(found, golden["grad_adapted"], rtol=1e-4, atol=1e-8)
    difference = (golden["adapted"] - golden["teacher"])[golden["mask"] > 0].astype(np.float64)
    np.testing.assert_allclose(loss, (difference**2).sum() / 802, rtol=1e-4)


@pytest.mark.parametrize("compute", ["dense", "gathered"])
def test_layer_on_the_reference_boxes(detector, compute, run_mode):
    """Features of 1 channel that are 1 and 3 everywhere, a kernel of its middle alone: (2 * 1 - 3)^2 / 2."""
    golden = np.load(GOLDEN / "frcnn/imitation_mask.npz")
    anchors, truths, valid = _mask_arguments(detector, golden["gt_boxes"], 37)
    layer = ImitationLoss([1], compute=compute, activation="relu")
    layer.build([[None, 37, 50, 1]])
    kernel = np.zeros([3, 3, 1, 1], np.float32)
    kernel[1, 1] = 2.0
    layer.set_weights([kernel, np.zeros([1], np.float32)])
    student, teacher = tf.ones([10, 37, 50, 1]), tf.fill([10, 37, 50, 1], 3.0)
    call = run_mode(lambda s, t: layer([s], [t], anchors, truths, valid))
    np.testing.assert_allclose(call(student, teacher), 0.5, rtol=1e-5)
    # nothing beyond the reference's masks is looked at
    expected = _golden_masks(golden, 37)[..., None]
    np.testing.assert_allclose(call(student, tf.where(expected, teacher, np.nan)), 0.5, rtol=1e-5)


def test_one_pixel_and_no_boxes_give_no_mask(detector):
    batch = {
        "boxes": tf.constant([[[30.0, 40, 30, 40]], [[0.0, 0, 0, 0]]]),
        "valid": tf.constant([[True], [False]]),
    }
    boxes, valid = detector.imitation_boxes(batch)
    (mask,) = masks.fine_grained_masks(detector.imitation_anchors(160, 192), boxes, valid)
    assert not np.any(mask)
    layer = ImitationLoss(detector.feature_channels)
    features = [tf.ones([2, 10, 12, detector.feature_channels[0]])]
    assert layer(features, features, detector.imitation_anchors(160, 192), boxes, valid) == 0


def test_adaptation_starts_as_published(detector):
    values = FoldedNormal(1e-4)([200_000]).numpy()
    assert np.abs(values).max() < 2e-4
    # |z| mod 2 has more mass near 0 than a truncated normal: P(|v| < 0.1) = P(|z| < 0.1 or 2 <= |z| < 2.1)
    np.testing.assert_allclose(np.mean(np.abs(values) < 1e-5), 0.0797 + 0.0098, atol=3e-3)
    initializers = detector.imitation_options()
    bias = initializers["bias_initializer"]([10_000]).numpy()
    bound = (9 * detector.feature_channels[0]) ** -0.5
    assert bound * 0.99 < bias.max() < bound and -bound < bias.min() < -bound * 0.99
