#!/usr/bin/env python3
"""Exports a trained detector, checked against its source: a SavedModel, or files for devices.

python scripts/export.py --checkpoint=runs/student --output_dir=exported
python scripts/export.py --checkpoint=runs/student --output_dir=device --format=tflite --quantize=none,int8
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.deploy import command
from fgfi_tf.training import early, flags


def main(argv: Sequence[str]) -> None:
    """Parses the flags and exports."""
    config = flags.parse(argv, command.ExportConfig)
    command.check_flags(config)
    early.check_checkpoint("checkpoint", config.checkpoint)
    cli.start_tensorflow()
    command.export(config)


if __name__ == "__main__":
    cli.run(main)
