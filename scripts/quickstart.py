#!/usr/bin/env python3
"""From nothing to an imitating student in seven minutes on two CPU cores, without any data.

Draws street scenes, trains a teacher, trains the same student twice, once alone and once imitating the
teacher, evaluates the three, exports the imitating one, detects with it, and ends with what imitation gave.
Each step is one of the package's own commands and is printed before it runs: it can be copied into the
same shell and repeated with other flags. Steps already done are not done again, unless their flags, their
flagfile or a step that they build on changed; an interrupted training goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.options import at_least, not_negative, option
from fgfi_tf.paths import is_occupied, replace_text
from fgfi_tf.processes import STOPPED, run_and_wait
from fgfi_tf.training import flags

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS_FILE = "steps.json"
# From this score on nine of ten boxes of the imitating student lie on an object of their class.
MIN_SCORE = "--min_score=0.6"
_PLACES = {
    "report/index.html": "the three side by side and the same images as each sees them, for a browser",
    "pictures": "what the exported student sees (PNG and KITTI text)",
    "exported": "the imitating student as SavedModel: uint8 images in, boxes out",
    "student_imitating": "its run folder, also for TensorBoard",
    "toy_kitti": "the drawn data set, in the raw KITTI layout",
}


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Options of the quickstart."""

    output_dir: str = option("quickstart", "Quickstart", "Folder for everything it makes.")
    images: int = option(
        1200, "Quickstart", "Drawn training images; an eighth as many to evaluate on.", check=at_least(1)
    )
    teacher_steps: int = option(
        0, "Quickstart", "Updates of the teacher (0: as its flagfile says).", check=not_negative
    )
    student_steps: int = option(
        0, "Quickstart", "Updates of each student (0: as its flagfile says).", check=not_negative
    )
    seed: int = option(
        0, "Quickstart", "Seed of all three trainings; the students share it.", check=not_negative
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: its key in ``STEPS_FILE``.
        title: what it does, for people.
        script: file in ``scripts``.
        flags: its command line.
        made: the folder that it makes; removed where it has to be made anew.
        needs: names of the steps that it builds on.
        always: it is run even if nothing changed, for what it prints.
    """

    name: str
    title: str
    script: str
    flags: tuple[str, ...]
    made: Path
    needs: tuple[str, ...] = ()
    always: bool = False


MODELS = TEACHER, PLAIN, IMITATING = "teacher", "student", "student_imitating"


def steps(config: QuickstartConfig) -> list[Step]:
    """What the quickstart does, in order."""
    folder = Path(config.output_dir)
    data, exported, pictures = folder / "toy_kitti", folder / "exported", folder / "pictures"
    size = (f"--train={config.images}", f"--val={max(config.images // 8, 1)}")
    return [
        Step("scenes", "draw street scenes", "make_toy_kitti.py", (f"--output_dir={data}", *size), data),
        *_trainings(config, folder, data),
        *_evaluations(folder, data),
        Step(
            "export",
            "export the imitating student",
            "export.py",
            (f"--checkpoint={folder / IMITATING}", f"--output_dir={exported}"),
            exported,
            (IMITATING,),
        ),
        Step(
            "predict",
            "detect with the exported student",
            "predict.py",
            (
                f"--model_path={exported}",
                f"--images={data / 'samples'}",
                f"--output_dir={pictures}",
                MIN_SCORE,
            ),
            pictures,
            ("scenes", "export"),
        ),
        _comparison(folder, data),
    ]


def _trainings(config: QuickstartConfig, folder: Path, data: Path) -> list[Step]:
    seed = (f"--seed={config.seed}",) if config.seed else ()

    def training(name: str, title: str, flagfile: str, updates: int, *more: str, needs=("scenes",)) -> Step:
        path = _shown(REPOSITORY / "configs" / "quickstart" / flagfile)
        length = (f"--steps={updates}",) if updates else ()
        flags = (f"--flagfile={path}", f"--data_dir={data}", f"--output_dir={folder / name}")
        return Step(name, title, "train.py", (*flags, *more, *length, *seed), folder / name, needs)

    taught = f"--teacher_checkpoint={folder / TEACHER}"
    updates = config.student_steps
    return [
        training(TEACHER, "train the teacher", "teacher.cfg", config.teacher_steps),
        training(PLAIN, "train the student alone", "student.cfg", updates, "--noimitation"),
        training(
            IMITATING,
            "train the same student, imitating the teacher near objects",
            "student.cfg",
            updates,
            taught,
            needs=("scenes", TEACHER),
        ),
    ]


def _evaluations(folder: Path, data: Path) -> list[Step]:
    def evaluation(name: str) -> Step:
        made = folder / "detections" / name
        flags = (f"--checkpoint={folder / name}", f"--data_dir={data}", f"--results_dir={made}")
        title = f"evaluate the {name.replace('_', ' ')}"
        return Step(f"evaluate_{name}", title, "evaluate.py", flags, made, ("scenes", name))

    return [*map(evaluation, MODELS)]


def _comparison(folder: Path, data: Path) -> Step:
    report = folder / "report"
    flags = (
        "--compare=" + ",".join(f"{name}={folder / 'detections' / name}" for name in MODELS),
        f"--teacher={TEACHER}",
        f"--baseline={PLAIN}",
        f"--labels={data / 'training' / 'label_2'}",
        f"--split={data / 'ImageSets' / 'val.txt'}",
        f"--images={data / 'training' / 'image_2'}",
        f"--report_dir={report}",
        MIN_SCORE,
    )
    needs = tuple(f"evaluate_{name}" for name in MODELS)
    return Step("compare", "compare the three", "evaluate.py", flags, report, needs, always=True)


def main(argv: Sequence[str]) -> int:
    """Parses the flags and runs the steps; the exit code of a step that a signal ended."""
    config = flags.parse(argv, QuickstartConfig)
    folder = Path(config.output_dir)
    if "," in config.output_dir:
        raise UserError(f"--output_dir={config.output_dir}: the comparison separates folders by commas")
    folder.mkdir(parents=True, exist_ok=True)
    began, record = time.monotonic(), Record(folder / STEPS_FILE)
    todo = steps(config)
    for number, step in enumerate(todo, start=1):
        print(f"\n[{number}/{len(todo)}] {step.title}", flush=True)
        if code := _run(step, record):
            return code
        if step.name == "scenes":
            _pick_samples(folder / "toy_kitti")
    print("\nWhat there is now:")
    for name, text in _PLACES.items():
        print(f"  {folder / name}: {text}")
    print(f"Done in {(time.monotonic() - began) / 60:.1f} minutes.")
    return 0


class Record:
    """What each step was last started with, and whether it came to its end."""

    def __init__(self, path: Path):
        self._path = path
        self._held: dict[str, dict[str, object]] = self._read(path) if path.is_file() else {}

    @staticmethod
    def _read(path: Path) -> dict[str, dict[str, object]]:
        try:
            held = json.loads(path.read_text())
            if not isinstance(held, dict) or not all(
                {"fingerprint", "done"} <= set(step) for step in held.values()
            ):
                raise ValueError("not a quickstart's")
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error}); delete it and the folders beside it that the quickstart made, "
                "or name another --output_dir"
            ) from error
        return held

    def fingerprint(self, step: Step) -> str:
        """Of the command, of the flagfiles' texts, and of the steps that it builds on."""
        texts = [step.script, *step.flags]
        for flag in step.flags:
            if flag.startswith("--flagfile="):  # which may name another one beside it
                folder = Path(flag.partition("=")[2]).parent
                texts += [path.read_text() for path in sorted(folder.glob("*.cfg"))]
        texts += [str(self._held.get(name, {}).get("fingerprint")) for name in step.needs]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    def knows(self, step: Step) -> bool:
        """Whether the step was started in this folder before, with whatever flags."""
        return step.name in self._held

    def same(self, step: Step) -> bool:
        """Whether it was started with these flags."""
        return self._held.get(step.name, {}).get("fingerprint") == self.fingerprint(step)

    def done(self, step: Step) -> bool:
        """Whether it came to its end with these flags, and what it made is still there."""
        return self.same(step) and bool(self._held[step.name]["done"]) and step.made.exists()

    def write(self, step: Step, done: bool) -> None:
        """Notes that the step is started, or done."""
        self._held[step.name] = {"fingerprint": self.fingerprint(step), "done": done}
        replace_text(self._path, json.dumps(self._held, indent=1) + "\n")


def _run(step: Step, record: Record) -> int:
    """The exit code: 0, or that of a signal. Raises UserError where the step failed."""
    if record.done(step) and not step.always:
        print("    done before", flush=True)
        return 0
    goes_on = step.script == "train.py" and record.same(step)
    if not record.knows(step) and is_occupied(step.made):
        raise UserError(
            f"{step.made} is there already and this quickstart did not make it; move it away, "
            "or name another --output_dir"
        )
    if step.made.exists() and record.knows(step) and not goes_on:
        if not record.same(step):
            print("    made anew: its flags, or what it builds on, changed", flush=True)
        shutil.rmtree(step.made)
    record.write(step, done=False)
    script = _shown(REPOSITORY / "scripts" / step.script)
    command = [_shown(Path(sys.executable), resolve=False), script, *step.flags]
    print(f"    {shlex.join(command)}", flush=True)
    code = run_and_wait(command)
    if code in STOPPED:
        print("\nThe quickstart stops here; the same command goes on.", flush=True)
        return code
    if code:
        raise UserError(f"the step failed ({step.title}); mend it and start the same command again")
    record.write(step, done=True)
    return 0


def _shown(path: Path, resolve: bool = True) -> str:
    """The path as seen from the current folder, where that is shorter."""
    path = path.resolve() if resolve else Path(os.path.abspath(path))
    return min(str(path), os.path.relpath(path), key=len)


def _pick_samples(data: Path, count: int = 12) -> None:
    """Copies the first validation images into a folder of their own, for predict.py."""
    samples = data / "samples"
    samples.mkdir(exist_ok=True)
    for frame in (data / "ImageSets" / "val.txt").read_text().split()[:count]:
        shutil.copyfile(data / "training" / "image_2" / f"{frame}.png", samples / f"{frame}.png")


if __name__ == "__main__":
    cli.run(main)
