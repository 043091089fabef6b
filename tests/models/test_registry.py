"""The registry of detectors: declarations agree with the code, and anybody can add one."""

from __future__ import annotations

import inspect

import pytest
import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.errors import UserError
from fgfi_tf.models import backbones, builtin, faster_rcnn, registry
from fgfi_tf.models.declaration import Declaration
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.faster_rcnn import roi_align
from fgfi_tf.models.metadata import ModelMetadata
from fgfi_tf.models.shuffledet import BackboneShuffleDet, ShuffleDet
from fgfi_tf.models.yolov2 import YOLOv2
from fgfi_tf.options import Option


class Mine(Detector):
    """Remembers what it was made of."""

    declaration = Declaration(
        options=(Option("depth", 3, "Layers."), Option("fast", False, "Whether it is fast.")),
        input_size=(64, 96),
        class_names=("a",),
        dataset="voc",
        recipe={"steps": 70},
    )

    def __init__(self, *, input_size, class_names, weight_decay=0.0, depth, fast):
        super().__init__(name="mine")
        self.input_size, self.class_names, self.given = input_size, class_names, (weight_decay, depth, fast)


@pytest.fixture(name="mine", autouse=True)
def mine_fixture():
    registry.register("mine", Mine)
    yield
    if "mine" in registry.names():
        registry.unregister("mine")


def test_a_detector_is_registered_and_built():
    assert "mine" in registry.names() and registry.detector_class("mine") is Mine
    assert registry.declaration("mine").flags() == {
        "input_size": "64x96",
        "dataset": "voc",
        "steps": 70,
        "resize": "stretch",
        "augmentation": "kitti",
    }
    detector = registry.build(
        "mine",
        input_size=(32, 48),
        class_names=["b", "c"],
        weight_decay=0.1,
        depth=5,
        extensions=("/a/b.py",),
    )
    assert (detector.input_size, detector.class_names, detector.given) == (
        (32, 48),
        ("b", "c"),
        (0.1, 5, False),
    )
    metadata = detector.metadata
    assert metadata == ModelMetadata("mine", (32, 48), ("b", "c"), {"depth": 5}, "", ("/a/b.py",))
    again = registry.build_from(metadata, class_names=("d",))
    assert again.metadata == ModelMetadata("mine", (32, 48), ("d",), {"depth": 5}, "", ("/a/b.py",))


def test_metadata_is_written_and_read(tmp_path):
    for metadata in (
        ModelMetadata("mine", (32, 48), ("b",), {"depth": 5}, "voc", ("/a/b.py", "package.c")),
        ModelMetadata("mine", (32, 48), ("b",)),
    ):
        metadata.write(tmp_path)
        assert ModelMetadata.read(tmp_path) == metadata
        assert ("extensions" in (tmp_path / "model.json").read_text()) == bool(metadata.extensions)


def test_what_is_refused():
    with pytest.raises(
        UserError, match="there is a model 'mine' already: choose another name, or pass replace"
    ):
        registry.register("mine", Mine)
    registry.register("mine", ShuffleDet, replace=True)
    assert registry.detector_class("mine") is ShuffleDet
    with pytest.raises(UserError, match="model 'x': <class 'int'> is no subclass of .*Detector"):
        registry.register("x", int)
    with pytest.raises(UserError, match="model 'x': mine:Mine is named by text and needs a declaration"):
        registry.register("x", "mine:Mine")
    registry.register("mine", Mine, replace=True)
    metadata = ModelMetadata("mine", (32, 48), ("b",), {"width": 2.0})
    with pytest.raises(UserError, match=r"mine has no option 'width' \(it has depth, fast\)"):
        registry.build_from(metadata)
    with pytest.raises(UserError, match="--depth=deep: expected is a value of type int"):
        registry.build_from(ModelMetadata("mine", (32, 48), ("b",), {"depth": "deep"}))


def test_words_for_pretrained_weights():
    assert registry.is_pretrained("efficientnet_b0_shuffledet", "imagenet")
    assert not registry.is_pretrained("mine", "runs/imagenet")
    with pytest.raises(UserError, match="--init_checkpoint=imagenet: mine has no such weights of its own"):
        registry.is_pretrained("mine", "imagenet")


def test_what_is_declared_is_what_the_code_does():
    """Declarations are read before the code is imported; the two must say the same."""
    for kind in (ShuffleDet, BackboneShuffleDet, YOLOv2):
        arguments = inspect.signature(kind).parameters
        for option in kind.declaration.options:
            assert default_of(arguments, option.name) == option.default
        assert default_of(arguments, "input_size") == kind.declaration.input_size
        assert default_of(arguments, "class_names") == kind.declaration.class_names
    config = faster_rcnn.FasterRCNNConfig()
    stand_for = {("roi_batch", builtin.CONVENTIONAL): 256}  # the published number of VGGs
    for option in faster_rcnn.FasterRCNN.declaration.options:
        expected = stand_for.get((option.name, option.default), option.default)
        assert getattr(config, option.name) == expected
    assert (config.short_side, config.long_side_cap) == faster_rcnn.FasterRCNN.declaration.input_size
    assert set(builtin.FASTER_RCNN.options[1].choices) <= set(roi_align.KINDS)
    assert set(builtin.BACKBONES) == set(backbones.NAMES)
    for name, *_, declared in builtin.DETECTORS:
        assert registry.detector_class(name).declaration is declared
        assert declared.teacher in ("", *registry.names())


def default_of(arguments, name):
    """Of a constructor's argument; those that ShuffleDet only passes on are its base's."""
    passed_on = inspect.signature(ShuffleDet.__base__).parameters
    return (arguments[name] if name in arguments else passed_on[name]).default


def test_what_a_detector_does_not_define_is_said(tmp_path):
    first, second = (registry.build("mine", input_size=(32, 48), class_names=("a",)) for _ in range(2))
    assert first.preprocessing != second.preprocessing  # nobody has said that they do the same
    assert first.inference_copy() is first
    assert not first.load_trained(tmp_path / "x.pth") and not first.load_pretrained(tmp_path / "x.pth")
    with pytest.raises(NotImplementedError, match="a subclass sets pixels, or defines preprocess"):
        first.preprocess(None)


def test_a_policy_named_by_text_is_found_inside_a_function_without_a_word(caplog):
    """AutoGraph warns of what it cannot transform, such as an import."""
    detector = registry.build("yolov2_0.15x", input_size=(32, 32), class_names=("a",))
    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    try:
        tf.function(lambda: policies.resize(detector.resize).keep_aspect_ratio)()
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
