"""Against the whole shared arrays of Faster R-CNN: losses."""

import numpy as np
import pytest
import tensorflow as tf
from places import SHARED

from fgfi_tf.models.faster_rcnn import losses

SHARED_FOLDER = SHARED / "golden/frcnn"
if not SHARED_FOLDER.exists():
    pytest.skip(f"the shared reference data is absent: {SHARED_FOLDER}", allow_module_level=True)


@pytest.mark.shared_data
def test_smooth_l1_equals_the_reference(shared_path):
    golden = np.load(shared_path("golden/frcnn/smooth_l1.npz"))
    grid = tf.constant(golden["grid"])
    np.testing.assert_allclose(losses.smooth_l1(grid, 1.0), golden["elem_sigma1"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(losses.smooth_l1(grid, 3.0), golden["elem_sigma3"], rtol=1e-5, atol=1e-7)


@pytest.mark.shared_data
def test_rpn_box_loss_equals_the_reference(shared_path, run_mode):
    golden = np.load(shared_path("golden/frcnn/smooth_l1.npz"))

    def channels_last(name):
        return golden[name].transpose(0, 2, 3, 1)  # 1 x 8 x 10 x 36

    prediction = tf.constant(channels_last("rpn_pred"))
    inside = channels_last("rpn_inside").reshape(1, -1, 4)[..., 0]
    outside = channels_last("rpn_outside").reshape(1, -1, 4)[..., 0]
    labels = tf.constant(np.where(inside > 0, 1, np.where(outside > 0, 0, -1)))
    assert np.sum(outside > 0) == 272

    def compute(prediction):
        with tf.GradientTape() as tape:
            tape.watch(prediction)
            targets = tf.constant(channels_last("rpn_target").reshape(1, -1, 4))
            loss = losses.rpn_box_loss([prediction], targets, labels)
        return loss, tape.gradient(loss, prediction)

    loss, gradient = run_mode(compute)(prediction)
    np.testing.assert_allclose(loss, golden["rpn_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, channels_last("rpn_grad"), rtol=1e-5, atol=1e-8)


@pytest.mark.shared_data
def test_rcnn_box_loss_equals_the_reference(shared_path, run_mode):
    golden = np.load(shared_path("golden/frcnn/smooth_l1.npz"))
    labels = tf.constant(np.where(golden["rcnn_inside"][:, 0] > 0, 2, 0)[None])  # 1 x 256
    prediction = tf.constant(golden["rcnn_pred"][None])

    def compute(prediction):
        with tf.GradientTape() as tape:
            tape.watch(prediction)
            by_class = tf.concat([tf.ones([1, 256, 8]), prediction], axis=-1)  # classes 0, 1, 2
            loss = losses.rcnn_box_loss(by_class, tf.constant(golden["rcnn_target"][None]), labels)
        return loss, tape.gradient(loss, prediction)

    loss, gradient = run_mode(compute)(prediction)
    np.testing.assert_allclose(loss, golden["rcnn_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient[0], golden["rcnn_grad"], rtol=1e-5, atol=1e-8)
