#!/usr/bin/env python3
"""Looks through a data set before anything is trained on it: counts, sizes, duplicates, broken files, a page.

python scripts/inspect_data.py photos --output_dir=inspection
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.training import flags, inspect_command


def main(argv: Sequence[str]) -> int:
    """Parses the flags and inspects; exit code 1 where something would stop a training."""
    argv = list(argv)
    if len(argv) > 1 and not argv[1].startswith("-"):
        argv[1] = f"--data_dir={argv[1]}"
    config = flags.parse(argv, inspect_command.InspectConfig)
    cli.start_tensorflow()
    return inspect_command.run(config)


if __name__ == "__main__":
    cli.run(main)
