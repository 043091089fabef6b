"""Trains the tiny detector once undisturbed, and once killed at random moments, again and again.

usage: crash_loop_program.py KITTI_FOLDER OUTPUT_FOLDER KILLS STEPS

Every other kill falls on an evaluation, or on what follows it: keeping the best, recording, saving.

Each attempt is a fork of this process, which has imported TensorFlow but started none of its
devices: an attempt then takes a few seconds instead of twenty.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import tiny_detector

from fgfi_tf.training import run
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.evaluator import CheckpointEvaluator

EVALUATE_EVERY = 20


def attempt(config: ExperimentConfig, seconds: float | None, evaluation: int = 0) -> tuple[bool, float]:
    """Trains in a child that is killed; (whether it came to its end before, seconds it took).

    Args:
        config: the experiment.
        seconds: the kill comes after so many seconds (None: never).
        evaluation: they count from the start of this evaluation of the attempt (0: of the child).
    """
    began = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _tell(writing)
            code = 0 if run.train(config).finished else 2
        finally:
            os._exit(code)
    os.close(writing)
    deadline = began + seconds if seconds is not None and not evaluation else None
    while deadline is None or time.monotonic() < deadline:
        if select.select([reading], [], [], 0.01)[0] and os.read(reading, 1):
            evaluation -= 1
            if evaluation == 0 and seconds is not None:
                deadline = time.monotonic() + seconds
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"an attempt failed with status {status}")
            os.close(reading)
            return True, time.monotonic() - began
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    return False, time.monotonic() - began


def _tell(pipe: int) -> None:
    """Writes a byte at the start of every evaluation."""
    original = CheckpointEvaluator.__call__

    def evaluate(self, path):
        os.write(pipe, b".")
        return original(self, path)

    CheckpointEvaluator.__call__ = evaluate


def main(kitti: str, output: Path, kills: int, steps: int) -> None:
    """Runs both; every attempt that comes to its end before it is killed is started again."""
    tiny_detector.register()
    draw = random.Random(0)
    flags = {
        "model": "tiny",
        "input_size": "64x96",
        "data_dir": kitti,
        "batch_size": 4,
        "learning_rate": 0.02,
    }
    flags |= {"options": {"drift": "10x6"}, "summary_every": 50, "picture_every": 0, "checkpoint_every": 10}
    _, _ = attempt(ExperimentConfig(output_dir=str(output / "started"), steps=1, **flags), None)
    _, start = attempt(ExperimentConfig(output_dir=str(output / "again"), steps=1, **flags), None)
    flags |= {"steps": steps, "evaluate_every": EVALUATE_EVERY}
    attempt(ExperimentConfig(output_dir=str(output / "whole"), **flags), None)
    config, killed = ExperimentConfig(output_dir=str(output / "killed"), **flags), 0
    for i in range(kills):
        if i % 2:
            # From its first batch to the checkpoints after it; the first of an attempt also traces the graph.
            ended, _ = attempt(config, draw.choice((1.0, 0.05)) * draw.random(), draw.randint(1, 3))
        else:
            # From the tracing of the graph to a second of training, saving included.
            ended, _ = attempt(config, draw.uniform(0.7 * start, start + 1.0))
        killed += not ended
    attempt(config, None)
    print(f"killed {killed} times")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
