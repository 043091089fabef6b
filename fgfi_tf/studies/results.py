"""The results of a study's runs, one JSON line each, beside the plan; written by the tool alone."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from fgfi_tf.errors import UserError
from fgfi_tf.paths import replace_text
from fgfi_tf.studies.plan import Plan, fingerprint


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


def results_file(plan: Plan) -> Path:
    """``NAME.jsonl`` beside ``NAME.cfg``."""
    return plan.path.with_suffix(".jsonl")


def read_results(plan: Plan) -> dict[tuple[str, int], RunResult]:
    """(arm, seed) -> the run's result, of the runs that the plan has with the flags that it has now.

    Raises UserError for a line that the tool did not write.
    """
    path = results_file(plan)
    if not path.is_file():
        return {}
    wanted = {(arm.name, seed): fingerprint(plan, arm, seed) for arm in plan.arms for seed in arm.seeds}
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            result = RunResult(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: is no result of a run: {error}") from None
        if wanted.get((result.arm, result.seed)) == result.fingerprint:
            found[result.arm, result.seed] = result
    return found


def append_result(plan: Plan, result: RunResult) -> None:
    """Adds a line; an interrupted write leaves the lines before it as they are."""
    path = results_file(plan)
    text = path.read_text() if path.is_file() else ""
    replace_text(path, text + json.dumps(dataclasses.asdict(result)) + "\n")


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
    found = {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.system()}
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
