"""A class probability of exactly 1: finite loss and gradient, also after the graph is optimised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.models.shuffledet.losses import class_loss


@pytest.mark.parametrize(("label", "expected"), [(0, 0.0), (1, -2 * math.log(1e-16))])
def test_saturated_probability(label, expected, run_mode):
    def loss_and_gradient(logits, classes):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = class_loss(logits, tf.zeros([1, 1], tf.int32), classes, tf.ones([1, 1], tf.bool))
        return loss, tape.gradient(loss, logits)

    loss, gradient = run_mode(loss_and_gradient)(tf.constant([[[200.0, 0.0, 0.0]]]), tf.constant([[label]]))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()
