#!/usr/bin/env python3
"""Times the KITTI evaluation against the number of frames, beside a plain loop; prints Markdown.

    taskset -c 0 python scripts/benchmark/kitti_eval.py --output_dir=DIR
    ... --detections=DIR --labels=DIR --split=FILE       on real files instead of made-up ones

It uses one core in any case. The plain loop is the one that the tests compare with, from this checkout.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf import cli
from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import NO_ALPHA, Boxes
from fgfi_tf.evaluation.kitti import ap as kitti
from fgfi_tf.evaluation.kitti import files as kitti_files
from fgfi_tf.evaluation.kitti.files import TYPE_NAMES
from fgfi_tf.evaluation.kitti.result import CLASS_NAMES, DIFFICULTIES, VARIANTS
from fgfi_tf.evaluation.results import write_kitti
from fgfi_tf.options import at_least, not_negative, options_in
from fgfi_tf.training import flags
from fgfi_tf.training.parsing import parse_numbers

_REPOSITORY = Path(__file__).resolve().parent.parent.parent


_option = options_in("Benchmark")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags."""

    frames: str = _option("500,1000,2000,3769", "Numbers of frames to evaluate.")
    repeats: int = _option(5, "Timed runs of each; the median counts.", check=at_least(1))
    loop_frames: int = _option(
        1000, "Run the plain loop up to this many frames (it takes minutes beyond).", check=not_negative
    )
    protocol: str = _option("official", "official or reference.", VARIANTS)
    detections: str = _option("", "Folder of result files (empty: made-up ones).")
    labels: str = _option("", "Folder of label files (empty: made-up ones).")
    split: str = _option("", "Frames of these folders (empty: all label files).")
    output_dir: str = _option("", "Also write kitti_eval.md and kitti_eval.json here.")
    peak_of: int = _option(
        0, "Evaluate this many frames once and print the peak memory in MB.", check=not_negative
    )


def make_files(folder: Path, n_frames: int, seed: int = 0) -> tuple[str, ...]:
    """Label and result files with about KITTI's numbers of objects and detections; the frame ids."""
    rng = np.random.default_rng(seed)
    (folder / "labels").mkdir(parents=True)
    frames = tuple(f"{index:06d}" for index in range(n_frames))
    detections = {}
    for frame in frames:
        count = rng.poisson(6)
        types = rng.choice([0, 0, 0, 0, 1, 2, 3, 4, 8], count)
        height = rng.uniform(18, 160, count)
        corner = np.stack([rng.uniform(0, 1100, count), rng.uniform(130, 200, count)], axis=1)
        width = height * np.where(np.isin(types, (0, 3, 8)), 1.6, 0.5)
        boxes = np.concatenate([corner, corner + np.stack([width, height], axis=1)], axis=1).round(2)
        occlusion = rng.choice([0, 0, 1, 2], count)
        lines = [
            f"{TYPE_NAMES[t]} 0.00 {o} -10 {' '.join(map(str, b))} -1 -1 -1 -1000 -1000 -1000 -10\n"
            for t, o, b in zip(types, occlusion, boxes, strict=True)
        ]
        (folder / "labels" / f"{frame}.txt").write_text("".join(lines))
        seen = np.flatnonzero((types < len(CLASS_NAMES)) & (rng.random(count) < 0.9))
        seen = np.repeat(seen, 2)  # half of the detections miss their object by more
        moved = boxes[seen] + rng.normal(0, 0.06, (len(seen), 4)) * height[seen, None]
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
        detections[frame] = {"boxes": moved.round(2), "scores": rng.random(len(seen)), "classes": types[seen]}
    (folder / "detections").mkdir()
    for name, text in write_kitti(Boxes.of_detections(detections, CLASS_NAMES)).items():
        (folder / "detections" / name).write_text(text)
    return frames


def _medians(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds on the clock, and of the processor (what remains on a machine that others use too)."""
    clock, processor = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        call()
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return statistics.median(clock), statistics.median(processor)


def _plain_loop(detections: Boxes, labels: Boxes, protocol: str) -> dict[str, dict[str, float]]:
    sys.path.insert(0, str(_REPOSITORY / "tests" / "evaluation"))
    try:
        import literal_kitti
    except ImportError as error:
        raise UserError(f"the plain loop is part of the tests, which this checkout lacks: {error}") from None
    scene: list[tuple[list, list]] = [([], []) for _ in labels.image_ids]
    for row in range(len(labels)):
        truth = {key: labels.columns[key][row] for key in ("occlusion", "truncation", "alpha")}
        truth |= {"type": TYPE_NAMES[labels.classes[row]], "box": labels.boxes[row].tolist()}
        scene[labels.image[row]][0].append(truth)
    for row in range(len(detections)):
        found = {"type": TYPE_NAMES[detections.classes[row]], "box": detections.boxes[row].tolist()}
        found |= {
            "score": float(detections.scores[row]),
            "alpha": float(detections.column("alpha", NO_ALPHA)[row]),
        }
        scene[detections.image[row]][1].append(found)
    return {
        name: {
            d: literal_kitti.evaluate(scene, name, d, protocol == "official")["AP40"] for d in DIFFICULTIES
        }
        for name in CLASS_NAMES
    }


def _measure(options: Options, frames: Sequence[str]) -> dict[str, float | int | None]:
    def read() -> tuple[Boxes, Boxes]:
        labels = kitti_files.read_labels(options.labels, frames)
        return kitti_files.read_detections(options.detections, frames), labels

    def from_text() -> kitti.Evaluation:
        return kitti.evaluate(*read(), options.protocol)

    evaluation = from_text()
    arrays = read()
    text, text_cpu = _medians(from_text, options.repeats)
    array, array_cpu = _medians(lambda: kitti.evaluate(*arrays, options.protocol), options.repeats)
    measured: dict[str, float | int | None] = {
        "frames": len(frames),
        "detections": len(arrays[0]),
        "text_seconds": text,
        "text_cpu_seconds": text_cpu,
        "array_seconds": array,
        "array_cpu_seconds": array_cpu,
        "loop_seconds": None,
        "peak_mb": _peak(options, len(frames)),
    }
    if len(frames) <= options.loop_frames:
        start = time.perf_counter()
        loop = _plain_loop(*arrays, options.protocol)
        measured["loop_seconds"] = time.perf_counter() - start
        for class_name, difficulty, result in evaluation:
            if abs(result.ap40 - loop[class_name][difficulty]) > 1e-12:
                raise UserError(f"{class_name} {difficulty}: the plain loop finds another AP")
    return measured


def _peak(options: Options, n_frames: int) -> float:
    """Peak memory in MB of a fresh process that reads and evaluates."""
    given = [f"--{name}={getattr(options, name)}" for name in ("detections", "labels", "split", "protocol")]
    command = [sys.executable, __file__, *given, f"--peak_of={n_frames}"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _print_peak(options: Options, frames: Sequence[str]) -> None:
    import resource

    labels = kitti_files.read_labels(options.labels, frames)
    kitti.evaluate(kitti_files.read_detections(options.detections, frames), labels, options.protocol)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def to_markdown(rows: Sequence[dict], protocol: str) -> str:
    """The measured rows as a table."""
    lines = [
        f"KITTI evaluation, nine APs, {protocol} protocol; Python {platform.python_version()}, "
        f"numpy {np.__version__}; medians, one core; seconds on the clock (of the processor).",
        "",
        "| frames | detections | from text | from arrays | CPU us/frame | plain loop | ratio | peak MB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        loop, array = row["loop_seconds"], row["array_seconds"]
        cells = [f"{row['frames']}", f"{row['detections']}"]
        cells += [
            f"{row[f'{name}_seconds']:.3f} ({row[f'{name}_cpu_seconds']:.3f})" for name in ("text", "array")
        ]
        cells.append(f"{1e6 * row['text_cpu_seconds'] / row['frames']:.0f}")
        cells += ["", ""] if loop is None else [f"{loop:.1f}", f"{loop / array:.0f}"]
        lines.append("| " + " | ".join([*cells, f"{row['peak_mb']:.0f}"]) + " |")
    return "\n".join(lines)


def _run(options: Options, frames: Sequence[str]) -> None:
    if options.peak_of:
        return _print_peak(options, frames[: options.peak_of])
    counts = parse_numbers("frames", options.frames, int)
    rows = [_measure(options, frames[:count]) for count in sorted({min(c, len(frames)) for c in counts})]
    text = to_markdown(rows, options.protocol)
    print(text)
    if options.output_dir:
        folder = Path(options.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kitti_eval.md").write_text(text + "\n")
        (folder / "kitti_eval.json").write_text(json.dumps(rows, indent=1) + "\n")


def main(argv: Sequence[str]) -> None:
    """Parses the flags, makes files where none are given, measures."""
    options = flags.parse(argv, Options)
    if bool(options.detections) != bool(options.labels):
        raise UserError("give both --detections and --labels, or neither")
    if options.labels:
        split, labels = options.split, options.labels
        return _run(options, tuple(text_files.read_ids(split)) if split else kitti_files.list_frames(labels))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = make_files(folder, max(parse_numbers("frames", options.frames, int)))
        made = dataclasses.replace(
            options, detections=str(folder / "detections"), labels=str(folder / "labels")
        )
        return _run(made, frames)


if __name__ == "__main__":
    cli.run(main)
