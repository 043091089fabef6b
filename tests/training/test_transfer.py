"""Initial weights and teachers of other classes: what is loaded, what is new, and that it is said."""

from __future__ import annotations

import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import tiny_detector

from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.models.checkpoint_files import find_checkpoint
from fgfi_tf.models.loading import load_detector, load_initial_weights
from fgfi_tf.training import build, run, teacher


@pytest.fixture(name="trained")
def trained_fixture(experiment, tmp_path):
    """The run folder of a detector of Car, Pedestrian, Cyclist."""
    run.train(experiment(output_dir=str(tmp_path / "trained"), steps=2))
    return tmp_path / "trained"


@pytest.mark.parametrize(
    "classes",
    [("cup", "pen", "key", "Car", "ear"), ("cup",), ("cup", "pen", "key")],
    ids=["more", "one", "as many"],
)
def test_the_backbone_is_loaded_and_the_head_is_new(trained, classes):
    source = load_detector(trained)
    detector = registry.build("tiny", input_size=(64, 96), class_names=classes)
    head = [weight.copy() for weight in detector.head.get_weights()]
    note = load_initial_weights(detector, trained)
    assert note == f"{trained}: backbone loaded, head new: 3 -> {len(classes)} classes"
    np.testing.assert_array_equal(detector.stem.kernel, source.stem.kernel)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        np.testing.assert_array_equal(getattr(detector.norm, name), getattr(source.norm, name))
    for weight, before in zip(detector.head.get_weights(), head, strict=True):
        np.testing.assert_array_equal(weight, before)


def test_of_the_same_classes_everything_is_loaded(trained):
    source = load_detector(trained)
    detector = registry.build("tiny", input_size=(32, 48), class_names=tiny_detector.CLASSES)
    prefix = find_checkpoint(trained)
    for name in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001"):  # as shells complete it
        assert find_checkpoint(name) == prefix
    assert load_initial_weights(detector, prefix) == ""
    for variable, expected in zip(detector.variables, source.variables, strict=True):
        np.testing.assert_array_equal(variable, expected)


def _saved(detector, folder, step):
    import tensorflow as tf

    tf.train.Checkpoint(student=detector).write(str(folder / "checkpoints" / f"ckpt-{step}"))
    detector.metadata.write(folder / "checkpoints")
    return folder


@pytest.mark.parametrize("classes", [("a", "b"), ("c", "d", "e")])
def test_what_weights_were_trained_with_is_told(tmp_path, classes):
    small = functools.partial(registry.build, "faster_rcnn_vgg11", input_size=(64, 0), width=0.05)
    trained = _saved(small(class_names=("a", "b"), roi_pooling="align"), tmp_path, 3)
    told = f"{trained}: trained with --roi_pooling=align, which is reference here"
    note = load_initial_weights(small(class_names=classes), trained)
    assert note == told if len(classes) == 2 else note.endswith(f"head new: 2 -> 3 classes; {told}")
    same = load_initial_weights(small(class_names=classes, roi_pooling="align", dropout=0.1), trained)
    assert same == "" if len(classes) == 2 else same.endswith("head new: 2 -> 3 classes")


def test_a_resnet_of_the_other_style_is_refused(tmp_path):
    small = functools.partial(registry.build, "faster_rcnn_resnet18", input_size=(64, 0), width=1 / 16)
    trained = _saved(small(class_names=("a",), resnet_style="torchvision"), tmp_path, 3)
    for classes in (("a",), ("b", "c")):
        with pytest.raises(UserError, match=r"these weights are for --resnet_style=torchvision, not caffe"):
            load_initial_weights(small(class_names=classes), trained)
    assert load_initial_weights(small(class_names=("a",), resnet_style="torchvision"), trained) == ""


def test_an_option_that_is_no_more_does_not_hide_what_does_not_fit(tmp_path):
    small = functools.partial(registry.build, "yolov2", input_size=(64, 64), class_names=("a",))
    trained = _saved(small(width=1 / 8), tmp_path, 1)
    path = tmp_path / "checkpoints/model.json"
    content = json.loads(path.read_text())
    content["options"]["gone"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"is a checkpoint of yolov2 with --width=0\.125, not 0\.0625"):
        load_initial_weights(small(width=1 / 16), trained)


def test_yolov2_begins_where_a_run_ended(tmp_path):
    """Its passthrough is that of the run, and the prior of the first 12,800 images does not come again."""
    small = functools.partial(registry.build, "yolov2", input_size=(64, 64), width=1 / 8)
    trained = _saved(small(class_names=("a",), reorg="original"), tmp_path / "trained", 3)
    detector = small(class_names=("a",))
    assert load_initial_weights(detector, trained) == ""
    assert detector.network.reorg == detector.metadata.options["reorg"] == "original"
    assert int(detector.history.images) == 12_800
    detector = small(class_names=("b", "c"))  # what predicts is new
    assert load_initial_weights(detector, trained).endswith("head new: 1 -> 2 classes")
    assert detector.network.reorg == "original" and int(detector.history.images) == 0
    told = load_initial_weights(small(class_names=("a",), reorg="space_to_depth"), trained)
    assert told == f"{trained}: trained with --reorg=original, which is space_to_depth here"
    fresh = _saved(small(class_names=("a",), reorg="space_to_depth"), tmp_path / "fresh", 0)
    detector = small(class_names=("a",))
    assert load_initial_weights(detector, fresh) == ""
    assert detector.network.reorg == "space_to_depth" and int(detector.history.images) == 0


def test_of_faster_rcnn_only_the_last_layers_are_new(experiment, trained, tmp_path):
    """Of its head the scores and the deltas know classes; base, RPN, fc6 and fc7 do not."""
    import tensorflow as tf

    small = functools.partial(registry.build, "faster_rcnn_vgg11", input_size=(64, 0), width=0.05)
    source, detector = small(class_names=("a", "b")), small(class_names=("c", "d", "e"))
    for variable in source.variables:
        variable.assign_add(tf.ones_like(variable))
    tf.train.Checkpoint(student=source).write(str(tmp_path / "checkpoints" / "ckpt-1"))
    source.metadata.write(tmp_path / "checkpoints")
    before = {id(v): v.numpy() for v in detector.variables}
    assert (
        load_initial_weights(detector, tmp_path) == f"{tmp_path}: backbone loaded, head new: 2 -> 3 classes"
    )
    new = {id(v) for layer in (detector.head.scores, detector.head.deltas) for v in layer.variables}
    assert len(new) == 4
    for variable, trained_value in zip(detector.variables, source.variables, strict=True):
        expected = before[id(variable)] if id(variable) in new else trained_value
        np.testing.assert_array_equal(variable, expected)


@pytest.mark.parametrize(
    ("trained", "now", "classes"), [(3, 0, ("a", "b")), (0, 3, ("c", "d", "e"))], ids=["less", "more-frozen"]
)
def test_moving_averages_are_those_of_what_the_run_trained(trained, now, classes, tmp_path):
    """Each averaged weight is 7 more than the last one, whatever is frozen in the run that starts from it."""
    import tensorflow as tf

    small = functools.partial(registry.build, "faster_rcnn_vgg11", input_size=(64, 0), width=0.05)
    source = small(class_names=("a", "b"), frozen_layers=trained)
    averages = [tf.Variable(variable + 7.0) for variable in source.trainable_variables]
    assert len(source.variables) - len(averages) == 2 * trained  # kernels and biases
    tf.train.Checkpoint(student=source, averages=averages).write(str(tmp_path / "checkpoints" / "ckpt-1"))
    source.metadata.write(tmp_path / "checkpoints")
    detector = small(class_names=classes, frozen_layers=now)
    load_initial_weights(detector, tmp_path)
    assert len(detector.trainable_variables) == len(detector.variables) - 2 * now
    theirs, ours = (model.base.convolutions for model in (source, detector))
    pairs = [
        *zip(theirs, ours, strict=True),
        (source.rpn.conv, detector.rpn.conv),
        (source.head.fc6, detector.head.fc6),
    ]
    for number, (before, after) in enumerate(pairs):
        moved = 7.0 if number >= trained else 0.0
        np.testing.assert_array_equal(after.kernel, before.kernel + moved)
        np.testing.assert_array_equal(after.bias, before.bias + moved)


def test_another_model_or_width_is_refused_whatever_its_classes(trained, tmp_path):
    detector = registry.build("tiny_teacher", input_size=(64, 96), class_names=("cup",))
    with pytest.raises(UserError, match="is a checkpoint of another model than tiny_teacher"):
        load_initial_weights(detector, trained)
    import tensorflow as tf

    build_small = functools.partial(registry.build, "faster_rcnn_vgg11", input_size=(64, 0))
    source = build_small(class_names=("a",), width=0.05)
    tf.train.Checkpoint(student=source).write(str(tmp_path / "half" / "ckpt-1"))
    source.metadata.write(tmp_path / "half")
    with pytest.raises(UserError, match="checkpoint of faster_rcnn_vgg11 with --width=0.05, not 0.1"):
        load_initial_weights(build_small(class_names=("a", "b"), width=0.1), tmp_path / "half")


def test_a_run_says_so_in_a_line(experiment, trained, tmp_path, capsys):
    metadata = load_detector(trained).metadata
    # As if it had been trained on data of these classes; nothing of its weights depends on the names.
    dataclasses.replace(metadata, class_names=("cup", "pen", "key")).write(trained / "checkpoints")
    initial = experiment(output_dir=str(tmp_path / "student"), init_checkpoint=str(trained), steps=1)
    run.train(initial)
    line = f"{trained}: backbone loaded, head new: 3 -> 3 classes"
    assert capsys.readouterr().out.count(line) == 1
    assert line in (tmp_path / "student" / "train.log").read_text()
    taught = experiment(
        output_dir=str(tmp_path / "taught"), imitation=True, teacher_checkpoint=str(trained), steps=1
    )
    assert run.train(taught).finished
    assert (
        "the teacher detects other classes (cup, pen, key); its features are imitated"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="detects cup, pen, key; the dataset has Car, Pedestrian, Cyclist"):
        load_detector(trained, class_names=tiny_detector.CLASSES)


def test_a_teacher_of_fewer_classes_gives_the_same_features(experiment, trained, tmp_path):
    """A teacher's head is not run: whatever its classes, the imitation loss is that of its backbone."""
    config = experiment(imitation=True, teacher_model="tiny", teacher_checkpoint=str(trained))
    lines: list[str] = []
    distiller = build.build_distiller(config, ("cup",), log=lines.append)
    assert distiller.teacher.class_names == tiny_detector.CLASSES
    assert lines == [
        "the teacher detects other classes (Car, Pedestrian, Cyclist); its features are imitated"
    ]
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype(np.float32)
    expected = load_detector(trained).imitation_features(images)
    np.testing.assert_array_equal(distiller.teacher.imitation_features(images)[0], expected[0])


class Foreign(tiny_detector.TinyDetector):
    """Reads a file format of its own, which does not say its classes."""

    declaration = dataclasses.replace(
        tiny_detector.TinyDetector.declaration, input_size=(64, 96), class_names=("a", "b", "c")
    )

    def load_trained(self, path):
        if path.suffix != ".npy":
            return False
        bias = np.load(path)
        if bias.shape != self.head.bias.shape:
            raise UserError(f"{path}: holds a head of {bias.size} outputs")
        self.head.bias.assign(bias)
        return True


def test_files_of_a_strangers_own_format(tmp_path):
    """Of three classes and five numbers for each cell, as the declaration says of files that do not."""
    path = tmp_path / "trained.npy"
    np.save(path, np.arange(8, dtype=np.float32))
    registry.register("foreign", Foreign, build=functools.partial(Foreign, 8))
    try:
        detector = load_detector(path, model="foreign")
        assert (detector.class_names, detector.input_size) == (("a", "b", "c"), (64, 96))
        np.testing.assert_array_equal(detector.head.bias, np.arange(8))
        names = ("cup", "pen", "key")  # who knows better says so
        assert load_detector(path, model="foreign", class_names=names, any_classes=True).class_names == names
        with pytest.raises(UserError, match="trained.npy: holds a head of 8 outputs"):
            load_detector(path, model="foreign", class_names=("cup",))
        teacher = load_detector(path, model="foreign", class_names=("cup",), any_classes=True)
        assert teacher.class_names == ("a", "b", "c")
        fresh = registry.build("foreign", input_size=(64, 96), class_names=names)
        assert load_initial_weights(fresh, path) == ""
        np.testing.assert_array_equal(fresh.head.bias, np.arange(8))
    finally:
        registry.unregister("foreign")
    with pytest.raises(UserError, match="trained.npy: tiny has no weights in files of this kind"):
        load_detector(path, model="tiny", class_names=names, input_size=(64, 96))


FRCNN = {"model": "faster_rcnn_resnet18_fpn", "input_size": "608x1024"}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"model": "shuffledet_0.5x", "input_size": "64x96", "teacher_model": "ssd300_vgg16"},
            "--input_size=64x96: height and width must be at least 257 for SSD's six feature maps",
        ),
        (
            {**FRCNN, "resize": "shorter_side", "teacher_model": "yolov2"},
            "--resize=shorter_side: sides of network inputs must be multiples of 32",
        ),
        ({**FRCNN, "teacher_model": "yolov2"}, ""),
        ({**FRCNN, "resize": "shorter_side", "teacher_model": "faster_rcnn_vgg16_fpn"}, ""),
    ],
)
def test_a_teacher_takes_the_students_images_or_is_refused_at_once(experiment, changes, fault):
    config = experiment(imitation=True, teacher_checkpoint="runs/t", **changes)
    if not fault:
        assert teacher.resolve(config) == config
        return
    name = f"(the teacher {changes['teacher_model']}, which sees the student's images)"
    with pytest.raises(UserError, match=re.escape(f"{fault} {name}")):
        teacher.resolve(config)
