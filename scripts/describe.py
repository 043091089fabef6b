#!/usr/bin/env python3
"""Lists the layers of a model with output shapes, parameters and multiply-adds.

python scripts/describe.py shuffledet_0.5x
python scripts/describe.py runs/student
python scripts/describe.py exported/model_int8.tflite
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.deploy import describe_command
from fgfi_tf.training import flags


def main(argv: Sequence[str]) -> None:
    """Parses the flags and prints."""
    given = list(argv)
    if len(given) > 1 and not given[1].startswith("-"):
        given[1] = f"--model_path={given[1]}"
    config = flags.parse(given, describe_command.DescribeConfig)
    cli.start_tensorflow()
    print(describe_command.describe(config))


if __name__ == "__main__":
    cli.run(main)
