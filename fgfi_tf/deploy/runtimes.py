"""What runs TFLite and ONNX files. Imports no TensorFlow where ai-edge-litert is installed."""

from __future__ import annotations

import importlib
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fgfi_tf.errors import UserError, first_line

SIGNATURE = "serving_default"


class Raw(NamedTuple):
    """``boxes`` float32 [B, N, 4] and ``scores`` float32 [B, N, C]; see ``geometry.suppression.RawHead``."""

    boxes: np.ndarray
    scores: np.ndarray


Runtime = Callable[[np.ndarray], Raw]  # of uint8 [B, H, W, 3]


def open_runtime(path: Path, threads: int = 0) -> Runtime:
    """What runs a file, with so many threads (0: as many as there are cores).

    Raises:
        UserError: the package that runs it is missing, or the file is damaged.
    """
    threads = threads or os.cpu_count() or 1
    return _onnx(path, threads) if path.suffix.lower() == ".onnx" else _tflite(path, threads)


def tflite_interpreter() -> type:
    """The interpreter's class: ai-edge-litert's, or TensorFlow's where that is absent."""
    try:
        return importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter


def _tflite(path: Path, threads: int) -> Runtime:
    try:
        with warnings.catch_warnings():
            # TensorFlow's own remark that its interpreter will move to another package.
            warnings.filterwarnings("ignore", message=r"(?s).*tf\.lite\.Interpreter is deprecated")
            interpreter = tflite_interpreter()(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
            run = interpreter.get_signature_runner(SIGNATURE)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a TFLite file that runs here: {first_line(error)}") from error

    def detect(images: np.ndarray) -> Raw:
        found = [run(images=image[None]) for image in images]
        return Raw(*(np.concatenate([one[name] for one in found]) for name in Raw._fields))

    return detect


def onnxruntime() -> Any:
    """The package. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError("ONNX files are run by onnxruntime: pip install -e '.[onnx]'") from error


def _onnx(path: Path, threads: int) -> Runtime:
    package = onnxruntime()
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = package.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of its own, not of one base
        raise UserError(f"{path} is not an ONNX file that runs here: {first_line(error)}") from error
    return lambda images: Raw(*session.run(list(Raw._fields), {"images": images}))


def latencies_ms(
    runs: Sequence[Callable[[], object]], count: int = 50, most_seconds: float = 10.0
) -> list[float]:
    """Median milliseconds of ``count`` calls of each, after two that do not count.

    They are called in turn, so that what else the machine does meets all of them alike. There are fewer
    calls where all together take longer than ``most_seconds`` for each of them.
    """
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
        run()
    while len(times[0]) < count and sum(map(sum, times)) < most_seconds * len(runs):
        for run, own in zip(runs, times, strict=True):
            begin = time.perf_counter()
            run()
            own.append(time.perf_counter() - begin)
    return [1e3 * statistics.median(own) for own in times]
