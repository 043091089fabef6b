"""A resize policy by flag goes with the checkpoint: training, evaluation, prediction, SavedModel."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.data import registry as datasets
from fgfi_tf.data.augment import Augmentation, KittiAugmentation, VocAugmentation
from fgfi_tf.export import export
from fgfi_tf.models import loading, registry
from fgfi_tf.models.faster_rcnn import FasterRCNN
from fgfi_tf.models.shuffledet import ShuffleDet
from fgfi_tf.prediction import Predictor
from fgfi_tf.training import batches, evaluator, run
from fgfi_tf.training.config import ExperimentConfig

pytestmark = pytest.mark.usefixtures("short_shuffledet")

CLASSES = ("Car", "Pedestrian", "Cyclist")


def test_a_letterbox_run_predicts_as_it_evaluates(experiment, kitti, tmp_path):
    """Pictures of 64 x 96 in an input of 64 x 64: 43 x 64, on top of 21 rows of padding."""
    config = experiment(
        model="tiny_plain",
        resize="letterbox",
        input_size="64x64",
        steps=3,
        augmentation="none",
        options={},
    )
    folder = run.train(config).folder
    assert json.loads((folder.checkpoints / "model.json").read_text())["resize"] == "letterbox"
    detector = loading.load_detector(folder.root)
    assert detector.resize == "letterbox" and detector.declaration.resize == "stretch"
    dataset = datasets.open_split("kitti", str(kitti), "val")
    (batch,) = batches.evaluation_batches(detector, dataset, 3).take(1)
    assert batch["content_size"].numpy().tolist() == [[43, 64]] * 3
    evaluated = evaluator.batched_detector(detector)(dataset, 2)
    images = {
        s["image_id"].numpy().decode(): tf.io.decode_image(s["image"])[None].numpy()
        for s in dataset.records()
    }
    exported = Predictor.load(export(detector, tmp_path / "exported"))
    for predictor in (Predictor.of_detector(detector), exported):
        for name, expected in evaluated.items():
            (found,) = predictor(images[name])
            assert len(found["scores"]) > 0
            for key, value in expected.items():
                np.testing.assert_allclose(found[key], value, atol=1e-3, err_msg=key)


@pytest.mark.parametrize("name", ["shuffledet_0.25x", "faster_rcnn_vgg11"])
def test_padding_is_nothing_to_the_network(name, run_mode):
    """What a letterbox adds is 0 after preprocessing, and no imitation mask reaches it."""
    options = {"width": 0.02} if name == "faster_rcnn_vgg11" else {}
    detector = registry.build(name, input_size=(64, 64), class_names=("a",), resize="letterbox", **options)
    batch = {"image": tf.fill([1, 64, 64, 3], 9.0), "content_size": tf.constant([[40.0, 64.0]])}
    inputs = run_mode(lambda: detector.preprocess(detector.prepare_images(batch)["image"]))().numpy()
    assert np.all(inputs[:, 40:] == 0) and np.all(inputs[:, :40] != 0)
    (area,) = detector.imitation_valid_mask(batch, 64, 64)
    rows = 3 if name == "shuffledet_0.25x" else 2  # a cell that the picture touches, or one that it fills
    assert area.numpy()[0].sum(1).tolist() == [4] * rows + [0] * (4 - rows)


@pytest.mark.parametrize(
    ("name", "side", "options"),
    [("shuffledet_0.25x", 96, {}), ("ssd300_vgg11", 264, {"width": 0.03}), ("yolov2", 96, {"width": 0.03})],
)
def test_padding_in_training_is_that_of_evaluation(kitti, name, side, options):
    """Pictures of 64 x 96 fill the upper two thirds of a square, whatever else a detector prepares."""
    student = registry.build(
        name, input_size=(side, side), class_names=CLASSES, resize="letterbox", **options
    )
    dataset = datasets.open_split("kitti", str(kitti), "train")
    config = ExperimentConfig(batch_size=2, augmentation="none")
    trained = batches.training_batches(config, dataset, student, 0)
    colour, rows = np.float32(student.padding_color), 2 * side // 3
    for stream in (trained, batches.evaluation_batches(student, dataset, 2)):
        images = next(iter(stream))["image"].numpy()
        np.testing.assert_array_equal(images[:, rows:] - colour, 0.0)
        assert (images[:, :rows] != colour).any(axis=(1, 2, 3)).all()


def test_an_inference_copy_resizes_alike():
    detector = registry.build("shuffledet_0.25x", input_size=(64, 64), class_names=("a",), resize="letterbox")
    assert detector.inference_copy().resize == "letterbox"
    assert registry.build("shuffledet_0.25x", input_size=(64, 64), class_names=("a",)).metadata.resize == ""


def test_the_policy_of_an_experiment():
    def chosen(student, **changes):
        return batches.augmentation(ExperimentConfig(**changes), student)

    assert chosen(ShuffleDet) == KittiAugmentation() and chosen(FasterRCNN) == VocAugmentation()
    assert chosen(ShuffleDet, options={"drift": "40x20"}).shift_x == 40
    assert type(chosen(ShuffleDet, augment=False)) is Augmentation
    assert chosen(FasterRCNN, augment=False) == VocAugmentation(flip=0.0)
    assert chosen(FasterRCNN, augmentation="kitti", options={"brightness": 9}) == KittiAugmentation(
        brightness=9
    )
