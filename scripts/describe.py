#!/usr/bin/env python3
"""Lists the layers of a model with output shapes, parameters and multiply-adds.

python scripts/describe.py shuffledet_0.5x
python scripts/describe.py runs/student
python scripts/describe.py exported/model_int8.tflite
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.deploy import describe_command
from fgfi_tf.training import flags


def _named(argv: Sequence[str]) -> list[str]:
    """Arguments with the flag's name before the model's, wherever it stands among them."""
    fields = dataclasses.fields(describe_command.DescribeConfig)
    switches = {
        f"--{no}{field.name}" for field in fields if field.default in (True, False) for no in ("", "no")
    }
    given = list(argv)
    for place, (before, word) in enumerate(itertools.pairwise(argv), 1):
        its_value = before.startswith("-") and "=" not in before and before not in switches
        if not word.startswith("-") and not its_value:
            given[place] = f"--model_path={word}"
            break  # another one is what flags refuse
    return given


def main(argv: Sequence[str]) -> None:
    """Parses the flags and prints."""
    config = flags.parse(_named(argv), describe_command.DescribeConfig)
    cli.start_tensorflow()
    print(describe_command.describe(config))


if __name__ == "__main__":
    cli.run(main)
