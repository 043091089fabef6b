"""Case: the memory that an imitation step takes, each side in a process of its own."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark import resident, snapshots, torch_process, workload
from benchmark.options import Options, has_gpu, has_torch
from benchmark.timing import Table, wait_for_gpus

FASTER_RCNN = "faster_rcnn"
STEPS = 3
ON_A_GPU = "Memory of the GPU."
ON_THE_CPU = (
    "Each process holds its own framework alone: the second column is the step's own, with ours that of "
    "tracing its graph too (some 100 MB at any size)."
)


def peak_memory(options: Options) -> Iterator[Table]:
    """Three imitation steps of every detector and batch size."""
    cases = [(name, options.size, batch) for name in options.students for batch in options.batches]
    cases += [(FASTER_RCNN, options.frcnn_size, batch) for batch in options.frcnn_batches]
    for name, size, batch in cases:
        measured = {"ours": _ours(options, name, batch)}
        if has_torch(options):
            measured |= _torch(options, name, batch)
        rows = [
            {"side": side, "peak MB": peak, "more than before the first step, MB": added}
            for side, (peak, added) in measured.items()
        ]
        note = ON_A_GPU if has_gpu() else ON_THE_CPU
        added = [row["more than before the first step, MB"] for row in rows]
        if len(rows) > 1:
            note += f" Ours / PyTorch's: {', '.join(f'{added[0] / other:.2f}' for other in added[1:])}."
        yield Table("peak_memory", f"{name}, {size}, batch {batch}", rows, note)


def _ours(options: Options, name: str, batch: int) -> tuple[float, float]:
    script = Path(__file__).resolve().parent.parent / "benchmark.py"
    command = [sys.executable, str(script), "--peak_of=ours", f"--models={name}", f"--batch={batch}"]
    for flag in ("size", "frcnn_size", "frcnn_width", "threads"):
        command.append(f"--{flag}={getattr(options, flag)}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    peak, added = done.stdout.split()[-2:]
    return float(peak), float(added)


def _torch(options: Options, name: str, batch: int) -> dict[str, tuple[float, float]]:
    """As one would write it, and as ours."""
    from benchmark import faster_rcnn

    if name == FASTER_RCNN:
        make, sources = snapshots.faster_rcnn_step, faster_rcnn.imitation_sources(options, batch)
    else:
        make, sources = snapshots.shuffledet_step, _shuffledet_sources(options, name, batch)
    found = {}
    for side, as_ours in (("PyTorch", False), ("PyTorch, as ours", True)):
        with torch_process.started(options) as torch:
            found[side] = make(torch, *sources, as_ours=as_ours).call("peak", STEPS)
    return found


def print_peak(options: Options) -> None:
    """Takes our steps; prints the most memory they held (of the GPU, where there is one), and how much more
    than was held before them."""
    make = _faster_rcnn_step if options.students[0] == FASTER_RCNN else _shuffledet_step
    step = make(options)
    gc.collect()
    if has_gpu():
        before, peak_since = _gpu_memory()
    else:
        before, peak_since = resident.resident(), resident.most_resident
    for _ in range(STEPS):
        step()
    wait_for_gpus()
    peak = peak_since()
    print(peak, peak - before)


def _gpu_memory() -> tuple[float, Callable[[], float]]:
    """MB that TensorFlow's tensors hold, and what gives the most they held since."""
    import tensorflow as tf

    tf.config.experimental.reset_memory_stats("GPU:0")
    info = tf.config.experimental.get_memory_info
    return info("GPU:0")["current"] / resident.MB, lambda: info("GPU:0")["peak"] / resident.MB


def _shuffledet_sources(options: Options, name: str, batch: int) -> tuple:
    size = options.input_size
    student, teacher = workload.seeded_pair(name, size)
    prepared = workload.prepared(student, workload.make_batch(batch, size))
    return student, teacher, workload.make_imitation(student, teacher), prepared


def _shuffledet_step(options: Options) -> Callable[[], float]:
    student, teacher, _, batch = _shuffledet_sources(options, options.students[0], options.batches[0])
    return workload.training_step(workload.make_distiller(student, teacher), batch)


def _faster_rcnn_step(options: Options) -> Callable[[], float]:
    from benchmark import faster_rcnn

    student, teacher, _, batch = faster_rcnn.imitation_sources(options, options.batches[0])
    return workload.training_step(faster_rcnn.make_distiller(student, teacher), batch)
