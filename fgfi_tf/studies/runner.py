"""Runs what is missing of a study, each training in a process of its own, one or several at a time."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from fgfi_tf.errors import UserError
from fgfi_tf.processes import STOPPED, Commands
from fgfi_tf.studies import results
from fgfi_tf.studies.plan import Arm, Plan, config_of, fingerprint, source_seed, sources
from fgfi_tf.training.run_log import METRICS_FILE, read_metrics

_TIME_FILE = "study_seconds"  # what earlier starts of the run took
_COMMIT_FILE = "study_commit"  # of its first start: another study may find the run done
_STEP = re.compile(r"\bstep ([0-9,]+)")
_THREADS = "TF_NUM_INTRAOP_THREADS"


@dataclasses.dataclass
class _Running:
    """A training that runs: where it stands, what it took before this start, what it printed last.

    ``commit``: of the code that it was started with.
    """

    arm: Arm
    seed: int
    folder: Path
    log: TextIO
    before: float
    commit: str
    began: float = dataclasses.field(default_factory=time.monotonic)
    step: int = 0
    last: str = ""

    def took(self) -> float:
        return self.before + time.monotonic() - self.began

    def whole(self) -> float | None:
        """Seconds of all its steps, by those so far; None before the first line that names a step."""
        return self.took() / self.step * config_of(self.arm).steps if self.step else None


class Runner:
    """Where a study's runs lie and what starts them.

    Args:
        plan: the study.
        runs_dir: folder of the run folders, ``ARM/seedN``.
        data_dir: what ``{data}`` stands for in the plan.
        train: the training script.
        show: called with each line for the user, and whether the next one may replace it.
        more: further flags of every training, which change no result.
        jobs: trainings that run at the same time.

    Attributes:
        results: (arm, seed) -> result, of the runs that are done, here or by plans that share them.
    """

    def __init__(
        self,
        plan: Plan,
        runs_dir: str | Path,
        data_dir: str,
        train: Path,
        show: Callable[[str, bool], None],
        more: Sequence[str] = (),
        jobs: int = 1,
    ):
        self.plan, self.runs_dir, self.data_dir = plan, Path(runs_dir), data_dir
        self._train, self._show, self._more, self._jobs = train, show, tuple(more), jobs
        recorded = results.read_results(plan)
        self._beside = results.found_beside(plan, recorded)
        self.results = recorded | self._beside

    def folder(self, arm: Arm, seed: int) -> Path:
        """The run folder; a run with other flags has another one."""
        return self.runs_dir / arm.name / f"seed{seed}-{fingerprint(self.plan, arm, seed)}"

    def flags(self, arm: Arm, seed: int) -> list[str]:
        """The training's flags with all places filled in. Raises UserError for one that is not known."""
        config = config_of(arm, seed)
        given = [*arm.flags, f"--seed={seed}", f"--output_dir={self.folder(arm, seed)}"]
        if not config.evaluate_every:  # the last step, which is evaluated in any case, and no other one
            every = config.checkpoint_every
            given.append(f"--evaluate_every={math.ceil(config.steps / every) * every}")
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

    def again(self) -> list[tuple[Arm, int]]:
        """Runs that have a result and whose checkpoint, from which missing ones start, is not here."""
        found: list[tuple[Arm, int]] = []
        for run in self.missing():
            self._add_sources(run, found)
        return found

    def _add_sources(self, run: tuple[Arm, int], found: list[tuple[Arm, int]]) -> None:
        for source in map(self.plan.arm, sources(run[0])):
            one = source, source_seed(source, run[1])
            if (source.name, one[1]) in self.results and one not in found and not self._is_here(*one):
                self._add_sources(one, found)
                found.append(one)

    def _is_here(self, arm: Arm, seed: int) -> bool:
        folder = self.folder(arm, seed)
        return _is_finished(folder) and _has_checkpoint(folder)

    def run(self) -> int:
        """Runs all that is missing; a run that was interrupted goes on where it stopped.

        Runs of ``again`` come first; what they give is recorded beside the results that stay.

        Returns 0, or the exit code of a training that a signal stopped. Raises UserError where one failed,
        once those beside it have saved; what is done stays, the same command goes on.
        """
        waiting = self.again() + self.missing()
        for run in waiting:  # a place that is not known is told before hours have passed
            self.flags(*run)
        for result in self.results.values():
            results.check_metric(self.plan, result)
        for one in self._beside.values():
            results.append_result(self.plan, one)
        self._beside = {}
        running: dict[str, _Running] = {}
        try:
            with Commands().listening() as commands:
                failed = self._run_all(commands, waiting, running)
        finally:
            for one in running.values():  # an error ended the loop, and them, who have saved
                self._keep_time(one)
        if commands.asked:
            return 128 + commands.asked[0]
        if failed is None or failed[1] in STOPPED:
            return failed[1] if failed else 0
        one, code = failed
        raise UserError(
            f"{one.arm.name}, seed {one.seed} ended with {code}: {one.last} (all of it: {one.log.name})"
        )

    def _run_all(
        self, commands: Commands, waiting: list[tuple[Arm, int]], running: dict[str, _Running]
    ) -> tuple[_Running, int] | None:
        """Runs until nothing waits, or as long as nothing fails; what failed first, and its exit code."""
        total, failed = len(waiting), None
        self._start(commands, waiting, running, total)
        for name, what in commands.events():
            one = running[name]
            if isinstance(what, str):
                self._hear(one, what, waiting, running)
                continue
            del running[name]
            self._keep_time(one)
            if what == 0:
                self._note(one)
            elif not commands.asked and failed is None:
                failed = (one, what)
                commands.stop(signal.SIGTERM)  # the others save what they have
            if not commands.asked and failed is None:
                self._start(commands, waiting, running, total)
        return failed

    def _start(
        self, commands: Commands, waiting: list[tuple[Arm, int]], running: dict[str, _Running], total: int
    ) -> None:
        """Starts those whose sources are done, until as many run as may."""
        undone = {(arm.name, seed) for arm, seed in waiting} | {
            (r.arm.name, r.seed) for r in running.values()
        }
        for arm, seed in list(waiting):
            if len(running) == self._jobs:
                return
            if undone & {(name, source_seed(self.plan.arm(name), seed)) for name in sources(arm)}:
                continue
            waiting.remove((arm, seed))
            folder = self.folder(arm, seed)
            command = [sys.executable, str(self._train), *self.flags(arm, seed), *self._anew(arm, seed)]
            place = f"[{total - len(waiting)} of {total}]"
            self._show(f"{place} {arm.name}, seed {seed}: {shlex.join(command)}", False)
            folder.parent.mkdir(parents=True, exist_ok=True)
            log = open(folder.parent / f"{folder.name}.log", "a", encoding="utf-8")
            name = f"{arm.name}, seed {seed}"
            running[name] = _Running(arm, seed, folder, log, _seconds(folder), results.commit())
            commands.start(name, command, _sharing(self._jobs))

    def _anew(self, arm: Arm, seed: int) -> list[str]:
        """Flags of a run that has its result, was finished and lost its checkpoints: it begins anew."""
        folder = self.folder(arm, seed)
        if (arm.name, seed) not in self.results or not _is_finished(folder) or _has_checkpoint(folder):
            return []
        for name in (_TIME_FILE, _COMMIT_FILE):
            (folder / name).unlink(missing_ok=True)
        return ["--overwrite"]

    def _hear(
        self, one: _Running, line: str, waiting: list[tuple[Arm, int]], running: dict[str, _Running]
    ) -> None:
        one.log.write(line)
        one.log.flush()
        one.last = line.strip() or one.last
        if match := _STEP.search(line):
            one.step = int(match[1].replace(",", ""))
            whole = {r.arm.name: seconds for r in running.values() if (seconds := r.whole())}
            lefts = [max((r.whole() or 0.0) - r.took(), 0.0) for r in running.values()]
            later = self.estimate(waiting, whole) or 0.0
            left = duration(max(max(lefts), (sum(lefts) + later) / self._jobs))
            steps = "; ".join(
                f"{name}: step {r.step} of {config_of(r.arm).steps}" for name, r in running.items()
            )
            self._show(f"{steps}; in all about {left} more", True)

    def _note(self, one: _Running) -> None:
        key = one.arm.name, one.seed
        result = self._result(one.arm, one.seed, one.took(), again=key in self.results)
        results.append_result(self.plan, result)
        self.results.setdefault(key, result)
        results.check_metric(self.plan, result)

    def _keep_time(self, one: _Running) -> None:
        one.log.close()
        if one.folder.is_dir():
            (one.folder / _TIME_FILE).write_text(f"{one.took():.1f}\n")
            if not (one.folder / _COMMIT_FILE).exists():
                (one.folder / _COMMIT_FILE).write_text(one.commit)

    def _result(self, arm: Arm, seed: int, seconds: float, again: bool) -> results.RunResult:
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
            machine=results.machine() | ({"at_once": self._jobs} if self._jobs > 1 else {}),
            again=again,
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


def _is_finished(folder: Path) -> bool:
    return (folder / "finished").exists()


def _has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoints/ckpt-*.index"))


def duration(seconds: float) -> str:
    """``3 h 20 min``, ``12 min``, ``40 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _sharing(jobs: int) -> dict[str, str]:
    """Environment variables of each of several trainings that run at the same time.

    TensorFlow would give the first the whole memory of a GPU, and each as many threads as there are cores:
    two imitating students on two cores were 1.1 times as fast with one thread each.
    """
    if jobs == 1:
        return {}
    machine, shared = results.machine(), {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if "gpus" not in machine and _THREADS not in os.environ:
        shared[_THREADS] = str(max(machine["cores"] // jobs, 1))
    return shared


def _seconds(folder: Path) -> float:
    try:
        return float((folder / _TIME_FILE).read_text())
    except (OSError, ValueError):
        return 0.0
