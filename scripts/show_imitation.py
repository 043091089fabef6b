#!/usr/bin/env python3
"""Draws what a student imitates on a picture: objects, masks, and its distance to the teacher.

python scripts/show_imitation.py --run=runs/student_imitating --output=imitation.png
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.training import flags, show_imitation


def main(argv: Sequence[str]) -> None:
    """Parses the flags and draws."""
    config = flags.parse(argv, show_imitation.ShowConfig)
    cli.start_tensorflow()
    print(show_imitation.show(config))


if __name__ == "__main__":
    cli.run(main)
