#!/usr/bin/env python3
"""Exports a trained detector as a SavedModel: uint8 images in, boxes in their pixels out.

python scripts/export.py --checkpoint=runs/student --output_dir=exported
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.options import option
from fgfi_tf.training import early, flags
from fgfi_tf.training.config import extensions_option
from fgfi_tf.training.parsing import parse_size


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Options of an export."""

    checkpoint: str = option("", "Export", "Run folder or checkpoint to export.")
    output_dir: str = option("", "Export", "Folder to write the SavedModel to.")
    extensions: str = extensions_option("Export")
    model: str = option("", "Export", "Detector; needed for TF1 checkpoints and .pth files only.")
    input_size: str = option("", "Export", "Size of the network input (empty: as trained).")
    overwrite: bool = option(False, "Export", "Replace the SavedModel that the folder holds.")


def main(argv: Sequence[str]) -> None:
    """Parses the flags and exports."""
    config = flags.parse(argv, ExportConfig)
    for name in ("checkpoint", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"--{name} is missing")
    early.check_checkpoint("checkpoint", config.checkpoint)
    cli.start_tensorflow()
    from fgfi_tf import export
    from fgfi_tf.models import loading

    size = parse_size("input_size", config.input_size) if config.input_size else None
    detector = loading.load_detector(config.checkpoint, model=config.model, input_size=size)
    folder = export.export(detector, config.output_dir, overwrite=config.overwrite)
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"SavedModel: {folder} ({total / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli.run(main)
