"""Timing side by side: every contender runs once in each round, A B A B, so that noise meets all alike."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


@dataclasses.dataclass
class Measurement:
    """The times of one contender, in seconds, in the order of the rounds.

    Attributes:
        name: of the contender.
        seconds: on the clock, one for each round.
        cpu_seconds: of the processor, all threads of the contender's process: what remains where other
            programs use the machine. It counts threads that wait in a loop, as OpenMP's do.
        units: what one call does (images, frames), for a rate.
    """

    name: str
    seconds: list[float]
    cpu_seconds: list[float]
    units: float = 1.0

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(longest - shortest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    @property
    def rate(self) -> float:
        """Units a second, by the median."""
        return self.units / self.median


@dataclasses.dataclass
class Fresh:
    """A contender with threads of its own: made before its turn, which is timed, and gone after it.

    Attributes:
        make: does what is not timed (start, first batches) and returns what is.
    """

    make: Callable[[], Callable[[], object]]


@dataclasses.dataclass
class Elsewhere:
    """A contender in another process, which takes the time itself.

    Attributes:
        call: gives what it computes.
        timed: computes it; gives the loss (None if it is none), seconds on the clock and of the processor.
    """

    call: Callable[[], object]
    timed: Callable[[], tuple[float | None, float, float]]

    def __call__(self) -> object:
        """What it computes."""
        return self.call()


LEAST_ROUNDS = 3


def wait_for_gpus() -> None:
    """Returns when they have done all that TensorFlow gave them: nothing runs into the next turn."""
    if "tensorflow" in sys.modules and (tf := sys.modules["tensorflow"]).config.list_logical_devices("GPU"):
        tf.test.experimental.sync_devices()


def alternate(
    contenders: Mapping[str, Callable[[], object] | Fresh | Elsewhere],
    repeats: int,
    *,
    warmup: int = 2,
    units: float | Mapping[str, float] = 1.0,
    budget: float = 0.0,
) -> list[Measurement]:
    """Times each contender ``repeats`` times, taking turns, after ``warmup`` untimed rounds.

    A contender has to return only when its work is done (``.numpy()`` what it computes); what it left
    GPUs to do is waited for. Where it returns a float, that is a loss, which has to be finite.

    Args:
        contenders: by name; the first is what the others are compared with.
        repeats: timed rounds.
        warmup: rounds before them: tracing, compiling, first use of memory.
        units: what a call does, for all or by name.
        budget: seconds after which no new round starts, once there are ``LEAST_ROUNDS``; 0: no limit.
    """
    of = (lambda name: units[name]) if isinstance(units, Mapping) else (lambda _: units)
    measurements = [Measurement(name, [], [], of(name)) for name in contenders]
    begin = time.perf_counter()
    for round_index in range(warmup + repeats):
        if budget and round_index >= warmup + LEAST_ROUNDS and time.perf_counter() - begin > budget:
            break
        for measurement, contender in zip(measurements, contenders.values(), strict=True):
            fresh = isinstance(contender, Fresh)
            call = contender.make() if fresh else contender
            value, seconds, cpu_seconds = call.timed() if isinstance(call, Elsewhere) else _timed(call)
            if round_index >= warmup:
                measurement.seconds.append(seconds)
                measurement.cpu_seconds.append(cpu_seconds)
            del call
            if isinstance(value, float) and not math.isfinite(value):
                raise FloatingPointError(f"{measurement.name}: the loss is {value}: such steps say nothing")
            if fresh:
                gc.collect()  # its threads end here and not in the next contender's turn
    return measurements


def _timed(call: Callable[[], object]) -> tuple[object, float, float]:
    start, cpu_start = time.perf_counter(), time.process_time()
    value = call()
    wait_for_gpus()
    return value, time.perf_counter() - start, time.process_time() - cpu_start


@dataclasses.dataclass
class Result:
    """One row group of the report: contenders that did the same work side by side.

    Attributes:
        case: the case's name.
        title: what was measured, with sizes.
        measurements: the first is what the others are compared with.
        note: what else a reader has to know (a ratio's aim, bytes, shares).
    """

    case: str
    title: str
    measurements: list[Measurement]
    note: str = ""

    def __getitem__(self, name: str) -> Measurement:
        """The contender of that name."""
        return next(m for m in self.measurements if m.name == name)

    def ratio(self, measurement: Measurement) -> float:
        """The first contender's median over this one's: below 1, the first is faster."""
        return self.measurements[0].median / measurement.median

    def cpu_ratio(self, measurement: Measurement) -> float:
        """The same of the processor's time."""
        return statistics.median(self.measurements[0].cpu_seconds) / statistics.median(
            measurement.cpu_seconds
        )

    def to_markdown(self) -> str:
        """A heading and a table."""
        lines = [f"### {self.case}: {self.title}", ""]
        lines += ["| | median ms | minimum ms | spread | CPU ms | first / this | CPU: first / this | /s |"]
        lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
        lines[0] += f" ({len(self.measurements[0].seconds)} rounds)"
        for m in self.measurements:
            cells = [m.name, f"{1e3 * m.median:.2f}", f"{1e3 * min(m.seconds):.2f}", f"{m.spread:.0%}"]
            cells += [f"{1e3 * statistics.median(m.cpu_seconds):.2f}", f"{self.ratio(m):.2f}"]
            cells += [f"{self.cpu_ratio(m):.2f}", f"{m.rate:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def to_json(self) -> dict:
        """Plain numbers, all times in seconds."""
        rows = [
            {
                "name": m.name,
                "median": m.median,
                "minimum": min(m.seconds),
                "spread": m.spread,
                "cpu_median": statistics.median(m.cpu_seconds),
                "rate": m.rate,
                "ratio": self.ratio(m),
                "cpu_ratio": self.cpu_ratio(m),
                "seconds": m.seconds,
            }
            for m in self.measurements
        ]
        return {"case": self.case, "title": self.title, "note": self.note, "contenders": rows}


@dataclasses.dataclass
class Table:
    """Figures that are no alternation within one process: of processes side by side.

    Attributes:
        case, title, note: as in :class:`Result`.
        rows: of equal keys, which are the columns; numbers or text.
    """

    case: str
    title: str
    rows: Sequence[Mapping[str, object]]
    note: str = ""

    def to_markdown(self) -> str:
        """A heading and a table."""
        columns = list(self.rows[0])
        lines = [f"### {self.case}: {self.title}", "", "| " + " | ".join(columns) + " |"]
        lines += ["|---" + "|---:" * (len(columns) - 1) + "|"]
        for row in self.rows:
            cells = [f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def to_json(self) -> dict:
        """As it is."""
        return dataclasses.asdict(self)


def cpu_model() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(torch: str) -> dict[str, str]:
    """What the figures depend on: processor, devices, versions, threads; ``torch`` are PyTorch's."""
    import tensorflow as tf
    import tf_keras

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "CPU": f"{cpu_model()}, {cores} cores",
        "GPU": ", ".join(_gpu_name(gpu) for gpu in tf.config.list_physical_devices("GPU")) or "none",
        "Python": platform.python_version(),
        "TensorFlow": f"{tf.__version__}, tf_keras {tf_keras.__version__}",
        "TensorFlow threads": f"intra-op {tf.config.threading.get_intra_op_parallelism_threads() or cores}, "
        f"inter-op {tf.config.threading.get_inter_op_parallelism_threads() or cores}, tf.data {cores}",
        "PyTorch": torch,
    }


def _gpu_name(gpu) -> str:
    import tensorflow as tf

    return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
