"""Cases whose configurations need processes of their own: options of the step, devices and workers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark import workload
from benchmark.options import Options
from benchmark.timing import Table
from fgfi_tf.errors import UserError

SCRIPTS = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process trains, ``benchmark.step_process``; the trainer's flags of the same names."""

    model: str = "shuffledet_0.5x"
    size: tuple[int, int] = (384, 1248)
    batch: int = 2
    steps: int = 8
    threads: int = 0
    mixed_precision: str = "float32"
    jit_compile: bool = False
    steps_per_execution: int = 1
    gradient_accumulation: int = 1
    virtual_cpus: int = 0


FAST = {
    "none": {},
    "bfloat16": {"mixed_precision": "bfloat16"},
    "float16": {"mixed_precision": "float16"},
    "jit_compile": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 8},
    "gradient_accumulation": {"gradient_accumulation": 2},
}


def fast_step(options: Options) -> Iterator[Table]:
    """Options that change how a step is computed and not what, for the first of ``--models``."""
    names = options.fast.split(",")
    for name in names:
        if name not in FAST:
            raise UserError(f"--fast: unknown configuration {name!r}; known are {', '.join(FAST)}")
    jobs = {name: [dataclasses.replace(_job(options), **FAST[name])] for name in names}
    rows = _rows(_alternate(jobs, options), options.global_batch)
    title = f"{options.students[0]} with imitation, {options.size}, batch {options.global_batch}"
    note = (
        f"Each in {options.process_rounds} fresh processes, taking turns; steady steps only. "
        "steps_per_execution runs 8 steps a call. nan: not at a steady step after "
        f"{options.process_limit:.0f} s."
    )
    yield Table("fast_step", title, rows, note)


def scaling(options: Options) -> Iterator[Table]:
    """One device, two virtual CPUs, two workers on this machine, all at the same global batch."""
    job = _job(options)
    half = max(1, (options.threads or workload.cores()) // 2)
    jobs = {
        "1 device (1 worker)": [job],
        "2 virtual devices": [dataclasses.replace(job, virtual_cpus=2)],
        "2 workers": [job, job],
        "2 workers, half of the threads each": [dataclasses.replace(job, threads=half)] * 2,
    }
    rows = _rows(_alternate(jobs, options), options.global_batch)
    for row in rows:
        row["overhead"] = f"{overhead(rows[0]['images/s'], row['images/s']):+.1%}"
    title = f"{options.students[0]} with imitation, {options.size}, global batch {options.global_batch}"
    note = (
        "All share the same cores: the overhead is time more than one device's at the same global batch "
        f"(aim: below 10 %). {options.process_rounds} fresh processes each, taking turns; steady steps only."
    )
    yield Table("scaling", title, rows, note)


def overhead(one: float, several: float) -> float:
    """Time more than with one device, from images a second."""
    return one / several - 1.0


def _job(options: Options) -> Job:
    return Job(
        options.students[0], options.input_size, options.global_batch, options.process_steps, options.threads
    )


def _alternate(jobs: Mapping[str, Sequence[Job]], options: Options) -> dict[str, dict]:
    """By configuration ``seconds`` of every steady step and the ``loss``, of fresh processes taking turns.

    One that took longer than ``--process_limit`` gets no second turn and no figures.
    """
    found = {name: {"seconds": [], "loss": math.nan} for name in jobs}
    late = set()
    for _ in range(options.process_rounds):
        for name, group in jobs.items():
            if name in late:
                continue
            try:
                measured = run(group, options.process_limit)
            except subprocess.TimeoutExpired:
                late.add(name)
                continue
            found[name]["seconds"] += measured["seconds"]
            found[name]["loss"] = measured["loss"]
    return found


def run(group: Sequence[Job], limit: float) -> dict:
    """Starts a process for each job, workers of one cluster if several; what the first one printed.

    All are ended after ``limit`` seconds, with ``subprocess.TimeoutExpired``.

    Raises:
        RuntimeError: one of them failed.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmark.step_process", json.dumps(dataclasses.asdict(job))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for job, environment in zip(group, _environments(len(group)), strict=True)
    ]
    try:
        outputs = [process.communicate(timeout=limit) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"a benchmark process failed: {errors[-2000:]}")
    return json.loads(outputs[0][0].splitlines()[-1])


def _environments(count: int) -> list[dict[str, str]]:
    path = f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}"
    base = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    base.pop("TF_CONFIG", None)
    if count == 1:
        return [base]
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}} for i in range(count)]
    return [{**base, "TF_CONFIG": json.dumps(task)} for task in tasks]


def _rows(found: Mapping[str, Mapping], batch: int) -> list[dict]:
    """A row for each configuration; nan where it did not come to a figure."""
    medians = {name: statistics.median(measured["seconds"] or [math.nan]) for name, measured in found.items()}
    first = next(iter(medians.values()))
    rows = []
    for name, measured in found.items():
        median = medians[name]
        rows.append(
            {
                "": name,
                "median ms": 1e3 * median,
                "minimum ms": 1e3 * min(measured["seconds"] or [math.nan]),
                "steps": len(measured["seconds"]),
                "images/s": batch / median,
                "first / this": first / median,
                "mean loss of 8 steps": measured["loss"],
            }
        )
    return rows
