"""Detectors on a backbone, from flags to checkpoint: as teacher, as student, resumed, exported."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from test_run import assert_same, stop_at, weights

from fgfi_tf.errors import UserError
from fgfi_tf.export import export
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models import loading, pixels, registry
from fgfi_tf.prediction import detect_images
from fgfi_tf.training import checkpoints, run
from fgfi_tf.training.validation import validate

MODEL = "efficientnet_lite0_shuffledet"
CLASSES = ("Car", "Pedestrian", "Cyclist")


@pytest.fixture(scope="module", name="teacher")
def teacher_fixture(kitti, tmp_path_factory):
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("backbone") / "teacher"
    run.train(small(kitti, folder, model=MODEL, steps=2))
    return folder


def small(kitti, folder, **changes):
    config = run.ExperimentConfig(
        input_size="64x96",
        data_dir=str(kitti),
        output_dir=str(folder),
        batch_size=2,
        optimizer="adam",
        learning_rate=1e-3,
        clip_norm=20.0,
        checkpoint_every=1,
        picture_every=0,
        **{"options": {"drift": "10x6"}, **changes},
    )
    return validate(config)


def imitating(teacher):
    return {"imitation": True, "teacher_model": MODEL, "teacher_checkpoint": str(teacher)}


def test_the_checkpoint_is_restored_and_exported_as_the_same_function(teacher, tmp_path):
    saved = weights(checkpoints.find_checkpoint(teacher))
    detector = loading.load_detector(teacher)
    stem = detector.backbone.trunk.stem.kernel
    assert any(value.shape == stem.shape and (value == stem.numpy()).all() for value in saved.values())
    assert not any("imitation" in name for name in saved)
    for variable in detector.variables:  # two steps leave all boxes alike
        if "conv12" in variable.name:
            variable.assign(np.random.default_rng(0).normal(0, 0.05, variable.shape))
    images = tf.constant(np.random.default_rng(1).integers(0, 256, (2, 75, 130, 3)).astype(np.uint8))
    serve = tf.saved_model.load(str(export(detector, tmp_path / "exported"))).signatures["serving_default"]
    expected, found = detect_images(detector, images), serve(images=images)
    assert (found["count"].numpy() > 0).all()
    np.testing.assert_array_equal(found["classes"], expected["classes"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.05)


def test_it_teaches_a_student_of_another_kind(kitti, teacher, tmp_path):
    result = run.train(
        small(kitti, tmp_path / "run", model="shuffledet_0.25x", steps=2, **imitating(teacher))
    )
    saved = weights(result.folder.checkpoints / "ckpt-2")
    kernels = [
        v.shape for name, v in saved.items() if name.startswith("imitation/kernel") and "SLOT" not in name
    ]
    assert set(kernels) == {(3, 3, 192, 256)}
    assert all(np.isfinite(value).all() for value in saved.values())


def test_it_learns_from_its_own_kind(kitti, teacher, tmp_path):
    result = run.train(small(kitti, tmp_path / "run", model=MODEL, steps=1, **imitating(teacher)))
    saved = weights(result.folder.checkpoints / "ckpt-1")
    assert any(name.startswith("imitation/kernel") for name in saved)
    assert all(np.isfinite(value).all() for value in saved.values())


@pytest.mark.long
def test_it_resumes_exactly(kitti, teacher, tmp_path):
    parts = small(kitti, tmp_path / "parts", model=MODEL, steps=2)
    stop_at(1, lambda: run.train(parts))
    assert run.train(parts).finished
    assert_same(teacher / "checkpoints/ckpt-2", tmp_path / "parts/checkpoints/ckpt-2")


def test_a_teacher_given_other_pixels_gets_its_own():
    student, teacher = (registry.build(MODEL, input_size=(64, 96), class_names=CLASSES) for _ in range(2))
    given = []

    def features(inputs):
        given.append(inputs)
        return (tf.zeros([1, 4, 6, 256]),)

    teacher.imitation_features = features
    batch = {
        "image": tf.random.uniform([1, 64, 96, 3], 0, 255),
        "boxes": tf.constant([[[10.0, 10, 40, 40]]]),
        "classes": tf.constant([[0]]),
        "valid": tf.constant([[True]]),
    }
    distiller = Distiller(student, teacher, ImitationLoss(teacher.feature_channels))
    distiller.losses_of(batch, tf.constant(0, tf.int64))
    teacher.pixels = pixels.CAFFE
    distiller.losses_of(batch, tf.constant(0, tf.int64))
    np.testing.assert_allclose(given[0], (batch["image"] - 127) / 128, atol=1e-6)
    np.testing.assert_allclose(given[1], batch["image"][..., ::-1] - [103.939, 116.779, 123.68], atol=1e-4)


def test_sizes_and_options_are_checked_by_flag(kitti, tmp_path):
    with pytest.raises(UserError, match=r"--input_size=16x96: height and width must be at least 32"):
        validate(
            run.ExperimentConfig(
                model=MODEL, input_size="16x96", data_dir=str(kitti), output_dir=str(tmp_path)
            )
        )
    with pytest.raises(
        UserError, match=rf"--width: the detector {MODEL} has no such option \(it has --dropout, --anchors\)"
    ):
        small(kitti, tmp_path, model=MODEL, options={"width": 0.5})
