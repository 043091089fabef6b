"""SSD from flags to checkpoint: as teacher and student, over several maps, resumed, evaluated, exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_run import assert_same, stop_at, weights

from fgfi_tf.errors import UserError
from fgfi_tf.export import export
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.levels import pair_by_stride
from fgfi_tf.models import loading, registry
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig
from fgfi_tf.prediction import detect_images
from fgfi_tf.training import build, checkpoints, evaluate_command, flags, run
from fgfi_tf.training.optimizers import MomentumSGD
from fgfi_tf.training.run_folder import RunFolder
from fgfi_tf.training.validation import validate

CLASSES = ("Car", "Pedestrian", "Cyclist")
CONFIGS = Path(__file__).resolve().parents[2] / "configs/ssd"
SIZE, WIDTH = (257, 257), 1 / 32


def small(kitti, folder, **changes):
    config = run.ExperimentConfig(
        input_size="257x257",
        data_dir=str(kitti),
        output_dir=str(folder),
        batch_size=2,
        learning_rate=1e-3,
        checkpoint_every=1,
        steps=2,
        **{
            "picture_every": 0,
            "model": "ssd300_vgg11",
            "augmentation": "ssd",
            "options": {"width": WIDTH},
            **changes,
        },
    )
    return validate(config)


@pytest.fixture(scope="module", name="teacher")
def teacher_fixture(kitti, tmp_path_factory):
    """The folder of a run of two steps, evaluated at the end."""
    folder = tmp_path_factory.mktemp("ssd") / "teacher"
    run.train(small(kitti, folder, model="ssd300_vgg16", evaluate_every=2))
    return folder


def imitating(teacher, **changes):
    given = {"imitation": True, "teacher_model": "ssd300_vgg16", "teacher_checkpoint": str(teacher)}
    return {**given, **changes}


def test_a_teacher_trains_is_evaluated_and_exported_as_the_same_function(kitti, teacher, tmp_path, capsys):
    assert list(json.loads(RunFolder(teacher).results.read_text())) == ["2"]
    assert json.loads((RunFolder(teacher).checkpoints / "model.json").read_text())["options"] == {
        "width": WIDTH
    }
    evaluate_command.evaluate(
        evaluate_command.EvaluateConfig(checkpoint=str(teacher), data_dir=str(kitti), val_split="val")
    )
    assert "Cyclist" in capsys.readouterr().out
    detector = loading.load_detector(teacher)
    for layer in detector.heads.logits:  # two steps leave all scores alike
        layer.kernel.assign(np.random.default_rng(0).normal(0, 0.3, layer.kernel.shape))
    images = tf.constant(np.random.default_rng(1).integers(0, 256, (2, 75, 130, 3)).astype(np.uint8))
    serve = tf.saved_model.load(str(export(detector, tmp_path / "exported"))).signatures["serving_default"]
    expected, found = detect_images(detector, images), serve(images=images)
    assert (found["count"].numpy() > 10).all()
    for name in ("count", "classes"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.05)


def test_a_student_imitates_all_six_maps_and_resumes_exactly(kitti, teacher, tmp_path):
    whole, parts = (
        small(kitti, tmp_path / name, imitation_levels="assigned", picture_every=2, **imitating(teacher))
        for name in ("whole", "parts")
    )
    run.train(whole)
    saved = weights(checkpoints.find_checkpoint(tmp_path / "whole"))
    kernels = {
        name: v for name, v in saved.items() if name.startswith("imitation/kernel") and "SLOT" not in name
    }
    assert sorted(value.shape for value in kernels.values()) == sorted(
        (3, 3, channels, channels) for channels in (16, 32, 16, 8, 8, 8)
    )
    assert all(np.isfinite(value).all() for value in saved.values())
    # The first batch holds no object, the second one four.
    first = weights(tmp_path / "whole/checkpoints/ckpt-1")
    assert not all(np.array_equal(value, first[name]) for name, value in kernels.items())
    stop_at(1, lambda: run.train(parts))
    assert run.train(parts).finished
    assert_same(tmp_path / "whole/checkpoints/ckpt-2", tmp_path / "parts/checkpoints/ckpt-2")


def batch_of(student, images=2, boxes=((20, 30, 90, 120), (100, 40, 250, 200))):
    """``images`` images with the two objects; the first has none."""
    batch = {
        "image": tf.random.stateless_uniform([images, *SIZE, 3], [1, 2], 0, 255),
        "boxes": tf.tile(tf.constant([boxes], tf.float32), [images, 1, 1]),
        "classes": tf.tile(tf.constant([[0, 2]]), [images, 1]),
        "valid": tf.range(images)[:, None] >= tf.constant([[1, 1]]),
        "content_size": tf.tile(tf.constant([SIZE], tf.float32), [images, 1]),
    }
    return student.prepare_batch(batch)


def ssd(variant="vgg11", **options):
    return registry.build(f"ssd300_{variant}", input_size=SIZE, class_names=CLASSES, width=WIDTH, **options)


def frcnn():
    """With two maps, of stride 8 and 16."""
    config = FasterRCNNConfig(backbone="vgg11", width=1 / 64, class_names=CLASSES, short_side=257)
    return FasterRCNN(config, backbone=VGG("vgg11", 1 / 64, taps=(4, 5)))


def shuffledet():
    return registry.build("shuffledet_0.25x", input_size=(256, 256), class_names=CLASSES)


def distiller_of(student, teacher, **changes):
    config = run.ExperimentConfig(model="s", teacher_model="t", teacher_checkpoint="runs/t", **changes)
    return Distiller(student, teacher, build._imitation(config, student, teacher))


@pytest.mark.parametrize("levels", ["best", "assigned", "each"])
def test_a_teacher_of_another_family(levels):
    """Faster R-CNN's two maps are compared with the first two of six, whose size they are given."""
    student = ssd()
    distiller = distiller_of(student, frcnn(), imitation_levels=levels)
    layer = distiller.imitation
    assert layer.paired() == ((0, 0), (1, 1))
    assert [tuple(kernel.shape) for kernel in layer.kernels] == [(3, 3, 16, 8), (3, 3, 32, 8)]
    batch = batch_of(student)
    found = distiller.losses_of(batch, tf.constant(0, tf.int64))
    masks = [mask.numpy() for mask in layer.masks(*distiller._mask_arguments(batch))]
    assert [mask.shape for mask in masks] == [(2, 33, 33), (2, 17, 17)]
    assert not any(mask[0].any() for mask in masks)  # no object
    # Sides of 80 and 156 pixels; the maps are for boxes from 26, 51, 95, 139 pixels on. The first box is the
    # second map's, whose anchors fit it too, and the second box has no business on either.
    rows, columns = np.nonzero(masks[1][1])
    inside = (rows * 16 < 130) & (columns * 16 < 100)
    assert inside.any() and masks[0][1].any() == (levels == "each") == (not inside.all())
    assert 0 < float(found["imitation_loss"]) < np.inf


def test_it_teaches_a_student_with_one_map():
    student, teacher = (
        shuffledet(),
        registry.build("ssd300_vgg16", input_size=(300, 300), class_names=CLASSES, width=WIDTH),
    )
    distiller = distiller_of(student, teacher)
    assert distiller.imitation.paired() == ((0, 1),)
    assert pair_by_stride((16,), teacher.feature_strides, 1, 6) == ((0, 1),)


def test_parts_of_a_batch_give_its_update():
    """Images with none and with many matched boxes in different parts: the sums are those of the whole."""
    logs, moved = [], []
    for parts in (1, 2):
        keras.utils.set_random_seed(0)
        student = ssd(default_boxes="coco")
        distiller = Distiller(student, gradient_accumulation=parts)
        distiller.compile(MomentumSGD(1e-3, 0.9))
        before = [variable.numpy() for variable in distiller.trained_variables]
        logs.append({k: float(v) for k, v in distiller.train_step(batch_of(student)).items()})
        after = [variable.numpy() for variable in distiller.trained_variables]
        moved.append(np.concatenate([np.ravel(a - b) for a, b in zip(after, before, strict=True)]))
    assert logs[0]["class_loss"] > 0.1 and logs[1] == pytest.approx(logs[0], rel=1e-5)
    assert np.abs(moved[0]).max() > 1e-4
    np.testing.assert_allclose(moved[1], moved[0], atol=1e-4 * np.abs(moved[0]).max())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.cfg")), ids=lambda path: path.stem)
def test_shipped_flagfiles(path):
    config = validate(flags.parse(["train.py", f"--flagfile={path}", "--data_dir=."]))
    assert config.output_dir == f"runs/ssd/{path.stem}"
    assert config.imitation == path.stem.endswith("_imitation")
    if path.stem == "voc_vgg16":  # the published recipe
        recipe = (config.learning_rate, config.batch_size, config.steps, config.lr_boundaries)
        assert recipe == (0.001, 32, 120_000, (80_000, 100_000))
        assert (config.momentum, config.decay_rate, config.size) == (0.9, 0.0005, (300, 300))
    if path.stem == "coco_vgg16":
        assert (config.steps, config.lr_boundaries) == (400_000, (280_000, 360_000))


def test_flags_are_checked(kitti, teacher, tmp_path):
    with pytest.raises(UserError, match="--input_size=200x257: height and width must be at least 257"):
        validate(
            run.ExperimentConfig(
                model="ssd300_vgg16", input_size="200x257", data_dir=str(kitti), output_dir=str(tmp_path)
            )
        )
    for options, message in (
        ({"matching": "both"}, "--matching=both"),
        ({"default_boxes": "kitti"}, "--default_boxes=kitti"),
        ({"width": 0.0}, "--width=0.0: must be above 0"),
        ({"drift": "1x1"}, "--drift: the augmentation policy ssd has no such option"),
    ):
        with pytest.raises(UserError, match=message):
            small(kitti, tmp_path, options=options)
    with pytest.raises(UserError, match="--imitation_levels=all"):
        small(kitti, tmp_path, imitation_levels="all")
    other = small(kitti, tmp_path / "run", **imitating(teacher), options={"width": WIDTH})
    with pytest.raises(UserError, match="is a checkpoint of ssd300_vgg16, not of ssd300_vgg11"):
        run.train(validate(other.__class__(**{**vars(other), "teacher_model": "ssd300_vgg11"})))
