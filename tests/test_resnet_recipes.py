"""The shipped recipes of Faster R-CNN on ResNets can run, and twins differ by the teacher alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fgfi_tf.evaluation.coco.protocol import CocoProtocol
from fgfi_tf.evaluation.voc.published import ROWS
from fgfi_tf.models import registry
from fgfi_tf.training.early import teacher_command
from fgfi_tf.training.flags import parse
from fgfi_tf.training.validation import validate

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
NAMES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for folder, pattern in (("coco", "*"), ("voc", "resnet*"))
    for path in (CONFIGS / folder).glob(f"{pattern}.cfg")
    if not path.stem.startswith("ssd")
)


def read(name, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    return parse(["train.py", f"--flagfile=configs/{name}.cfg", "--data_dir=data"])


def test_there_are_those_of_the_paper():
    assert {"coco/c4_resnet101_half_imitation", "coco/fpn_resnet50_half_imitation"} < set(NAMES)
    assert {"voc/resnet101", "voc/resnet101_half_imitation", "voc/resnet50_imitation"} < set(NAMES)
    assert len(NAMES) == 11


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_run(name, monkeypatch):
    config = validate(read(name, monkeypatch))
    assert config.output_dir == os.path.join("runs", name)
    registry.check_options(config.model, config.options_of("model"))
    if not name.endswith("_imitation"):
        assert not config.imitation
        return
    twin = read(name.removesuffix("_imitation"), monkeypatch)
    ours, theirs = config.values(), twin.values()
    differing = {key for key in ours if ours[key] != theirs[key]}
    allowed = {key for key in ours if key.startswith("imitation")} | {"output_dir", "teacher_checkpoint"}
    assert differing <= allowed and {"imitation", "teacher_checkpoint"} <= differing
    assert config.teacher_checkpoint.removeprefix("runs/") in NAMES
    assert teacher_command(config).startswith("python scripts/train.py --flagfile=configs/")


def test_the_images_of_a_step():
    """16 images, 90,000 steps on COCO (Detectron's 1x); 7 and 15 epochs of 5,011 images twice on VOC."""
    for name, batch, steps in (
        ("coco/fpn_resnet50", 16, 90_000),
        ("voc/resnet101", 1, 7 * 10_022),
        ("voc/resnet50", 16, 15 * 626),
    ):
        config = parse(["train.py", f"--flagfile={CONFIGS}/{name}.cfg"])
        assert (config.batch_size, config.steps) == (batch, steps)


def test_published_rows():
    """Each recipe's figures stand in it, and beside a result with --published."""
    for row, name, figure in (
        ("ResNet-101", "voc/resnet101", 74.4),
        ("ResNet-101-half", "voc/resnet101_half", 67.4),
        ("ResNet-101-half-I", "voc/resnet101_half_imitation", 71.2),
        ("ResNet-50", "voc/resnet50", 69.1),
        ("ResNet-50-I", "voc/resnet50_imitation", 72.0),
    ):
        assert ROWS[row] == {("", "mean"): figure}
        assert f"Published: mAP {figure}" in (CONFIGS / f"{name}.cfg").read_text()
    for row, name, at_half, whole in (
        ("C4-ResNet-101-half", "coco/c4_resnet101_half", 48.4, 28.8),
        ("C4-ResNet-101-half-I", "coco/c4_resnet101_half_imitation", 51.2, 31.6),
        ("FPN-ResNet-50-half", "coco/fpn_resnet50_half", 52.6, 31.2),
        ("FPN-ResNet-50-half-I", "coco/fpn_resnet50_half_imitation", 55.8, 34.8),
    ):
        assert CocoProtocol.published[row] == {("", "AP"): whole, ("", "AP50"): at_half}
        text = (CONFIGS / f"{name}.cfg").read_text()
        assert f"AP at IoU 0.5 {at_half}, COCO AP {whole}" in text
