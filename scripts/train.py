#!/usr/bin/env python3
"""Trains a detector, on its own or imitating a teacher. ``--help`` explains every flag.

python scripts/train.py --flagfile=configs/kitti/shuffledet_0.5x.cfg --data_dir=kitti --output_dir=runs/a
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.training import early, flags

# Of this process, handed on: the time of the newest checkpoint, and how many starts there were since then.
_RESTARTS = "FGFI_RESTARTS"
_MOST_RESTARTS = 20


def main(argv: Sequence[str]) -> int:
    """Parses the flags and trains; the same command again goes on where it stopped."""
    config = flags.parse(argv)  # before TensorFlow starts: a wrong flag is told at once
    early.check_start(config)
    cli.start_tensorflow()
    from fgfi_tf.training import run

    try:
        result = run.train(config)
        run.report(result)
        return result.exit_code
    except run.WorkerLost as lost:
        # TensorFlow cannot leave a broken cluster; a fresh process waits for the worker to be back.
        _count_restart(Path(config.output_dir), lost)
        print(f"{lost}; starting again from the last checkpoint", file=sys.stderr, flush=True)
        # The last flag wins: however --overwrite was given, this run's own checkpoints are not meant.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "--nooverwrite"])


def _count_restart(folder: Path, lost: UserError) -> None:
    """Raises ``lost`` after many starts without a new checkpoint: an error of our own looks alike."""
    newest = 0
    for path in folder.glob(early.CHECKPOINTS[1]):
        with contextlib.suppress(FileNotFoundError):  # an older one, which is deleted meanwhile
            newest = max(newest, path.stat().st_mtime_ns)
    before, _, count = os.environ.get(_RESTARTS, "").partition(" ")
    starts = int(count) + 1 if before == str(newest) else 1
    if starts > _MOST_RESTARTS:
        raise UserError(f"{lost}; started again {_MOST_RESTARTS} times without a new checkpoint, no more")
    os.environ[_RESTARTS] = f"{newest} {starts}"


if __name__ == "__main__":
    cli.run(main)
