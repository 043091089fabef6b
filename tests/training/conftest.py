"""Fixtures of the trainer's tests: tiny detectors, a tiny data set, experiments made of them."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_detector

from fgfi_tf.training.config import ExperimentConfig


@pytest.fixture(autouse=True)
def _tiny_detectors():
    tiny_detector.register()
    yield
    tiny_detector.unregister()


@pytest.fixture(scope="session", name="kitti")
def kitti_fixture(tmp_path_factory):
    return tiny_detector.write_kitti(tmp_path_factory.mktemp("kitti"))


@pytest.fixture(name="experiment")
def experiment_fixture(kitti, tmp_path):
    """A function from changes to a small experiment in a folder of its own."""
    base = ExperimentConfig(
        model="tiny",
        input_size="64x96",
        data_dir=str(kitti),
        output_dir=str(tmp_path / "run"),
        batch_size=4,
        steps=6,
        learning_rate=0.02,
        options={"drift": "10x6"},
        summary_every=2,
        checkpoint_every=3,
        picture_every=0,
    )
    return lambda **changes: dataclasses.replace(base, **changes)
