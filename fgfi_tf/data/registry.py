"""Every dataset by name. A new dataset is one entry here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fgfi_tf.data import kitti
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.errors import UserError

_OPENERS: dict[str, Callable[..., PreparedDataset]] = {"kitti": kitti.prepare}


def names() -> list[str]:
    """The names that :func:`open_split` knows."""
    return sorted(_OPENERS)


def open_split(name: str, data_dir: str | Path, split: str, prepared_dir: str | Path = "") -> PreparedDataset:
    """A split of a dataset, its TFRecords written where they are not there yet.

    Raises:
        UserError: for an unknown name, no ``data_dir``, or whatever is wrong with the data.
    """
    if name not in _OPENERS:
        raise UserError(f"unknown dataset {name!r}; known are {', '.join(names())}")
    if not data_dir:
        raise UserError(f"--data_dir is missing: the folder of the raw {name} data")
    return _OPENERS[name](data_dir, split, prepared_dir or None)
