#!/usr/bin/env python3
"""Draws street scenes with labels in the raw KITTI layout: something to train on without any data.

python scripts/make_toy_kitti.py --output_dir=toy --train=300 --val=100
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.options import not_negative, option
from fgfi_tf.training import flags
from fgfi_tf.training.parsing import parse_size


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """Options of the drawn data set."""

    output_dir: str = option("", "Drawn data", "Folder to write training/ and ImageSets/ to.")
    train: int = option(300, "Drawn data", "Training images.", check=not_negative)
    val: int = option(100, "Drawn data", "Validation images.", check=not_negative)
    image_size: str = option("192x624", "Drawn data", "Height x width of the images, pixels.")
    seed: int = option(0, "Drawn data", "The same seed gives the same bytes.", check=not_negative)


def main(argv: Sequence[str]) -> None:
    """Parses the flags and draws."""
    config = flags.parse(argv, ToyConfig)
    if not config.output_dir:
        raise UserError("--output_dir is missing")
    if (Path(config.output_dir) / "training").exists():
        raise UserError(f"{config.output_dir} already holds a data set; choose another --output_dir")
    from fgfi_tf.toy import street

    size = parse_size("image_size", config.image_size)
    street.write(config.output_dir, config.train, config.val, seed=config.seed, image_size=size)
    print(f"{config.train} training and {config.val} validation scenes in {config.output_dir}")


if __name__ == "__main__":
    cli.run(main)
