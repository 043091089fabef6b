"""Every dataset by name. A new dataset is one entry here.

An entry names its builder's module, so that the names are known without TensorFlow, which takes seconds to
import.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fgfi_tf.data import kitti_raw, voc_raw
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.errors import UserError

if TYPE_CHECKING:
    from fgfi_tf.data.records import PreparedDataset


@dataclasses.dataclass(frozen=True)
class Entry:
    """A dataset.

    Attributes:
        module: whose ``prepare(data_dir, split, prepared_dir, max_megapixels=...)`` opens a split, its
            TFRecords written where needed.
        protocol: the name of its evaluation in ``fgfi_tf.evaluation.registry``.
        image_folder: (data_dir, split) to the folder of the image files, None where there is no such.
    """

    module: str
    protocol: str
    image_folder: Callable[[str | Path, str], Path | None]


_ENTRIES: dict[str, Entry] = {
    "kitti": Entry("fgfi_tf.data.kitti", "kitti", kitti_raw.image_folder),
    "voc": Entry("fgfi_tf.data.voc", "voc", voc_raw.image_folder),
}


def names() -> list[str]:
    """The names that :func:`open_split` knows."""
    return sorted(_ENTRIES)


def entry(name: str) -> Entry:
    """What is known of a dataset. Raises UserError for an unknown name."""
    if name not in _ENTRIES:
        raise UserError(f"unknown dataset {name!r}; known are {', '.join(names())}")
    return _ENTRIES[name]


def open_split(
    name: str,
    data_dir: str | Path,
    split: str,
    prepared_dir: str | Path = "",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> PreparedDataset:
    """A split of a dataset, its TFRecords written where they are not there yet.

    Pictures of more than ``max_megapixels`` are refused when the records are written.

    Raises:
        UserError: for an unknown name, no ``data_dir``, or whatever is wrong with the data.
    """
    known = entry(name)
    if not data_dir:
        raise UserError(f"--data_dir is missing: the folder of the raw {name} data")
    prepare = importlib.import_module(known.module).prepare
    return prepare(data_dir, split, prepared_dir or None, max_megapixels=max_megapixels)
