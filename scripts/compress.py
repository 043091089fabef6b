#!/usr/bin/env python3
"""Prunes a distilled student, or makes it ready for int8, while it goes on imitating its teacher.

python scripts/compress.py --run=runs/student --method=quantize --output_dir=runs/student_int8
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.deploy.compress import command
from fgfi_tf.training import flags


def main(argv: Sequence[str]) -> None:
    """Parses the flags and trains."""
    config = flags.parse(argv, command.CompressConfig)
    command.check_flags(config)
    cli.start_tensorflow()
    print(command.compress(config))


if __name__ == "__main__":
    cli.run(main)
