"""The losses against hand-made values and the reference's, with gradients."""

import numpy as np
import tensorflow as tf
from places import GOLDEN

from fgfi_tf.models.faster_rcnn import losses


def test_smooth_l1_by_hand():
    values = losses.smooth_l1(tf.constant([0.0, 0.5, 1.0, -2.0]))
    np.testing.assert_allclose(values, [0, 0.125, 0.5, 1.5], rtol=1e-6)
    values = losses.smooth_l1(tf.constant([0.1, -1 / 9, 1.0]), sigma=3.0)
    np.testing.assert_allclose(values, [0.045, 1 / 18, 1 - 1 / 18], rtol=1e-5)


def test_smooth_l1_equals_the_reference():
    golden = np.load(GOLDEN / "frcnn/smooth_l1.npz")
    grid = tf.constant(golden["grid"])
    np.testing.assert_allclose(losses.smooth_l1(grid, 1.0), golden["elem_sigma1"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(losses.smooth_l1(grid, 3.0), golden["elem_sigma3"], rtol=1e-5, atol=1e-7)


def test_rpn_box_loss_equals_the_reference(run_mode):
    golden = np.load(GOLDEN / "frcnn/smooth_l1.npz")

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


def test_rcnn_box_loss_equals_the_reference(run_mode):
    golden = np.load(GOLDEN / "frcnn/smooth_l1.npz")
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


def test_class_losses_by_hand():
    scores = np.zeros([1, 1, 2, 18], np.float32)
    scores[0, 0, 0, 9] = 2.0  # anchor 0: object by a margin of 2
    scores[0, 0, 1, 3] = 1.0  # anchor 12: background by a margin of 1
    labels = np.full([1, 18], -1)
    labels[0, 0], labels[0, 12] = 1, 0
    loss = losses.rpn_class_loss([tf.constant(scores)], tf.constant(labels))
    np.testing.assert_allclose(loss, (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2, rtol=1e-6)

    logits = tf.constant([[[1.0, 0, 0], [0, 0, 2.0], [9, 9, 9]]])
    loss = losses.rcnn_class_loss(logits, tf.constant([[0, 2, -1]]))
    expected = (np.log(np.e + 2) - 1 + np.log(np.e**2 + 2) - 2) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_nothing_sampled_is_zero_with_zero_gradient():
    scores = tf.ones([1, 1, 1, 18])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        labels = tf.fill([1, 9], -1)
        loss = losses.rpn_class_loss([scores], labels)
        loss += losses.rpn_box_loss([tf.concat([scores] * 2, -1)], tf.zeros([1, 9, 4]), labels)
        loss += losses.rcnn_class_loss(tf.reshape(scores, [1, 6, 3]), tf.fill([1, 6], -1))
        loss += losses.rcnn_box_loss(
            tf.reshape(scores[..., :16], [1, 2, 8]), tf.zeros([1, 2, 4]), tf.fill([1, 2], -1)
        )
    assert loss == 0
    np.testing.assert_array_equal(tape.gradient(loss, scores), np.zeros([1, 1, 1, 18]))
