"""The results of a study's runs, one JSON line each, beside the plan; written by the tool alone."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from fgfi_tf.errors import UserError
from fgfi_tf.paths import folder_locked, replace_text
from fgfi_tf.processes import cores
from fgfi_tf.studies.plan import Plan, fingerprint, read_plan


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One finished run.

    Attributes:
        arm, seed, fingerprint: which run of the plan it is (``plan.fingerprint``).
        command: the training's flags, places as in the plan.
        metrics: ``Result.metrics`` of the last step.
        curve: step -> metrics, of every evaluation in the run.
        losses: the last line of the run's ``metrics.csv``.
        seconds: of the training with its evaluations, all starts together.
        commit, versions, machine: what it ran on.
        again: it is a second training of a run that others start from, made where the checkpoint of the
            first was missing; the first remains the run's result.
    """

    arm: str
    seed: int
    fingerprint: str
    command: list[str]
    metrics: dict[str, float]
    curve: dict[str, dict[str, float]]
    losses: dict[str, float]
    seconds: float
    commit: str
    versions: dict[str, str]
    machine: dict[str, Any]
    again: bool = False


def results_file(plan: Plan) -> Path:
    """``NAME.jsonl`` beside ``NAME.cfg``."""
    return plan.path.with_suffix(".jsonl")


def read_results(plan: Plan) -> dict[tuple[str, int], RunResult]:
    """(arm, seed) -> the run's result, of the runs that the plan has with the flags that it has now.

    Raises UserError for a line that the tool did not write.
    """
    wanted = _wanted(plan)
    lines = (one for one in _read(results_file(plan)) if not one.again)
    return {key: one for one in lines if wanted.get(key := (one.arm, one.seed)) == one.fingerprint}


def read_again(plan: Plan) -> list[RunResult]:
    """The second trainings of runs of the plan, in the order in which they ended."""
    wanted = _wanted(plan)
    return [
        one
        for one in _read(results_file(plan))
        if one.again and wanted.get((one.arm, one.seed)) == one.fingerprint
    ]


def found_beside(plan: Plan, own: Container[tuple[str, int]]) -> dict[tuple[str, int], RunResult]:
    """What ``own`` lacks and plans in the same folder that share its runs have recorded."""
    missing = {mark: key for key, mark in _wanted(plan).items() if key not in own}
    found = {}
    for path in sorted(set(plan.path.parent.glob(f"*{plan.path.suffix}")) - {plan.path}):
        try:
            other = read_plan(path)
        except UserError:  # said where it is run
            continue
        for one in _read(results_file(other)) if other.runs_name == plan.runs_name else ():
            if not one.again and (key := missing.pop(one.fingerprint, None)):
                found[key] = dataclasses.replace(one, arm=key[0])
    return found


def _wanted(plan: Plan) -> dict[tuple[str, int], str]:
    return {(arm.name, seed): fingerprint(plan, arm, seed) for arm in plan.arms for seed in arm.seeds}


def _read(path: Path) -> Iterator[RunResult]:
    lines = path.read_text().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            yield RunResult(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: is no result of a run: {error}") from None


def append_result(plan: Plan, result: RunResult) -> None:
    """Adds a line; an interrupted write leaves the lines before it as they are, and so does another study
    that adds one at the same moment."""
    path = results_file(plan)
    with folder_locked(path.parent, wait=True):
        text = path.read_text() if path.is_file() else ""
        replace_text(path, text + json.dumps(dataclasses.asdict(result)) + "\n")


def check_metric(plan: Plan, result: RunResult) -> None:
    """Raises UserError where the plan names a metric that a run does not have."""
    if plan.metric and plan.metric not in result.metrics:
        raise UserError(
            f"{plan.path}: metric = {plan.metric}: {result.arm}, seed {result.seed} has "
            f"{', '.join(result.metrics)}"
        )


def commit() -> str:
    """The checkout's commit, with ``+`` where files differ from it; empty outside a checkout."""
    command = "git describe --always --exclude=* --abbrev=12 --dirty=+".split()
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # there is no git
        return ""
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute."""
    found = {"python": platform.python_version()}
    for name in ("fgfi_tf", "tensorflow", "tf_keras", "numpy", "scipy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, system and GPUs (where there are any), without a name that tells whose it is."""
    found = {"processor": _processor(), "cores": cores(), "system": platform.system()}
    return found | ({"gpus": gpus} if (gpus := _gpus()) else {})


def _gpus() -> list[str]:
    """Names of the GPUs by NVIDIA's own tool: TensorFlow would take their memory to tell."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
