#!/usr/bin/env python3
"""From nothing to an imitating student in ten minutes on two CPU cores, without any data.

Draws a small data set, trains a teacher, trains a student that imitates it, evaluates both side by
side, exports the student and detects with it. Every step is one of the package's own commands and
is printed before it runs, so that it can be repeated with other flags. Steps already done are not
done again; an interrupted training goes on.
"""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.training import flags
from fgfi_tf.training.config import option

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Options of the quickstart."""

    output_dir: str = option("quickstart", "Quickstart", "Folder for everything it makes.")
    images: int = option(400, "Quickstart", "Drawn training images.")
    teacher_steps: int = option(450, "Quickstart", "Updates of the teacher.")
    student_steps: int = option(450, "Quickstart", "Updates of the student.")
    batch_size: int = option(8, "Quickstart", "Images per update.")


def commands(config: QuickstartConfig) -> list[tuple[str, list[str], str]]:
    """Each step: what it is, the command, and the file that tells it is done."""
    data, teacher, student = "toy_kitti", "teacher", "student"
    common = [f"--data_dir={data}", f"--batch_size={config.batch_size}"]
    return [
        (
            "draw street scenes",
            [
                "make_toy_kitti.py",
                f"--output_dir={data}",
                f"--train={config.images}",
                f"--val={config.images // 4}",
            ],
            f"{data}/ImageSets/val.txt",
        ),
        (
            "train the teacher, EfficientNet-Lite0 from ImageNet with ShuffleDet's head",
            [
                "train.py",
                _flagfile("teacher"),
                f"--output_dir={teacher}",
                f"--steps={config.teacher_steps}",
                *common,
            ],
            f"{teacher}/finished",
        ),
        (
            "train the student, ShuffleDet 0.25x, imitating the teacher near objects",
            [
                "train.py",
                _flagfile("student"),
                f"--teacher_checkpoint={teacher}",
                f"--output_dir={student}",
                f"--steps={config.student_steps}",
                *common,
            ],
            f"{student}/finished",
        ),
        *[
            (
                f"evaluate the {name}",
                [
                    "evaluate.py",
                    f"--checkpoint={name}",
                    f"--data_dir={data}",
                    f"--results_dir=detections/{name}",
                ]
                + [f"--output_json=detections/{name}.json"],
                f"detections/{name}.json",
            )
            for name in (teacher, student)
        ],
        (
            "compare them in a report",
            [
                "evaluate.py",
                f"--compare={teacher}=detections/{teacher},{student}=detections/{student}",
                f"--labels={data}/training/label_2",
                f"--split={data}/ImageSets/val.txt",
                f"--images={data}/training/image_2",
                "--report_dir=report",
            ],
            "report/index.html",
        ),
        (
            "export the student",
            ["export.py", f"--checkpoint={student}", "--output_dir=exported"],
            "exported/saved_model.pb",
        ),
        (
            "detect with the exported student",
            ["predict.py", "--model_path=exported", f"--images={data}/samples", "--output_dir=pictures"],
            "",
        ),
    ]


def _flagfile(name: str) -> str:
    return f"--flagfile={REPOSITORY / 'configs' / 'quickstart' / name}.cfg"


def main(argv: Sequence[str]) -> None:
    """Parses the flags and runs the steps in the output folder."""
    config = flags.parse(argv, QuickstartConfig)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for number, (title, command, done) in enumerate(commands(config), start=1):
        print(f"\n[{number}] {title}", flush=True)
        if done and (folder / done).exists():
            print("    done before", flush=True)
            continue
        print(f"    python scripts/{shlex.join(command).replace(str(REPOSITORY) + '/', '')}", flush=True)
        full = [sys.executable, str(REPOSITORY / "scripts" / command[0]), *command[1:]]
        if subprocess.run(full, cwd=folder, check=False).returncode:
            raise UserError(f"step {number} ({title}) failed; mend it and start the same command again")
        if command[0] == "make_toy_kitti.py":
            _pick_samples(folder / "toy_kitti")
    _summary(folder, time.monotonic() - began)


def _pick_samples(data: Path, count: int = 12) -> None:
    """Links the first validation images into one folder, for predict.py."""
    samples = data / "samples"
    samples.mkdir()
    for frame in (data / "ImageSets" / "val.txt").read_text().split()[:count]:
        (samples / f"{frame}.png").hardlink_to(data / "training" / "image_2" / f"{frame}.png")


def _summary(folder: Path, seconds: float) -> None:
    places = {
        "pictures": "what the exported student sees (PNG and KITTI text)",
        "report/index.html": "teacher and student side by side; open it in a browser",
        "exported": "the student as SavedModel: uint8 images in, boxes out",
        "student": f"its run folder; tensorboard --logdir {folder}",
        "toy_kitti": "the drawn data set, in the raw KITTI layout",
    }
    print(f"\nDone in {seconds / 60:.1f} minutes.")
    for name, text in places.items():
        print(f"  {folder / name}: {text}")


if __name__ == "__main__":
    cli.run(main)
