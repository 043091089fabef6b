"""Weights that say something."""

from __future__ import annotations

import numpy as np


def spread(detector):
    """Weights far from a fresh network, in which all boxes are alike."""
    generator = np.random.default_rng(0)
    for variable in detector.variables:
        name = variable.name.split("/")[-1]
        if name.startswith("moving_variance"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif name.startswith(("moving_mean", "beta", "bias")):
            variable.assign(generator.normal(0, 0.2, variable.shape))
    if hasattr(detector, "network"):  # sizes of YOLOv2's boxes are exponentials of what it predicts
        kernel = detector.network.predict.kernel
        kernel.assign(generator.normal(0, 0.1, kernel.shape) / np.sqrt(kernel.shape[2]))
    if hasattr(detector, "head"):  # ShuffleDet's begins with hardly any weights
        detector.head.kernel.assign(generator.normal(0, 0.003, detector.head.kernel.shape))
    return detector
