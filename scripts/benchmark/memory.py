"""Case: the memory that a training step takes, each side in a process of its own."""

from __future__ import annotations

import dataclasses
import functools
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark import resident, torch_process, workload
from benchmark.options import Options, has_gpu, has_torch
from benchmark.timing import Table, wait_for_gpus
from fgfi_tf.errors import UserError
from fgfi_tf.training.parsing import parse_numbers

STEPS = 3
ON_A_GPU = "Memory of the GPU."
ON_THE_CPU = (
    "Each process holds its own framework alone: the second column is the step's own, with ours that of "
    "tracing its graph too (some 100 MB at any size)."
)
# PyTorch's side, as one would write it and as ours -> what makes its step.
THEIRS = {"PyTorch": {}, "PyTorch, as ours": {"as_ours": True}}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A family of detectors.

    Attributes:
        models: its students' names, or the flag that has them.
        size, batch: the flags of its input and of its batch sizes; a size without flag as it is.
        steps: options, name and batch size -> what makes a step of ours, and, by name, what makes one of
            PyTorch's in a started process.
        more: further flags that ours is to be told.
    """

    models: str
    size: str
    batch: str
    steps: Callable[[Options, str, int], tuple[Callable, dict[str, Callable]]]
    more: tuple[str, ...] = ()


def peak_memory(options: Options) -> Iterator[Table]:
    """Three steps of every detector and batch size: with imitation where PyTorch's side has it."""
    for name in options.memory_of.split(","):
        if name not in KINDS:
            raise UserError(f"--memory_of: unknown family {name!r}; known are {', '.join(KINDS)}")
        kind = KINDS[name]
        for model in getattr(options, kind.models, kind.models).split(","):
            for batch in parse_numbers(kind.batch, getattr(options, kind.batch), int):
                yield _table(options, name, model, batch)


def _table(options: Options, name: str, model: str, batch: int) -> Table:
    kind = KINDS[name]
    measured = {"ours": _ours(options, name, model, batch)}
    theirs = kind.steps(options, model, batch)[1] if has_torch(options) else {}
    for side, make in theirs.items():
        with torch_process.started(options) as torch:
            measured[side] = make(torch).call("peak", STEPS)
    rows = [
        {"side": side, "peak MB": peak, "more than before the first step, MB": added}
        for side, (peak, added) in measured.items()
    ]
    note = ON_A_GPU if has_gpu() else ON_THE_CPU
    added = [row["more than before the first step, MB"] for row in rows]
    if len(rows) > 1:
        note += f" Ours / PyTorch's: {', '.join(f'{added[0] / other:.2f}' for other in added[1:])}."
    size = getattr(options, kind.size, kind.size)
    return Table("peak_memory", f"{model}, {size}, batch {batch}", rows, note)


def _ours(options: Options, name: str, model: str, batch: int) -> tuple[float, float]:
    kind = KINDS[name]
    script = Path(__file__).resolve().parent.parent / "benchmark.py"
    given = {kind.batch: batch, **({kind.models: model} if hasattr(options, kind.models) else {})}
    for flag in ("threads", kind.size, *kind.more):
        if hasattr(options, flag):
            given[flag] = getattr(options, flag)
    command = [sys.executable, str(script), f"--peak_of={name}", *(f"--{k}={v}" for k, v in given.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    peak, added = done.stdout.split()[-2:]
    return float(peak), float(added)


def print_peak(options: Options) -> None:
    """Takes steps of ours; prints the most memory they held (of the GPU, where there is one), and how much
    more than was held before them."""
    kind = KINDS[options.peak_of]
    model = getattr(options, kind.models, kind.models)
    step = kind.steps(options, model, int(getattr(options, kind.batch)))[0]()
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


def _shuffledet(options: Options, model: str, batch_size: int) -> tuple[Callable, dict[str, Callable]]:
    from benchmark import snapshots

    size = options.input_size
    student, teacher = workload.seeded_pair(model, size)
    batch = workload.prepared(student, workload.make_batch(batch_size, size))
    layer = workload.make_imitation(student, teacher)
    return (
        lambda: workload.training_step(workload.make_distiller(student, teacher), batch),
        _ways(snapshots.shuffledet_step, student, teacher, layer, batch),
    )


def _faster_rcnn(options: Options, model: str, batch_size: int) -> tuple[Callable, dict[str, Callable]]:
    from benchmark import faster_rcnn, snapshots

    student, teacher, layer, batch = faster_rcnn.imitation_sources(options, batch_size)
    return (
        lambda: workload.training_step(faster_rcnn.make_distiller(student, teacher), batch),
        _ways(snapshots.faster_rcnn_step, student, teacher, layer, batch),
    )


def _yolov2(options: Options, model: str, batch_size: int) -> tuple[Callable, dict[str, Callable]]:
    from benchmark import yolov2

    ours, student, teacher, batch = yolov2.step_sources(options, model, batch_size, imitating=True)
    return (
        lambda: workload.training_step(ours, batch),
        _ways(yolov2.torch_step, ours, student, teacher, batch),
    )


def _torchvision(kind: str, options: Options, model: str, batch_size: int) -> tuple[Callable, dict]:
    from benchmark import torchvision_detectors as detectors

    student, batch = detectors.step_sources(options, kind, batch_size)
    theirs = {}
    if detectors.is_installed():
        theirs[detectors.THEIRS] = lambda torch: detectors.torchvision_side(torch, kind, student, batch)
    return lambda: workload.training_step(workload.make_distiller(student, None), batch), theirs


def _ways(make: Callable, *sources) -> dict[str, Callable]:
    return {side: lambda torch, how=how: make(torch, *sources, **how) for side, how in THEIRS.items()}


KINDS = {
    "shuffledet": _Kind("models", "size", "batch", _shuffledet),
    "faster_rcnn": _Kind("faster_rcnn", "frcnn_size", "frcnn_batch", _faster_rcnn, ("frcnn_width",)),
    "yolov2": _Kind("yolo_models", "yolo_size", "yolo_batch", _yolov2, ("yolo_width",)),
    "ssd": _Kind("ssd300_vgg16", "300x300", "ssd_batch", functools.partial(_torchvision, "ssd")),
    "fpn": _Kind("faster_rcnn_resnet50_fpn", "fpn_size", "fpn_batch", functools.partial(_torchvision, "fpn")),
}
