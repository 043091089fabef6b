"""Trains the tiny detector once undisturbed, and once killed at random moments, again and again.

usage: crash_loop_program.py KITTI_FOLDER OUTPUT_FOLDER KILLS

Each attempt is a fork of this process, which has imported TensorFlow but started none of its
devices: an attempt then takes a few seconds instead of twenty.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import tiny_detector

from fgfi_tf.training import run
from fgfi_tf.training.config import ExperimentConfig

STEPS = 3000


def attempt(config: ExperimentConfig, seconds: float | None) -> tuple[bool, float]:
    """Trains in a child that is killed after ``seconds``; (whether it came to its end, seconds taken)."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if run.train(config).finished else 2
        finally:
            os._exit(code)
    while seconds is None or time.monotonic() - started < seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"an attempt failed with status {status}")
            return True, time.monotonic() - started
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False, time.monotonic() - started


def main(kitti: str, output: Path, kills: int) -> None:
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
    flags |= {"drift": "10x6", "summary_every": 50, "picture_every": 0, "checkpoint_every": 10}
    _, start = attempt(ExperimentConfig(output_dir=str(output / "started"), steps=1, **flags), None)
    _, start = attempt(ExperimentConfig(output_dir=str(output / "again"), steps=1, **flags), None)
    attempt(ExperimentConfig(output_dir=str(output / "whole"), steps=STEPS, **flags), None)
    config, killed = ExperimentConfig(output_dir=str(output / "killed"), steps=STEPS, **flags), 0
    for _ in range(kills):
        # From the tracing of the graph to a second of training, saving included.
        ended, _ = attempt(config, draw.uniform(0.7 * start, start + 1.0))
        killed += not ended
    attempt(config, None)
    print(f"killed {killed} times")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
