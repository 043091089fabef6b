#!/usr/bin/env python3
"""Evaluates detections on KITTI: the AP table, a JSON file, a report. ``--help`` explains the flags.

Any detector's result files against label files, without a model and without TensorFlow:

    python scripts/evaluate.py --detections=DIR --labels=DIR --split=FILE --output_json=ap.json
"""

from __future__ import annotations

from collections.abc import Sequence

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import command
from fgfi_tf.training import flags


def main(argv: Sequence[str]) -> None:
    """Parses the flags and evaluates."""
    config = flags.parse(argv, command.FilesConfig)
    if not (config.detections or config.compare):
        raise UserError("nothing to evaluate: give --detections=DIR or --compare=name=DIR,... (see --help)")
    command.evaluate_files(config)


if __name__ == "__main__":
    cli.run(main)
