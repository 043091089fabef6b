"""Against the whole shared arrays of Faster R-CNN: imitation."""

import numpy as np
import pytest
import tensorflow as tf
from places import SHARED

from fgfi_tf.imitation import losses, masks
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig

SHARED_FOLDER = SHARED / "golden/frcnn"
if not SHARED_FOLDER.exists():
    pytest.skip(f"the shared reference data is absent: {SHARED_FOLDER}", allow_module_level=True)


@pytest.fixture(scope="module", name="detector")
def _detector():
    return FasterRCNN(FasterRCNNConfig(width=0.05))


def _mask_arguments(detector, boxes, height):
    batch = {"boxes": tf.constant(boxes[..., :4]), "valid": tf.constant(boxes[..., 4] > 0)}
    return detector.imitation_anchors(height * 16 + 8, 800), *detector.imitation_boxes(batch)


@pytest.mark.shared_data
@pytest.mark.parametrize("height", [37, 38])
def test_masks_equal_the_reference(shared_path, detector, height, run_mode):
    golden = np.load(shared_path("golden/frcnn/imitation_mask.npz"))
    anchors, boxes, valid = _mask_arguments(detector, golden["gt_boxes"], height)
    (mask,) = run_mode(masks.fine_grained_masks)(anchors, boxes, valid)
    expected = golden[f"mask_{height}x50"].astype(bool)
    assert mask.shape == expected.shape and not expected[list(golden["names"]).index("no_boxes")].any()
    for index, name in enumerate(golden["names"]):
        np.testing.assert_array_equal(mask[index], expected[index], err_msg=str(name))


@pytest.mark.shared_data
def test_best_iou_equals_the_reference(shared_path, detector):
    golden = np.load(shared_path("golden/frcnn/imitation_mask.npz"))
    anchors, boxes, valid = _mask_arguments(detector, golden["gt_boxes"], 37)
    best = tf.reduce_max(masks.best_iou_per_position(anchors[0], boxes), axis=(2, 3))
    np.testing.assert_allclose(tf.where(valid, best, 0.0), golden["max_iou_37x50"], atol=1e-6)


@pytest.mark.shared_data
@pytest.mark.parametrize("squared_error", [losses.dense_squared_error, losses.gathered_squared_error])
def test_loss_and_gradients_equal_the_reference(shared_path, squared_error):
    golden = np.load(shared_path("golden/frcnn/imitation_loss.npz"))
    student = tf.constant(golden["student"].transpose(0, 2, 3, 1))
    teacher = tf.constant(golden["teacher"].transpose(0, 2, 3, 1))
    kernel = tf.constant(golden["adapt_weight"].transpose(2, 3, 1, 0))
    bias = tf.constant(golden["adapt_bias"])
    for index in range(3):
        mask = tf.constant(golden["masks"][index : index + 1] > 0)
        with tf.GradientTape() as tape:
            tape.watch([student, kernel, bias])
            loss = squared_error(student, teacher, mask, kernel, bias)[0] / (
                2.0 * golden["masks"][index].sum()
            )
        by_student, by_kernel, by_bias = tape.gradient(loss, [student, kernel, bias])
        np.testing.assert_allclose(loss, golden[f"loss_{index}"], rtol=1e-5)
        np.testing.assert_allclose(0.01 * loss, golden[f"weighted_loss_{index}"], rtol=1e-5)
        np.testing.assert_allclose(by_bias, golden[f"grad_bias_{index}"], rtol=1e-4, atol=1e-5)
        expected = golden[f"grad_weight_{index}"].transpose(2, 3, 1, 0)
        np.testing.assert_allclose(by_kernel, expected, rtol=1e-4, atol=1e-5)
        if index == 0:
            expected = golden["grad_student_0"].transpose(0, 2, 3, 1)
            np.testing.assert_allclose(by_student, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.shared_data
@pytest.mark.parametrize("compute", ["dense", "gathered"])
def test_layer_on_the_reference_boxes(shared_path, detector, compute):
    golden = np.load(shared_path("golden/frcnn/imitation_loss.npz"))
    boxes = np.load(shared_path("golden/frcnn/imitation_mask.npz"))["gt_boxes"][[0, 2]]
    student = tf.constant(golden["student"].transpose(0, 2, 3, 1))
    layer = ImitationLoss([32], compute=compute, activation="relu")
    layer.build([student.shape])
    layer.set_weights([golden["adapt_weight"].transpose(2, 3, 1, 0), golden["adapt_bias"]])
    anchors, truths, valid = _mask_arguments(detector, boxes, 37)
    teacher = tf.constant(golden["teacher"].transpose(0, 2, 3, 1))
    for index in range(2):
        loss = layer([student], [teacher], anchors, truths[index : index + 1], valid[index : index + 1])
        np.testing.assert_allclose(loss, golden[f"loss_{index}"], rtol=1e-5)
