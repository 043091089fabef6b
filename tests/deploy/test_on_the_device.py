"""The commands of README's section "On the device", as they stand there, after a short training."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import test_own_photos as own

REPOSITORY = own.REPOSITORY
# What is measured is that every command fits the next.
SHORT = {"export": ["--latency_runs=1", "--calibration_images=2"], "compress": ["--steps=2"]}
RECIPES = ("teacher.cfg", "student_imitating.cfg")


def commands() -> list[list[str]]:
    """Script and arguments of each command of the section, in order."""
    section = (REPOSITORY / "README.md").read_text().split("## On the device\n")[1].split("\n## ")[0]
    console = re.search(r"```console\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ")
    first, *lines = [shlex.split(line.removeprefix("$ ")) for line in console.splitlines()]
    assert first[:2] == ["pip", "install"] and all(line[0] == "python" for line in lines)
    return [line[1:] for line in lines]


def test_the_scripts_are_there():
    assert all((REPOSITORY / script).is_file() for script, *_ in commands())


@pytest.mark.long
def test_the_readmes_commands(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorflow_model_optimization", reason="needs the extra [compress]")
    own.draw(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "scripts"):
        Path(name).symlink_to(REPOSITORY / name)
    for script, *arguments in own.commands():
        if script == "scripts/train.py" and arguments[0].endswith(RECIPES):
            own.run(script, *arguments, *own.SHORT, *([] if own.PRETRAINED else ["--init_checkpoint="]))
    for script, *arguments in commands():
        own.run(script, *arguments, *SHORT.get(Path(script).stem, []))
    rows = json.loads(Path("device/check.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["source", "model.tflite", "model_int8.tflite"]
    # Hardly trained, it has many boxes of nearly the same score: suppression may choose another one.
    assert rows[1]["difference"]["matched"] >= 0.98 * rows[1]["difference"]["detections"]
    assert np.all([row["latency_ms"]["1"] > 0 for row in rows[1:]])
    assert Path("imitation.png").stat().st_size > 10_000
    assert "multiply-adds" in capsys.readouterr().out
