"""A small detector and pictures."""

from __future__ import annotations

import export
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
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


@pytest.fixture(scope="package", name="checkpoint")
def checkpoint_fixture(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    detector.metadata.write(folder)
    tf.train.Checkpoint(student=detector).write(str(folder / "ckpt-1"))
    return folder.parent


@pytest.fixture(scope="package", name="photos")
def photos_fixture(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="package", name="exported")
def exported_fixture(checkpoint, photos, tmp_path_factory):
    """What export.py writes: TFLite files in float32 and int8, and a SavedModel."""
    folder = tmp_path_factory.mktemp("device")
    flags = "--format=tflite,savedmodel --quantize=none,int8 --latency_runs=2 --check_images=4"
    given = [f"--checkpoint={checkpoint}", f"--output_dir={folder}", f"--images={photos}"]
    assert not export.main(["export.py", *given, *flags.split()])
    return folder
