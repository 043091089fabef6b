"""Parameters and multiply-adds: a network by hand, and those that are published."""

from __future__ import annotations

import sys

import describe as script
import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.deploy import counting, describe_command
from fgfi_tf.deploy.describe_command import DescribeConfig, describe
from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.models.metadata import ModelMetadata


@pytest.fixture(scope="module", name="found")
def found_fixture(detector):
    return counting.of_detector(detector)


def test_layers_by_hand(found, detector):
    layers = {layer.name.split("backbone/")[-1]: layer for layer in found.layers}
    stem, head = found.layers[0], found.layers[-1]
    # 64 x 96: 3 x 3 x 3 values for each of 24 channels; batch norm has four numbers a channel
    assert (stem.kind, stem.shape) == ("ConvBN", (1, 64, 96, 24))
    assert stem.multiply_adds == 64 * 96 * 27 * 24
    assert stem.parameters == 27 * 24 + 4 * 24
    # the second unit of the first group, 60 channels at 16 x 24, three groups: 60 -> 15 -> 60
    unit = [layers[f"group1/block1/{name}"] for name in ("conv1", "dconv", "conv2")]
    assert [layer.multiply_adds for layer in unit] == [384 * 20 * 15, 384 * 9 * 15, 384 * 5 * 60]
    assert [layer.shape for layer in unit] == [(1, 16, 24, 15), (1, 16, 24, 15), (1, 16, 24, 60)]
    # nine anchors of 3 + 1 + 4 values from 192 channels at 4 x 6
    assert (head.kind, head.shape) == ("Conv2D", (1, 4, 6, 72))
    assert head.multiply_adds == 24 * 9 * 192 * 72 and head.parameters == 9 * 192 * 72 + 72
    assert len(found.layers) == 1 + 16 * 3 + 1
    assert found.parameters == sum(layer.parameters for layer in found.layers) == detector.count_params()


def test_detector_computes_as_before(found, detector):
    x = tf.zeros([1, 64, 96, 3])
    assert "call" not in vars(detector.head)
    assert detector(x, training=False)["predictions"].shape == (1, 4, 6, 72)


@pytest.mark.parametrize(
    ("name", "parameters"), [("shuffledet_0.5x", 535_656), ("shuffledet_0.25x", 202_776)]
)
def test_published(name, parameters):
    detector = registry.build(name, input_size=(384, 1248), class_names=("Car", "Pedestrian", "Cyclist"))
    found = counting.of_detector(detector)
    adds, numbers = describe_command.PUBLISHED[name]
    assert found.trainable == parameters
    assert abs(found.parameters - numbers) < 0.05 * numbers
    assert abs(found.multiply_adds - found.layers[-1].multiply_adds - adds) < 0.06 * adds


def test_text():
    text = describe(DescribeConfig("shuffledet_0.25x", layers=False)).splitlines()
    assert text[0] == "shuffledet_0.25x, input 384 x 1248, 3 classes"
    assert text[1].startswith("parameters: ") and text[1].endswith("(202,776 trainable)")
    assert text[-1] == "published: 0.21 M parameters, 0.67 G multiply-adds"
    small = describe(DescribeConfig("shuffledet_0.25x", input_size="64x96"))
    assert "published" not in small
    (line,) = [line for line in small.splitlines() if "group1/block0/dconv" in line]
    assert line.split()[-5:] == ["24", "x", "15", "195", "51,840"]


def test_configs(tmp_path):
    (tmp_path / "a.cfg").write_text("--model=shuffledet_0.25x\n--input_size=64x96\n--anchors=auto\n")
    text = describe(DescribeConfig(str(tmp_path / "a.cfg"), layers=False))
    assert text.startswith("shuffledet_0.25x, input 64 x 96, 3 classes\n")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("--model=ssd300_vgg11\n--width=0.05\n--dataset=kitti", "3 classes"),
        ("--model=ssd300_vgg11\n--width=0.05\n--dataset=coco", "80 classes"),
        ("--model=ssd300_vgg11\n--width=0.05\n--dataset=wider", "1 class"),
        ("--model=ssd300_vgg11\n--width=0.05\n--dataset=folder\n--classes=a,b,c=b", "2 classes"),
        (
            "--model=ssd300_vgg11\n--width=0.05\n--dataset=folder",
            "20 classes (as published: only labels say those of",
        ),
    ],
)
def test_classes_of_configs(lines, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(counting, "of_detector", lambda detector: counting.Description((), 0))
    (tmp_path / "a.cfg").write_text(lines)
    title = describe(DescribeConfig(str(tmp_path / "a.cfg"), layers=False)).splitlines()[0]
    assert title.split(", ")[-1].startswith(expected)


def test_what_a_size_of_one_side_is_counted_at(monkeypatch, tmp_path):
    monkeypatch.setattr(counting, "of_detector", lambda detector: counting.Description((), 0))
    (tmp_path / "a.cfg").write_text("--model=faster_rcnn_vgg11\n--input_size=64x0\n--width=0.05\n")
    title = describe(DescribeConfig(str(tmp_path / "a.cfg"), layers=False)).splitlines()[0]
    assert title == "faster_rcnn_vgg11, input 64 x 0 (shorter_side; counted at 64 x 128), 20 classes"


def test_two_stages_count_both():
    faster = registry.build("faster_rcnn_vgg11", input_size=(64, 0), class_names=("a",), width=0.05)
    found = counting.of_detector(faster)
    assert found.parameters == faster.count_params()
    assert {"Dense"} <= {layer.kind for layer in found.layers}
    assert np.prod(found.layers[0].shape) > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name a detector, a file of flags, a checkpoint"),
        ("absent", "--model_path: no checkpoint at absent; names of detectors are .*shuffledet_1x"),
        ("shufledet_1x", "no checkpoint at shufledet_1x; did you mean shuffledet_1x?"),
        ("absent.tflite", "absent.tflite: no such file"),
    ],
)
def test_what_is_not_there(name, message):
    with pytest.raises(UserError, match=message):
        describe(DescribeConfig(name))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x1c\0\0\0TFL3" + bytes(20)])
@pytest.mark.parametrize("name", ["a.tflite", "a.onnx", "saved_model.pb"])
def test_damaged_files(tmp_path, name, content):
    if name == "a.onnx":
        pytest.importorskip("onnx", reason="needs the extra [onnx]")
        content = content or b"\0"  # no bytes are an empty message
    path = tmp_path / name
    path.write_bytes(content)
    path = tmp_path if path.suffix == ".pb" else path
    with pytest.raises(UserError, match=f"{path} is no(t a SavedModel| (TFLite|ONNX) file, or damaged)"):
        describe(DescribeConfig(str(path)))


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"ONNX files are read by onnx: pip install -e '.\[onnx\]'"):
        describe(DescribeConfig(str(_file(tmp_path / "a.onnx"))))


def test_an_export_says_of_what_it_is(tmp_path, monkeypatch):
    """By model.json beside it, with what is published."""
    counted = counting.Description((counting.Layer("a", "CONV_2D", (1, 2, 3, 4), 7, 24_000_000),), 7)
    monkeypatch.setattr(counting, "of_file", lambda path: counted)
    monkeypatch.setattr(counting, "of_saved_model", lambda path: counted)
    config = DescribeConfig(str(_file(tmp_path / "model.tflite")), layers=False)
    assert describe(config).splitlines() == ["model.tflite", "parameters: 7", "multiply-adds: 0.024 G"]
    metadata = ModelMetadata("shuffledet_0.5x", (384, 1248), ("a",))
    for folder in (tmp_path, tmp_path / "assets.extra"):
        metadata.write(folder)
    _file(tmp_path / "saved_model.pb")
    expected = "shuffledet_0.5x, input 384 x 1248, 1 class"
    for path in (tmp_path / "model.tflite", tmp_path):
        title, *_, published = describe(DescribeConfig(str(path), layers=False)).splitlines()
        assert title == f"{path.name}: {expected}"
        assert published == "published: 0.53 M parameters, 1.5 G multiply-adds"


def test_a_file_has_its_size(tmp_path):
    with pytest.raises(UserError, match=r"--input_size=64x96: .*a.tflite is exported"):
        describe(DescribeConfig(str(_file(tmp_path / "a.tflite")), input_size="64x96"))


def _file(path):
    path.touch()
    return path


@pytest.mark.parametrize(
    "arguments", [["NAME", "--nolayers"], ["--nolayers", "NAME"], ["--nolayers", "--model_path", "NAME"]]
)
def test_the_name_stands_anywhere(monkeypatch, capsys, arguments):
    monkeypatch.setattr(describe_command, "describe", lambda config: (config.model_path, config.layers))
    script.main(["describe.py", *arguments])
    assert capsys.readouterr().out == "('NAME', False)\n"
