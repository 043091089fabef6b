#!/usr/bin/env python3
"""Evaluates a detector: the AP table, result files, a JSON file, a report. ``--help`` explains the flags.

A trained model, or a run while it trains:

    python scripts/evaluate.py --checkpoint=RUN --data_dir=KITTI [--watch]

Several models side by side:

    python scripts/evaluate.py --compare=teacher=RUN,student=RUN --data_dir=KITTI --report_dir=report

Any detector's result files against label files, without a model and without TensorFlow:

    python scripts/evaluate.py --detections=DIR --labels=DIR --split=FILE --output_json=ap.json
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.training import evaluate_command, flags


def main(argv: Sequence[str]) -> None:
    """Parses the flags and evaluates."""
    config = flags.parse(argv, evaluate_command.EvaluateConfig)
    if config.checkpoint or config.data_dir:
        cli.start_tensorflow()
    evaluate_command.evaluate(config)


if __name__ == "__main__":
    cli.run(main)
