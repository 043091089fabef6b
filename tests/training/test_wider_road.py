"""YOLOv2 on WIDER FACE by the scripts: train, imitate, resume, evaluate, export, predict, two devices."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import wider_fixtures
from places import REPOSITORY

from fgfi_tf.training import flags

# Runs scripts in this process as a shell would one after the other, up to one that fails; "kill" makes of a
# finished run one that was killed at its ninth step.
SEVERAL = """
import json, pathlib, runpy, shutil, sys
for sys.argv in json.loads(sys.argv[1]):
    if sys.argv[0].endswith("kill"):
        whole, killed = map(pathlib.Path, sys.argv[1:])
        shutil.copytree(whole, killed)
        for path in (*killed.glob("checkpoints/ckpt-12*"), killed / "finished"):
            path.unlink()
        continue
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""
STEPS = 12  # the size of the network inputs changes behind the tenth


def scripts(*commands: tuple[str, ...]) -> str:
    lines = [[str(REPOSITORY / "scripts" / name), *given] for name, *given in commands]
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps(lines)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def losses(folder: Path) -> list[dict[str, float]]:
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if "per_second" not in key} for row in rows]


class Road:
    """What the scripts left, and what they said."""

    def __init__(self, root: Path):
        self.root, self.data = root, wider_fixtures.write_wider(root / "data", train=12)
        self.kit = wider_fixtures.write_kit(self.data)
        usual = "--width=0.02 --anchors=auto --input_size=64x64 --batch_size=4 --lr_warmup_steps=2 --seed=1"
        usual += f" --lr_decay_steps=8 --summary_every=1 --checkpoint_every=3 --data_dir={self.data}"
        self.usual = ("train.py", *usual.split(), "--keep_checkpoints=9")

    def train(self, name: str, *given: str) -> tuple[str, ...]:
        return (*self.usual, "--picture_every=0", f"--output_dir={self.root / name}", *given)

    def imitate(self, name: str, *given: str) -> tuple[str, ...]:
        taught = ("--model=yolov2_0.25x", "--imitation", f"--teacher_checkpoint={self.root / 'teacher'}")
        return self.train(name, *taught, f"--steps={STEPS}", *given)


@pytest.fixture(name="road", scope="module")
def road_fixture(tmp_path_factory):
    pytest.importorskip("scipy", reason="scipy reads the evaluation kit's MATLAB files")
    road = Road(tmp_path_factory.mktemp("wider"))
    student, resumed = road.root / "student", road.root / "resumed"
    road.said = scripts(
        road.train("teacher", "--model=yolov2", "--steps=1", "--checkpoint_every=1"),
        road.imitate("student", f"--evaluate_every={STEPS}"),
        ("kill", str(student), str(resumed)),
        road.imitate("resumed"),
        ("evaluate.py", f"--checkpoint={student}", f"--data_dir={road.data}")
        + (f"--output_json={road.root / 'ap.json'}", f"--results_dir={road.root / 'results'}")
        + (f"--report_dir={road.root / 'report'}",),
        ("evaluate.py", "--format=wider", f"--labels={road.kit}", f"--detections={road.root / 'results'}")
        + (f"--output_json={road.root / 'again.json'}",),
        ("export.py", f"--checkpoint={student}", f"--output_dir={road.root / 'exported'}"),
        ("predict.py", f"--model_path={road.root / 'exported'}", f"--output_dir={road.root / 'predicted'}")
        + (f"--images={road.data / 'WIDER_val/images'}", "--nopictures"),
    )
    return road


@pytest.mark.slow
def test_it_trains_by_its_own_recipe(road):
    config = flags.read_flagfile(road.root / "student/flags.cfg")
    assert (config.dataset, config.lr_warmup_power, config.schedule) == ("wider", 4.0, "step")
    rows = losses(road.root / "student")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    names = {"no_object_loss", "box_loss", "object_loss", "imitation_loss"}
    assert names < set(rows[0]) and "class_loss" not in rows[0]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert "exactly 0" not in (road.root / "student/train.log").read_text()
    metadata = json.loads((road.root / "student/checkpoints/model.json").read_text())
    assert metadata["options"]["width"] == 0.02 and len(metadata["options"]["anchors"].split(",")) == 5
    assert "anchors of 11 objects at 64x64" in road.said


@pytest.mark.slow
def test_resume_is_exact_across_a_change_of_size(road):
    whole, resumed = (
        tf.train.load_checkpoint(str(road.root / name / "checkpoints/ckpt-12"))
        for name in ("student", "resumed")
    )
    for key in whole.get_variable_to_shape_map():
        if "CHECKPOINTABLE" not in key:
            np.testing.assert_array_equal(whole.get_tensor(key), resumed.get_tensor(key), err_msg=key)


@pytest.mark.slow
def test_easy_medium_and_hard(road):
    ranked = json.loads((road.root / "student/evaluation/results.json").read_text())
    assert list(ranked["12"]) == ["easy", "medium", "hard"]
    found = json.loads((road.root / "ap.json").read_text())
    assert found["faces"] == {"easy": 2, "medium": 3, "hard": 3}
    assert json.loads((road.root / "again.json").read_text()) == found
    assert "0.25x-I (published)" in road.said and "WIDER FACE detection" in road.said
    assert "easy" in (road.root / "report/index.html").read_text()
    ids = sorted(wider_fixtures.rows_of(road.data, "val"))
    for folder in ("results", "predicted"):
        files = (road.root / folder).rglob("*.txt")
        assert sorted(p.relative_to(road.root / folder).as_posix()[:-4] for p in files) == ids, folder
    # both resize as the network was trained to be evaluated: the numbers agree
    for name in ids:
        ours, theirs = (
            (road.root / folder / f"{name}.txt").read_text().split() for folder in ("results", "predicted")
        )
        assert ours[:2] == theirs[:2]
        np.testing.assert_allclose(np.float64(ours[2:]), np.float64(theirs[2:]), atol=1e-2)
