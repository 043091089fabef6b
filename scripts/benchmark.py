#!/usr/bin/env python3
"""Measures speed and memory beside the alternatives, taking turns; prints Markdown.

    python scripts/benchmark.py                                   everything
    python scripts/benchmark.py --cases=imitation_step --batch=2  one case
    python scripts/benchmark.py --help                            every flag

PyTorch takes part where it is installed (``pip install -e '.[torch]'``), in a process of its own. "first /
this" is the first contender's median over this row's: below 1, the first is faster. Nothing is asserted about
times; that contenders compute the same is. A table gets no new round after --budget seconds, once it has
three; tracing and checking come on top. On two idle cores, with the flags given, about (in minutes):

    imitation_step --models=shuffledet_0.5x         4    plain_step --batch=2                      1
      ... --precision=bfloat16 --batch=2            3    inference --batch=1,8                     3
    imitation_loss --models=shuffledet_0.5x --batch=2                                              5
    frcnn_step --frcnn_batch=1 --repeats=3          2    frcnn_step --frcnn_batch=4 --repeats=3    4
    yolo_step --yolo_batch=1, yolo_inference        not measured on idle cores yet
    ssd_step, ssd_inference, fpn_step, fpn_inference, beside torchvision where it is installed   the same
    limits --models=shuffledet_0.5x --batch=2       1
    frcnn_inference                                 2    frcnn_parts --frcnn_batch=1               1
    peak_memory --memory_of=shuffledet,faster_rcnn --models=shuffledet_0.5x --batch=8 --frcnn_batch=4  3
    pipeline --batch=2                              4    kitti_eval, voc_eval                    0.2
    fast_step --process_rounds=1                    5    scaling --process_rounds=1                3
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmark.options import Options

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.registries import resolved
from fgfi_tf.training import flags

# Case -> where it is.
CASES = {
    "imitation_step": "steps:imitation_step",
    "plain_step": "steps:plain_step",
    "limits": "limits:limits",
    "inference": "inference:inference",
    "imitation_loss": "parts:imitation_loss",
    "group_conv": "parts:group_conv",
    "frcnn_step": "faster_rcnn:step_case",
    "frcnn_inference": "faster_rcnn:inference_case",
    "frcnn_parts": "faster_rcnn:parts_case",
    "yolo_step": "yolov2:step_case",
    "yolo_inference": "yolov2:inference_case",
    "ssd_step": "torchvision_detectors:ssd_step",
    "ssd_inference": "torchvision_detectors:ssd_inference",
    "fpn_step": "torchvision_detectors:fpn_step",
    "fpn_inference": "torchvision_detectors:fpn_inference",
    "peak_memory": "memory:peak_memory",
    "pipeline": "input_pipeline:pipeline_case",
    "fast_step": "processes:fast_step",
    "scaling": "processes:scaling",
    "kitti_eval": "evaluation:kitti_evaluation",
    "voc_eval": "evaluation:voc_evaluation",
}


def _prepare(threads: int) -> None:
    """TensorFlow gets the threads of --threads (0: its own choice), and of GPUs the memory that it needs."""
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def main(argv: Sequence[str]) -> None:
    """Parses the flags, runs the cases, prints and writes the results."""
    options = flags.parse(argv, Options)
    _prepare(options.threads)
    from benchmark import memory, timing, torch_process

    if options.peak_of:
        return memory.print_peak(options)
    names = list(CASES) if options.cases == "all" else options.cases.split(",")
    for name in names:
        if name not in CASES:
            raise UserError(f"--cases: unknown case {name!r}; known are {', '.join(CASES)}")
    with torch_process.started(options) as torch:
        environment = timing.environment(torch.request("about")[0] if torch else "takes no part")
    header = "\n".join(f"* {key}: {value}" for key, value in environment.items())
    print(f"{header}\n")
    texts, results = [header], []
    for name in names:
        for result in resolved(f"benchmark.{CASES[name]}")(options):
            text = result.to_markdown()
            results.append(result.to_json())
            texts.append(text)
            print(f"{text}\n", flush=True)
            if options.output_dir:
                _write(Path(options.output_dir), texts, {"environment": environment, "results": results})


def _write(folder: Path, texts: Sequence[str], results: dict) -> None:
    """After each result anew: what was measured is kept if a later case fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.md").write_text("\n\n".join(texts) + "\n")
    (folder / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
