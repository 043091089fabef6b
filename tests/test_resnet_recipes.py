"""The shipped recipes of Faster R-CNN on ResNets can run, and twins differ by the teacher alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
