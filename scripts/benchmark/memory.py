"""Case: the memory that an imitation step takes, each side in a process of its own."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark import workload
from benchmark.options import Options, has_gpu, has_torch
from benchmark.timing import Table, wait_for_gpus

FASTER_RCNN = "faster_rcnn"
STEPS = 3
MB = 1 << 20
ON_A_GPU = "Memory of the GPU."
ON_THE_CPU = (
    "Both processes hold TensorFlow, from whose networks PyTorch's weights are copied: the second column is "
    "the step's own, with ours that of tracing its graph too (some 100 MB at any size)."
)


def peak_memory(options: Options) -> Iterator[Table]:
    """Three imitation steps of every detector and batch size."""
    cases = [(name, options.size, batch) for name in options.students for batch in options.batches]
    cases += [(FASTER_RCNN, options.frcnn_size, batch) for batch in options.frcnn_batches]
    for name, size, batch in cases:
        rows = []
        for side in ("ours", "torch") if has_torch(options) else ("ours",):
            peak, added = _measure(options, side, name, batch)
            rows.append({"side": side, "peak MB": peak, "more than before the first step, MB": added})
        note = ON_A_GPU if has_gpu() else ON_THE_CPU
        if len(rows) == 2:
            ratio = rows[0]["more than before the first step, MB"]
            ratio /= rows[1]["more than before the first step, MB"]
            note += f" Ours / PyTorch's: {ratio:.2f}."
        yield Table("peak_memory", f"{name}, {size}, batch {batch}", rows, note)


def _measure(options: Options, side: str, name: str, batch: int) -> tuple[float, float]:
    script = Path(__file__).resolve().parent.parent / "benchmark.py"
    command = [sys.executable, str(script), f"--peak_of={side}", f"--models={name}", f"--batch={batch}"]
    for flag in ("size", "frcnn_size", "frcnn_width", "threads"):
        command.append(f"--{flag}={getattr(options, flag)}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    peak, added = done.stdout.split()[-2:]
    return float(peak), float(added)


def print_peak(options: Options) -> None:
    """Takes the steps; prints the most memory they held (of the GPU, where there is one), and how much more
    than was held before them."""
    make = _faster_rcnn_step if options.students[0] == FASTER_RCNN else _shuffledet_step
    step = make(options)
    gc.collect()
    if has_gpu():
        before, peak_since = _gpu_memory(options.peak_of)
    else:
        before, peak_since = _resident(), _most_resident
    for _ in range(STEPS):
        step()
    wait_for_gpus()
    peak = peak_since()
    print(peak, peak - before)


def _gpu_memory(side: str) -> tuple[float, Callable[[], float]]:
    """MB that this side's tensors hold, and what gives the most they held since."""
    if side == "torch":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MB, lambda: torch.cuda.max_memory_allocated() / MB
    import tensorflow as tf

    tf.config.experimental.reset_memory_stats("GPU:0")
    info = tf.config.experimental.get_memory_info
    return info("GPU:0")["current"] / MB, lambda: info("GPU:0")["peak"] / MB


def _most_resident() -> float:
    """MB that this process ever held."""
    # Not ru_maxrss where there is another way: on Linux a process inherits its parent's.
    found = _status("VmHWM")
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, else KB
    return peak / (MB if sys.platform == "darwin" else 1 << 10)


def _resident() -> float:
    """MB that this process holds now; where that is not told, the peak up to now, which is near it."""
    found = _status("VmRSS")
    return _most_resident() if found is None else found


def _status(field: str) -> float | None:
    """MB of a field of Linux's /proc/self/status; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def _shuffledet_step(options: Options) -> Callable[[], float]:
    size = options.input_size
    student, teacher = workload.seeded_pair(options.students[0], size)
    batch = workload.prepared(student, workload.make_batch(options.batches[0], size))
    if options.peak_of == "torch":
        from benchmark import torch_shuffledet

        imitation = workload.make_imitation(student, teacher)
        return torch_shuffledet.TorchImitationStep(student, teacher, imitation, batch).step
    return workload.training_step(workload.make_distiller(student, teacher), batch)


def _faster_rcnn_step(options: Options) -> Callable[[], float]:
    from benchmark import faster_rcnn

    return faster_rcnn.imitation_step(options, options.batches[0], options.peak_of == "torch")
