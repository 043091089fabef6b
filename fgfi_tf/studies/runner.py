"""Runs what is missing of a study, one training after another, each in a process of its own."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.processes import STOPPED, run_and_wait
from fgfi_tf.studies import results
from fgfi_tf.studies.plan import Arm, Plan, config_of, fingerprint, source_seed
from fgfi_tf.training.run_log import METRICS_FILE, read_metrics

_TIME_FILE = "study_seconds"  # what earlier starts of the run took
_COMMIT_FILE = "study_commit"  # of its first start: another study may find the run done
_STEP = re.compile(r"\bstep ([0-9,]+)")


class Runner:
    """Where a study's runs lie and what starts them.

    Args:
        plan: the study.
        runs_dir: folder of the run folders, ``ARM/seedN``.
        data_dir: what ``{data}`` stands for in the plan.
        train: the training script.
        show: called with each line for the user, and whether the next one may replace it.
        more: further flags of every training, which change no result.

    Attributes:
        results: (arm, seed) -> result, of the runs that are done.
    """

    def __init__(
        self,
        plan: Plan,
        runs_dir: str | Path,
        data_dir: str,
        train: Path,
        show: Callable[[str, bool], None],
        more: Sequence[str] = (),
    ):
        self.plan, self.runs_dir, self.data_dir = plan, Path(runs_dir), data_dir
        self._train, self._show, self._more = train, show, tuple(more)
        self.results = results.read_results(plan)

    def folder(self, arm: Arm, seed: int) -> Path:
        """The run folder; a run with other flags has another one."""
        return self.runs_dir / arm.name / f"seed{seed}-{fingerprint(self.plan, arm, seed)}"

    def flags(self, arm: Arm, seed: int) -> list[str]:
        """The training's flags with all places filled in. Raises UserError for one that is not known."""
        config = config_of(arm, seed)
        given = [*arm.flags, f"--seed={seed}", f"--output_dir={self.folder(arm, seed)}"]
        if not config.evaluate_every:  # the last step is evaluated in any case
            given += [f"--checkpoint_every={config.steps}", f"--evaluate_every={config.steps}"]
        return [*(self._fill(flag, seed) for flag in given), *self._more]

    def _fill(self, flag: str, seed: int) -> str:
        def place(match: re.Match) -> str:
            name, _, which = match[1].partition(":")
            if name == "run":
                source = self.plan.arm(which)
                return str(self.folder(source, source_seed(source, seed)))
            if name == "data" and not which:
                if not self.data_dir:
                    raise UserError(f"--data_dir is missing: {self.plan.path} needs it")
                return self.data_dir
            raise UserError(f"{self.plan.path}: {{{match[1]}}} is no place; known are {{data}}, {{run:ARM}}")

        return re.sub(r"\{([^}]*)\}", place, flag)

    def missing(self) -> list[tuple[Arm, int]]:
        """Runs of the plan that have no result yet."""
        return [(arm, seed) for arm, seed in self.plan.runs() if (arm.name, seed) not in self.results]

    def run(self) -> int:
        """Runs all that is missing; a run that was interrupted goes on where it stopped.

        Returns 0, or the exit code of a training that a signal stopped. Raises UserError where one failed;
        what is done stays, the same command goes on.
        """
        todo = self.missing()
        for number, (arm, seed) in enumerate(todo):
            if code := self._run_one(arm, seed, f"[{number + 1} of {len(todo)}]", todo[number + 1 :]):
                return code
        return 0

    def _run_one(self, arm: Arm, seed: int, place: str, later: list[tuple[Arm, int]]) -> int:
        folder, steps = self.folder(arm, seed), config_of(arm).steps
        command = [sys.executable, str(self._train), *self.flags(arm, seed)]
        self._show(f"{place} {arm.name}, seed {seed}: {shlex.join(command)}", False)
        began, before = time.monotonic(), _seconds(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        log, last = folder.parent / f"{folder.name}.log", ""

        def took() -> float:
            return before + time.monotonic() - began

        def hear(line: str) -> None:
            nonlocal last
            kept.write(line)
            kept.flush()
            last = line.strip() or last
            if match := _STEP.search(line):
                step, so_far = int(match[1].replace(",", "")), took()
                whole = so_far / max(step, 1) * steps
                left = duration(max(whole - so_far, 0.0) + (self.estimate(later, {arm.name: whole}) or 0.0))
                self._show(
                    f"{place} {arm.name}, seed {seed}: step {step} of {steps}; in all about {left} more", True
                )

        with open(log, "a", encoding="utf-8") as kept:
            code = run_and_wait(command, hear)
        seconds = took()
        if folder.is_dir():
            (folder / _TIME_FILE).write_text(f"{seconds:.1f}\n")
            if not (folder / _COMMIT_FILE).exists():
                (folder / _COMMIT_FILE).write_text(results.commit())
        if code in STOPPED:
            return code
        if code:
            raise UserError(f"{arm.name}, seed {seed} ended with {code}: {last} (all of it: {log})")
        self.results[arm.name, seed] = result = self._result(arm, seed, seconds)
        results.append_result(self.plan, result)
        return 0

    def _result(self, arm: Arm, seed: int, seconds: float) -> results.RunResult:
        folder, steps = self.folder(arm, seed), config_of(arm).steps
        table = folder / METRICS_FILE
        rows = read_metrics(table)[1] if table.is_file() else []
        try:
            curve = json.loads((folder / "evaluation" / "results.json").read_text())
            metrics = curve[str(steps)]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: holds no evaluation of step {steps}: {error}") from None
        return results.RunResult(
            arm=arm.name,
            seed=seed,
            fingerprint=fingerprint(self.plan, arm, seed),
            command=[*arm.flags, f"--seed={seed}"],
            metrics=metrics,
            curve=curve,
            losses={key: float(value) for row in rows[-1:] for key, value in row.items() if value},
            seconds=round(seconds, 1),
            commit=(folder / _COMMIT_FILE).read_text(),
            versions=results.versions(),
            machine=results.machine(),
        )

    def estimate(
        self, todo: list[tuple[Arm, int]], running: Mapping[str, float] | None = None
    ) -> float | None:
        """Seconds that runs will take, by those of the same arm, or by the steps of others; None: unknown.

        ``running``: seconds of a whole run of an arm, as far as one tells that is not done.
        """
        known: dict[str, list[float]] = {}
        for (name, _), result in self.results.items():
            known.setdefault(name, []).append(result.seconds)
        each = {**(running or {}), **{name: sum(values) / len(values) for name, values in known.items()}}
        if not each:
            return None if todo else 0.0
        rate = sum(each.values()) / sum(config_of(self.plan.arm(name)).steps for name in each)
        return sum(each.get(arm.name, rate * config_of(arm).steps) for arm, _ in todo)


def duration(seconds: float) -> str:
    """``3 h 20 min``, ``12 min``, ``40 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _seconds(folder: Path) -> float:
    try:
        return float((folder / _TIME_FILE).read_text())
    except (OSError, ValueError):
        return 0.0
