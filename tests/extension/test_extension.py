"""A stranger's detector, dataset and protocol through the real scripts, with nothing else changed.

``pyramid_detector.py`` and ``drawings.py`` are all that the stranger wrote. Each process below is a script of
the package, or several one after the other, which spares the seconds that TensorFlow takes to start.
"""

from __future__ import annotations

import ast
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw
from places import REPOSITORY

HERE = Path(__file__).resolve().parent
EXTENSIONS = f"--extensions={HERE / 'pyramid_detector.py'},{HERE / 'drawings.py'}"
# Runs scripts in this process as a shell would one after the other, up to one that fails.
SEVERAL = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""
KINDS = ("bar", "disc")


def draw(root: Path) -> dict[str, list[dict]]:
    """The stranger's data: 8 and 4 pictures of 48 x 64 pixels in folders of a split; what its files say."""
    generator, splits = np.random.default_rng(5), {}
    for split, count in (("train", 8), ("val", 4)):
        (root / split).mkdir(parents=True)
        splits[split] = []
        for number in range(count):
            picture = Image.fromarray(generator.integers(0, 60, (48, 64, 3)).astype(np.uint8))
            shapes = []
            for kind in KINDS if number % 4 else ():  # every fourth holds nothing
                w, h = (int(n) for n in generator.integers(14, 30, 2))
                x, y = int(generator.integers(0, 64 - w)), int(generator.integers(0, 48 - h))
                corners = [x, y, x + w - 1, y + h - 1]
                if kind == "disc":
                    ImageDraw.Draw(picture).ellipse(corners, fill=(230, 40, 40))
                else:
                    ImageDraw.Draw(picture).rectangle(corners, fill=(40, 40, 230))
                covered = (0.0, 0.6)[number % 4 == 3 and kind == "disc"]
                shapes.append({"kind": kind, "x": x, "y": y, "w": w, "h": h, "covered": covered})
            name = f"{split}/{number}.png"
            picture.save(root / name)
            splits[split].append({"picture": name, "size": [48, 64], "shapes": shapes})
        (root / f"{split}.json").write_text(json.dumps(splits[split]))
    return splits


def scripts(*commands: tuple[str, ...]) -> str:
    """What the scripts print, each a name and its flags; fails with what one says that fails."""
    lines = [[str(REPOSITORY / "scripts" / name), *flags] for name, *flags in commands]
    program = [lines[0][0], *lines[0][1:]] if len(lines) == 1 else ["-c", SEVERAL, json.dumps(lines)]
    done = subprocess.run([sys.executable, *program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


class House:
    """The runs of all tests, in the order in which a stranger does them."""

    def __init__(self, root: Path):
        self.root, self.data = root, root / "data"
        self.labels = draw(self.data)
        self.said: dict[str, str] = {}

    def train(self, name: str, *flags: str) -> tuple[str, ...]:
        """The command of a run in the folder ``name``."""
        usual = ("--steps=4", "--schedule_steps=4", "--summary_every=1", "--checkpoint_every=2")
        places = (f"--data_dir={self.data}", f"--output_dir={self.root / name}")
        return ("train.py", EXTENSIONS, *usual, "--most_covered=0.5", "--picture_every=0", *places, *flags)

    def imitate(self, name: str, teacher: str, *flags: str) -> tuple[str, ...]:
        """The command of a run that imitates another."""
        given = ("--imitation", f"--teacher_checkpoint={self.root / teacher}", "--channels=4")
        return self.train(name, *(given if "--model=pyramid" in flags else given[:2]), *flags)

    def losses(self, name: str) -> list[dict[str, float]]:
        """``metrics.csv`` of a run, without times."""
        with open(self.root / name / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
        return [{key: float(value) for key, value in row.items() if "per_second" not in key} for row in rows]


@pytest.fixture(name="house", scope="module")
def house_fixture(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("stranger"))
    pyramid, one = "--model=pyramid", ("--steps=1", "--input_size=48x64", "--dataset=drawings")
    plain = ("--model=shuffledet_0.25x", *one, "--batch_size=4", "--augmentation=none")
    house.said["resumed"] = scripts(
        house.train("teacher", pyramid, "--evaluate_every=2", "--picture_every=4"),
        house.imitate("student", "teacher", pyramid),
        house.imitate("resumed", "teacher", pyramid, "--steps=2"),
        house.train("package", *plain),
        house.imitate("coarse", "package", pyramid, "--imitated=coarse", *one),
        house.imitate("package_student", "coarse", *plain),
        house.imitate("resumed", "teacher", pyramid),
    )
    scripts(house.imitate("shared_out", "teacher", pyramid, "--virtual_cpus=2"))
    house.said["evaluate"] = scripts(
        (
            "evaluate.py",
            f"--checkpoint={house.root / 'teacher'}",
            f"--data_dir={house.data}",
            f"--output_json={house.root / 'found.json'}",
            f"--report_dir={house.root / 'report'}",
            f"--results_dir={house.root / 'results'}",
            "--published=by hand",
        ),
        (
            "evaluate.py",
            f"--checkpoint={house.root / 'teacher'}",
            f"--data_dir={house.data}",
            f"--output_json={house.root / 'visible.json'}",
            "--protocol=visible",
        ),
        (
            "evaluate.py",
            f"--checkpoint={house.root / 'student'}",
            f"--data_dir={house.data}",
            f"--output_json={house.root / 'most.json'}",
            "--dataset=drawings",
            "--most_covered=0.9",
            EXTENSIONS,
        ),
        (
            "inspect_data.py",
            str(house.data),
            "--dataset=drawings",
            "--most_covered=0.5",
            "--model=pyramid",
            EXTENSIONS,
        ),
        (
            "export.py",
            f"--checkpoint={house.root / 'teacher' / 'best'}",
            f"--output_dir={house.root / 'exported'}",
        ),
    )
    scripts(
        (
            "predict.py",
            f"--model_path={house.root / 'exported'}",
            f"--images={house.data / 'val'}",
            f"--output_dir={house.root / 'predicted'}",
        )
    )
    return house


def test_the_files_use_public_names_alone():
    for name in ("pyramid_detector.py", "drawings.py"):
        for node in ast.walk(ast.parse((HERE / name).read_text())):
            if isinstance(node, ast.ImportFrom):
                words = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert not [word for word in words if word.startswith("_") and word != "__future__"], words
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[:2] != "__":
                assert ast.unparse(node.value) == "self", ast.unparse(node)


def test_it_trains_as_a_teacher(house):
    losses = house.losses("teacher")
    assert [row["step"] for row in losses] == [1, 2, 3, 4]
    assert {"objectness_loss", "class_loss", "box_loss", "weight_decay"} < set(losses[0])
    assert losses[-1]["loss"] < losses[0]["loss"]
    metadata = json.loads((house.root / "teacher/checkpoints/model.json").read_text())
    assert metadata["class_names"] == list(KINDS) and metadata["input_size"] == [48, 64]
    # the protocol of the dataset ranks the checkpoints
    results = json.loads((house.root / "teacher/evaluation/results.json").read_text())
    assert list(results) == ["2", "4"] and list(results["2"]) == ["F1", "bar_hit", "disc_hit"]
    best = max(results, key=lambda step: (results[step]["F1"], -int(step)))
    assert [p.name for p in (house.root / "teacher/best").glob("*.index")] == [f"ckpt-{best}.index"]


def test_it_imitates_two_maps(house):
    losses = house.losses("student")
    assert all(row["imitation_loss"] > 0 and 0 < row["imitation_mask_share"] < 1 for row in losses)
    variables = dict(tf.train.list_variables(str(house.root / "student/checkpoints/ckpt-4")))
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    # each map is adapted to the teacher's 8 and 16 channels
    assert variables[f"imitation/kernel_0{suffix}"] == [3, 3, 4, 8]
    assert variables[f"imitation/kernel_1{suffix}"] == [3, 3, 8, 16]


def test_it_teaches_and_imitates_the_package_s_own(house):
    # --imitated=coarse: one map of stride 16, as ShuffleDet's
    for name in ("coarse", "package_student"):
        (row,) = house.losses(name)
        assert row["imitation_loss"] > 0, name
    assert "confidence_loss" in house.losses("package_student")[0]


def test_a_resumed_run_is_an_uninterrupted_one(house):
    assert f"going on from {house.root / 'resumed/checkpoints/ckpt-2'}" in house.said["resumed"]
    for one, other in zip(house.losses("student"), house.losses("resumed"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    whole, resumed = (
        tf.train.load_checkpoint(str(house.root / name / "checkpoints/ckpt-4"))
        for name in ("student", "resumed")
    )
    for key in whole.get_variable_to_shape_map():
        if "CHECKPOINTABLE" not in key:
            np.testing.assert_allclose(
                whole.get_tensor(key), resumed.get_tensor(key), rtol=0, atol=1e-6, err_msg=key
            )


def test_two_devices_compute_what_one_does(house):
    for one, two in zip(house.losses("student"), house.losses("shared_out"), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)


def test_its_own_protocol_evaluates(house):
    found = json.loads((house.root / "found.json").read_text())
    # the covered disc of picture 3 is ignored at the run's own --most_covered=0.5
    assert found["shapes"] == {"bar": 3, "disc": 2}
    assert json.loads((house.root / "most.json").read_text())["shapes"] == {"bar": 3, "disc": 3}
    visible = json.loads((house.root / "visible.json").read_text())
    assert visible["shapes"] == {"bar": 3, "disc": 2}
    assert "Drawings, shapes hit, percent" in house.said["evaluate"]
    assert "- pictures: 12" in house.said["evaluate"] and "- objects: 15" in house.said["evaluate"]
    assert "by hand (published)" in house.said["evaluate"]
    page = (house.root / "report/index.html").read_text()
    assert "Drawings" in page and "<table" in page and "shapes hit" in page
    assert list((house.root / "report").rglob("*.png")), "the report shows its pictures"


def test_the_exported_model_predicts(house):
    names = sorted(path.name for path in house.data.joinpath("val").iterdir())
    assert sorted(p.name for p in (house.root / "predicted").glob("*.png")) == names
    (file,) = (house.root / "predicted").glob("*.csv")
    with open(file) as lines:
        rows = list(csv.DictReader(lines))
    with open(next((house.root / "results").glob("*.csv"))) as lines:
        of_split = list(csv.DictReader(lines))
    assert {row["class"] for row in rows} <= set(KINDS) and len(rows) == len(of_split) > 0
