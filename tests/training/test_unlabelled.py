"""``--unlabelled_dir``: pictures whose boxes are the teacher's, in the loss, in the batch and in a run."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf
import tiny_detector
from PIL import Image
from test_run import assert_same, stop_at, teacher_fixture  # noqa: F401  a fixture

from fgfi_tf.data import pipeline
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models import registry
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.prediction import ImageFile
from fgfi_tf.training import early, run, unlabelled
from fgfi_tf.training.validation import validate

pytestmark = pytest.mark.usefixtures("short_shuffledet")

CLASSES = tiny_detector.CLASSES
FRCNN = {"width": 0.05, "dropout": 0.0, "train_pre_nms": 600, "train_post_nms": 100, "rpn_batch": 16}
MODELS = {
    "tiny_plain": ("tiny_teacher", (64, 96), {}),
    "shuffledet_0.25x": ("shuffledet_0.25x", (64, 96), {"dropout": 0.0}),
    "faster_rcnn_vgg11": ("faster_rcnn_vgg11", (160, 0), FRCNN),
}


def batch_of(count: int, height: int, width: int) -> dict[str, tf.Tensor]:
    """``count`` pictures of noise with two objects each."""
    generator = np.random.default_rng(5)
    corner = generator.uniform(0, [width / 2, height / 3], (count, 2, 2))
    side = generator.uniform(height / 3, height / 2, (count, 2, 2))
    return {
        "image": tf.constant(generator.uniform(0, 255, (count, height, width, 3)), tf.float32),
        "content_size": tf.constant([[height, width]] * count, tf.float32),
        "boxes": tf.constant(np.concatenate([corner, corner + side], -1), tf.float32),
        "classes": tf.constant(generator.integers(0, 3, (count, 2)), tf.int32),
        "valid": tf.constant(generator.uniform(size=(count, 2)) < 0.8),
    }


def rows(batch, chosen):
    return tf.nest.map_structure(lambda x: x[chosen], batch)


def parts_of(model, monkeypatch):
    """A student and teacher, their layer, and five images without batch norm's statistics of a batch."""
    original = BatchNorm.call
    monkeypatch.setattr(BatchNorm, "call", lambda self, x, training=False: original(self, x, training=False))
    teacher, size, options = MODELS[model]
    student = registry.build(model, input_size=size, class_names=CLASSES, **options)
    guide = registry.build(teacher, input_size=size, class_names=CLASSES, **options)
    layer = ImitationLoss(guide.feature_channels, kernel_initializer="glorot_uniform")
    return student, guide, layer, student.prepare_batch(batch_of(5, size[0], size[1] or 240))


def losses(distiller, batch, run_mode=lambda function: function):
    found = run_mode(lambda: distiller.losses_of(batch, tf.constant(3, tf.int64)))()
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("model", [name for name in MODELS if name != "tiny_plain"])
def test_detection_losses_of_a_mixed_batch(model, monkeypatch):
    """Those of its two labelled images alone, whatever the detector's outputs are."""
    student, guide, layer, batch = parts_of(model, monkeypatch)
    found = losses(Distiller(student, guide, layer, labelled_share=(2, 5)), batch)
    labelled = losses(Distiller(student), rows(batch, slice(0, 2)))
    assert set(found) == {*labelled, "imitation_loss"} and sum(labelled.values()) > 0
    for name, value in labelled.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_losses_of_a_mixed_batch(monkeypatch, run_mode):
    """The detection losses of its labelled images alone, and one imitation loss of all five."""
    student, guide, layer, batch = parts_of("tiny_plain", monkeypatch)
    whole = Distiller(student, guide, layer)
    mixed = Distiller(student, guide, layer, labelled_share=(2, 5))
    found = losses(mixed, batch, run_mode)
    for name, value in losses(Distiller(student), rows(batch, slice(0, 2)), run_mode).items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    parts, positions = [], []
    for chosen in (slice(0, 2), slice(2, 5)):
        own = rows(batch, chosen)
        height, width = own["image"].shape[1:3]
        counted = layer.count_positions(
            student.imitation_anchors(height, width),
            *student.imitation_boxes(own),
            student.imitation_valid_mask(own, height, width),
        )
        positions.append(float(counted[0]))
        parts.append(losses(whole, own)["imitation_loss"])
    assert min(positions) > 0
    expected = np.dot(parts, positions) / np.sum(positions)
    assert found["imitation_loss"] == pytest.approx(expected, rel=1e-4)
    # what stands in the boxes without labels reaches the imitation loss alone
    classes = tf.concat([batch["classes"][:2], 2 - batch["classes"][2:]], 0)
    other = student.prepare_batch({**batch, "classes": classes})
    assert losses(mixed, other, run_mode) == pytest.approx(found, rel=1e-6)


def test_batches_are_interleaved():
    def batch(values, height, width):
        count = len(values)
        level = tf.reshape(tf.constant(values, tf.float32), [count, 1, 1, 1])
        return {
            "image": level * tf.ones([count, height, width, 3]),
            "valid": tf.constant([[value > 2] for value in values]),
            "image_id": tf.constant([str(value) for value in values]),
        }

    both = pipeline.interleaved(batch([1, 2, 3, 4], 2, 3), batch([5, 6], 4, 2), 2)
    assert both["image_id"].numpy().tolist() == [b"1", b"2", b"5", b"3", b"4", b"6"]
    assert both["valid"].numpy()[:, 0].tolist() == [False, False, True, True, True, True]
    assert both["image"].shape == (6, 4, 3, 3)
    first, third = both["image"].numpy()[[0, 2], :, :, 0].tolist()
    assert first == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]] and third == [[5, 5, 0]] * 4


def test_boxes_of_the_teacher(tmp_path):
    files = [ImageFile(tmp_path / f"{name}.png", f"x/{name}") for name in "abc"]
    for file in files:
        Image.new("RGB", (40, 20)).save(file.path)
    found = Boxes.of_detections(
        {
            "x/c": {"boxes": [[0, 0, 9, 9]], "scores": [0.49], "classes": [0]},
            "x/a": {
                "boxes": [[-3, 2, 40, 19.5], [5, 5, 8, 9], [41, 3, 45, 9], [1, 2, 3, 4]],
                "scores": [0.9, 0.5, 0.8, 0.4],
                "classes": [0, 1, 0, 0],
            },
        },
        ("CAR", "boat"),
    )
    path = tmp_path / "found.csv"
    for class_of, boxes, names in (
        ({"car": "Car"}, [[0, 2, 39, 19]], ("Car",)),
        ({"boat": "Cyclist"}, [[5, 5, 8, 9]], ("Cyclist",)),
        (None, [[0, 2, 39, 19], [5, 5, 8, 9]], ("Car", "Car")),
    ):
        frames = unlabelled.teacher_frames(files, found, path, 0.5, CLASSES, class_of)
        assert [frame.image_id for frame in frames] == ["x/a"]
        assert frames[0].boxes.tolist() == boxes and frames[0].names == names
    nothing = Boxes.of_detections({}, ("CAR", "boat"))  # as of pictures that are all too large
    assert unlabelled.teacher_frames(files, nothing, path, 0.5, CLASSES) == []


@pytest.fixture(name="pictures")
def pictures_fixture(tmp_path, kitti):
    """Six pictures of their own, and one that the training has labels of."""
    folder = tmp_path / "more"
    folder.mkdir()
    generator = np.random.default_rng(2)
    for number in range(6):
        pixels = generator.integers(0, 255, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    os.symlink(kitti / "training/image_2/000000.png", folder / "known.png")
    return folder


def options_of(teacher, pictures, **changes):
    given = {"unlabelled_dir": str(pictures), "unlabelled_min_score": 0.01, "unlabelled_batch_size": 2}
    return {**teacher, **given, **changes}


@pytest.mark.parametrize("labels", [False, True])
def test_a_run_resumes_exactly_and_detects_once(
    experiment, tmp_path, teacher, pictures, monkeypatch, capsys, labels
):
    calls, detect = [], unlabelled.predict_files

    def counted(*arguments):
        calls.append(len(arguments[1]))
        return detect(*arguments)

    monkeypatch.setattr(unlabelled, "predict_files", counted)
    options = options_of(teacher, pictures, unlabelled_labels=labels, steps=7)
    whole, parts = (experiment(output_dir=str(tmp_path / name), **options) for name in ("whole", "parts"))
    assert whole.labelled_share == ((1, 1) if labels else (4, 6))
    run.train(whole)
    printed = capsys.readouterr().out
    assert "+ 6 unlabelled pictures, " in printed and " boxes of the teacher above 0.01" in printed
    assert (", labels too" in printed) == labels
    stop_at(4, lambda: run.train(parts))
    assert run.train(parts).finished
    assert_same(tmp_path / "whole/checkpoints/ckpt-7", tmp_path / "parts/checkpoints/ckpt-7")
    assert calls == [6]
    if labels:
        return
    pixels = np.random.default_rng(7).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(pictures / "0.png")
    with pytest.raises(
        UserError, match="unlabelled is not what the run in .* was trained on: 1 image with another image"
    ):
        run.train(parts)
    assert calls == [6, 6]
    run.train(experiment(output_dir=str(tmp_path / "parts"), overwrite=True, **options))
    assert (tmp_path / "parts/unlabelled.tsv").is_file()


def test_the_labelled_stream_is_that_of_a_run_without(experiment, teacher, pictures, tmp_path, monkeypatch):
    """And the other is a stream of its own, from any step on."""
    from fgfi_tf.data import registry as datasets
    from fgfi_tf.training import batches
    from fgfi_tf.training.run_log import RunLog

    config = experiment(augment=False, **options_of(teacher, pictures))
    data = datasets.open_split("kitti", config.data_dir, "train", progress=False)
    student = registry.build("tiny", input_size=config.size, class_names=data.learnt_names)
    others = unlabelled.open_pictures(config, data, RunLog(None), progress=False)
    plain = iter(batches.training_batches(config, data, student, 0))
    joined = list(batches.training_batches(config, data, student, 0, (0, 1), others, 2).take(4))
    seen = []
    for batch in joined:
        own = next(plain)
        np.testing.assert_array_equal(tf.gather(batch["image"], [0, 1, 3, 4]), own["image"])
        np.testing.assert_array_equal(batch["valid"].numpy()[[0, 1, 3, 4]].sum(), own["valid"].numpy().sum())
        assert batch["valid"].numpy()[[2, 5]].any(axis=1).all()
        seen += [float(tf.reduce_sum(batch["image"][row])) for row in (2, 5)]
    assert len(set(seen[:6])) == 6 and set(seen[6:]) < set(seen)  # the six pictures, then two of them again
    again = next(iter(batches.training_batches(config, data, student, 3, (0, 1), others, 2)))
    for name, value in joined[3].items():
        np.testing.assert_array_equal(again[name], value)


def test_what_cannot_work(experiment, teacher, pictures, tmp_path):
    for changes, message in (
        ({"imitation": False}, "--unlabelled_dir needs --imitation"),
        ({"unlabelled_min_score": 1.0}, "--unlabelled_min_score=1.0: must be above 0 and below 1"),
        ({"unlabelled_dir": ""}, "--unlabelled_min_score needs --unlabelled_dir"),
        ({"unlabelled_batch_size": -1}, "--unlabelled_batch_size=-1: must be at least 0"),
        (
            {"unlabelled_batch_size": 3, "gradient_accumulation": 2},
            "--gradient_accumulation=2 does not divide --unlabelled_batch_size=3",
        ),
    ):
        with pytest.raises(UserError, match=message):
            validate(experiment(**options_of(teacher, pictures, **changes)))
    with pytest.raises(UserError, match="--unlabelled_dir=/no/such: no such folder; it is to hold pictures"):
        early.check_files(experiment(**options_of(teacher, "/no/such")))
    with pytest.raises(
        UserError, match=r"in none of 6 pictures .* score of 0.999 \(--unlabelled_min_score\)"
    ):
        run.train(experiment(**options_of(teacher, pictures, unlabelled_min_score=0.999)))
    for number in range(6):
        (pictures / f"{number}.png").unlink()
    with pytest.raises(UserError, match="every picture there is one of kitti/train"):
        run.train(experiment(**options_of(teacher, pictures)))
