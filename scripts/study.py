#!/usr/bin/env python3
"""Runs what is missing of a study, arms x seeds of trainings, and writes what was found beside the plan.

    python scripts/study.py --plan=configs/studies/drawn_scenes.cfg --data_dir=toy --dry_run
    python scripts/study.py --plan=configs/studies/drawn_scenes.cfg --data_dir=toy

Ctrl-C is safe at any time: a training that runs saves first, and the same command goes on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.options import at_least, option
from fgfi_tf.training import flags
from fgfi_tf.training.config import extensions_option

TRAIN = Path(__file__).resolve().parent / "train.py"


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Options of a study."""

    plan: str = option("", "Study", "File with the arms and seeds; results are written beside it.")
    data_dir: str = option("", "Study", "Folder of the raw dataset: {data} in the plan.")
    runs_dir: str = option("runs/studies", "Study", "Folder of the run folders.")
    dry_run: bool = option(False, "Study", "Say what would be run and how long it takes, and run nothing.")
    jobs: int = option(
        1, "Study", "Trainings at the same time, for a GPU that one does not fill.", check=at_least(1)
    )
    extensions: str = extensions_option("Study")
    report_dir: str = option("", "Study", "Write the report (HTML, Markdown, JSON, PNG) there as well.")


def main(argv: Sequence[str]) -> int:
    """Parses the flags, runs what is missing, writes the tables; the exit code of a stopped training."""
    config = flags.parse(argv, StudyConfig)
    if not config.plan:
        raise UserError("--plan is missing: a file such as configs/studies/drawn_scenes.cfg")
    from fgfi_tf.studies import runner, tables
    from fgfi_tf.studies.plan import read_plan

    plan = read_plan(config.plan)
    run = runner.Runner(
        plan,
        Path(config.runs_dir) / plan.runs_name,
        config.data_dir,
        TRAIN,
        Lines().show,
        (f"--extensions={config.extensions}",) if config.extensions else (),
        config.jobs,
    )
    todo, again = run.missing(), run.again()
    seconds = run.estimate(again + todo)
    left = "how long it takes is known once one is done"
    if seconds is not None:
        left = f"about {runner.duration(seconds)} to go"
    total = sum(len(arm.seeds) for arm in plan.arms)
    print(f"{plan.title}: {total - len(todo)} of {total} runs are done" + (f"; {left}" if todo else ""))
    for arm, seed in again:
        print(
            f"{arm.name}, seed {seed} is trained again: others start from it, and "
            f"{run.folder(arm, seed)} holds no checkpoint of its last step"
        )
    if config.dry_run:
        for arm, seed in again + todo:
            print(f"  {arm.name}, seed {seed}: {' '.join(run.flags(arm, seed))}")
        return 0
    code = run.run()
    if run.results:
        written = tables.write(plan, run.results, config.report_dir)
        print(f"\n{tables.terminal_table(plan, run.results)}\n\nwritten: {', '.join(map(str, written))}")
    return code


class Lines:
    """Lines for the user; one that may be replaced is overwritten on a terminal, and else left out."""

    def __init__(self):
        self._open = False

    def show(self, text: str, replaceable: bool) -> None:
        """Prints a line."""
        if replaceable and not sys.stdout.isatty():
            return
        start = "\r\033[K" if self._open else ""
        print(start + text, end="" if replaceable else "\n", flush=True)
        self._open = replaceable


if __name__ == "__main__":
    cli.run(main)
