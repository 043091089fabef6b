"""Where checkpoints of this package lie: ``ckpt-<step>.{index,data-*}`` in a folder, or in a run's."""

from __future__ import annotations

import re
from pathlib import Path

import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.interop import weight_files

FOLDER = "checkpoints"
# What reading a truncated, overwritten or half-deleted checkpoint raises; its C++ reader reports a
# file that ends too soon as IndexError.
DAMAGE = (tf.errors.OpError, OSError, IndexError, RuntimeError, UnicodeDecodeError)


def list_checkpoints(folder: Path | str) -> list[Path]:
    """The prefixes ``ckpt-<step>`` in a folder, oldest first. The index is what TensorFlow writes last."""
    indices = [path for path in Path(folder).glob("ckpt-*.index") if re.fullmatch(r"ckpt-\d+", path.stem)]
    return sorted((path.with_suffix("") for path in indices), key=step_of)


def step_of(path: Path | str) -> int:
    """The step in a checkpoint's name, ``ckpt-<step>``; -1 where it has none."""
    match = re.search(r"-(\d+)$", str(path))
    return int(match.group(1)) if match else -1


def find_checkpoint(path: Path | str) -> Path:
    """A run folder, a folder of checkpoints, or a checkpoint prefix to the prefix of the newest.

    A weight file of another framework is given back as it is. Raises UserError where there is none.
    """
    path = Path(path)
    prefix = re.sub(r"\.data-\d+-of-\d+$", "", path.name)  # as a shell completes names
    if path.with_name(f"{prefix}.index").is_file():
        path = path.with_name(prefix)
    if weight_files.is_weight_file(path):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        return path
    if path.suffix == ".index":
        path = path.with_suffix("")
    if path.with_name(path.name + ".index").is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"no checkpoint at {path}: expected a run folder or a prefix like run/checkpoints/ckpt-500"
        )
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    found = list_checkpoints(folder)
    if not found:
        raise UserError(f"no checkpoint in {folder}: it holds no ckpt-*.index")
    return found[-1]
