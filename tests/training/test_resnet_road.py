"""Faster R-CNNs on ResNets, and a pyramid on VGG, on the whole road: taught, resumed, evaluated, exported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_run import assert_same, stop_at, weights
from voc_fixtures import write_devkit

from fgfi_tf.export import export
from fgfi_tf.models import loading
from fgfi_tf.prediction import Predictor, detect_images
from fgfi_tf.training import evaluate_command, run
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.validation import validate

NARROW = {"width": 1 / 16, "frozen_stages": 0}
FAMILIES = {
    "faster_rcnn_resnet18": {**NARROW, "norm": "synchronised"},
    "faster_rcnn_resnet18_fpn": {**NARROW, "fpn_channels": 8, "head_units": 16},
    "faster_rcnn_vgg11_fpn": {"width": 1 / 16, "frozen_layers": 0, "fpn_channels": 8, "head_units": 16},
}
QUICK = "faster_rcnn_resnet18_fpn"


def experiment(data, output, model, **changes):
    options = {
        "model": model,
        "input_size": "128x192" if model.endswith("fpn") else "160x0",
        "options": FAMILIES[model],
        "dataset": "voc",
        "data_dir": str(data),
        "train_split": "2012_train",
        "val_split": "2012_val",
        "output_dir": str(output),
        "batch_size": 2,
        "steps": 2,
        "learning_rate": 0.003,
        "schedule": "constant",
        "clip_norm": 10.0,
        "checkpoint_every": 1,
        "picture_every": 0,
    }
    return validate(ExperimentConfig.of(**{**options, **changes}))


@pytest.fixture(scope="module", name="data")
def data_fixture(tmp_path_factory):
    return write_devkit(tmp_path_factory.mktemp("voc"))


@pytest.fixture(
    scope="module",
    name="runs",
    params=[pytest.param(name, marks=() if name == QUICK else pytest.mark.long) for name in FAMILIES],
)
def runs_fixture(request, data, tmp_path_factory):
    """The family's name, and the folders of a teacher and of a student that imitates it."""
    model, folder = request.param, tmp_path_factory.mktemp("runs")
    run.train(experiment(data, folder / "teacher", model, steps=1))
    student = experiment(data, folder / "student", model, **imitating(folder / "teacher"))
    assert run.train(student).finished
    return model, folder


def imitating(teacher):
    return {"imitation": True, "teacher_checkpoint": str(teacher), "imitation_weight": 0.1}


@pytest.mark.slow
def test_a_student_imitates_and_resumes_exactly(runs, data, tmp_path):
    model, folder = runs
    last = folder / "student/checkpoints/ckpt-2"
    kernels = [name for name in weights(last) if name.startswith("imitation/kernel") and "SLOT" not in name]
    assert len(kernels) == (5 if model.endswith("fpn") else 1)
    metadata = json.loads((last.parent / "model.json").read_text())
    assert metadata["model"] == model and "resize" not in metadata
    assert metadata["options"] == FAMILIES[model]
    parts = experiment(data, tmp_path / "parts", model, **imitating(folder / "teacher"))
    stop_at(1, lambda: run.train(parts))
    assert run.train(parts).finished
    assert_same(last, tmp_path / "parts/checkpoints/ckpt-2")


@pytest.mark.slow
def test_evaluated_exported_and_predicted(runs, data, tmp_path, capsys):
    _, folder = runs
    detector = loading.load_detector(folder / "student")
    bias = detector.head.scores.bias  # two steps leave no score above torchvision's threshold
    bias.assign(tf.tensor_scatter_nd_update(tf.convert_to_tensor(bias), [[12]], [3.0]))
    exported = Predictor.load(export(detector, tmp_path / "exported"))
    size = (90, 50)
    image = np.random.default_rng(1).integers(0, 256, (1, *size, 3)).astype(np.uint8)
    found, expected = exported(image)[0], detect_images(detector, tf.constant(image))
    count = int(expected["count"][0])
    assert len(found["scores"]) == count > 0
    np.testing.assert_allclose(found["scores"], expected["scores"][0, :count], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"][0, :count], atol=0.05)
    assert found["boxes"][:, 2].max() <= size[1] and found["boxes"][:, 3].max() <= size[0]
    evaluate_command.evaluate(
        evaluate_command.EvaluateConfig(checkpoint=str(folder / "student"), data_dir=str(data))
    )
    assert "PASCAL VOC" in capsys.readouterr().out
    predict(tmp_path, data)


def predict(tmp_path, data):
    import predict as script

    images = data / "VOCdevkit/VOC2012/JPEGImages"
    arguments = [f"--model_path={tmp_path}/exported", f"--images={images}", f"--output_dir={tmp_path}/found"]
    assert script.main(["predict.py", *arguments]) == 0
    assert (Path(tmp_path) / "found/comp4_det_images_dog.txt").is_file()
