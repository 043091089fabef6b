"""Networks that are not as new, and their inference copies."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def spread_statistics(model):
    """Gives batch norm statistics other than 0 and 1, so that folding has something to fold."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        name = variable.name.split("/")[-1]
        if name.startswith(("moving_variance", "gamma")):
            variable.assign(generator.uniform(0.7, 1.4, variable.shape))
        elif name.startswith(("moving_mean", "beta", "bias")):
            variable.assign(generator.normal(0, 0.2, variable.shape))


def checked_inference_copy(detector, images):
    """The inference copy and its outputs: the same function as the detector, nothing in it is trained."""
    copy = detector.inference_copy()
    ours, theirs = copy(copy.preprocess(images)), detector(detector.preprocess(images))
    for found, expected in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert not copy.trainable_variables and not any("moving" in v.name for v in copy.variables)
    return copy, ours
