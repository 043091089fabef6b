"""A small detector and pictures."""

from __future__ import annotations

import numpy as np
import pytest
from spread_weights import spread

from fgfi_tf.models import registry

CLASSES = ("Car", "Pedestrian", "Cyclist")
SIZE = (64, 96)


@pytest.fixture(scope="package", name="detector")
def detector_fixture():
    return spread(registry.build("shuffledet_0.25x", input_size=SIZE, class_names=CLASSES, dataset="kitti"))


@pytest.fixture(scope="package", name="pictures")
def pictures_fixture():
    """Six of two sizes, uint8 RGB."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (6, 8, 12, 3))
    sizes = [(75, 130)] * 4 + [(40, 60)] * 2
    return [
        np.kron(one, np.ones((12, 12, 1)))[:height, :width].astype(np.uint8)
        for one, (height, width) in zip(coarse, sizes, strict=True)
    ]
