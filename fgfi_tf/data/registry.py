"""Every dataset by name. A new one is a file with a ``Dataset`` and a call of ``register(name, Dataset())``.

Nothing here imports TensorFlow, which takes seconds, until a split is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from fgfi_tf.data import splits
from fgfi_tf.data.classes import ClassChoice, listed, parse, resolve
from fgfi_tf.data.dataset import Dataset
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.data.readers.coco import Coco
from fgfi_tf.data.readers.folder import Folder
from fgfi_tf.data.readers.kitti import Kitti
from fgfi_tf.data.readers.voc import Voc
from fgfi_tf.data.readers.wider import Wider
from fgfi_tf.errors import UserError
from fgfi_tf.paths import user_path
from fgfi_tf.registries import Registry

if TYPE_CHECKING:
    from fgfi_tf.data.records import PreparedDataset

_DATASETS: Registry[Dataset] = Registry(
    "dataset", lambda entry: "" if isinstance(entry, Dataset) else f"instance of {Dataset.__module__}.Dataset"
)
names, entry, register, unregister = _DATASETS.names, _DATASETS.get, _DATASETS.register, _DATASETS.unregister

for _name, _dataset in (
    ("coco", Coco()),
    ("folder", Folder()),
    ("kitti", Kitti()),
    ("voc", Voc()),
    ("wider", Wider()),
):
    register(_name, _dataset)


def open_split(
    name: str,
    data_dir: str | Path,
    split: str,
    prepared_dir: str | Path = "",
    max_megapixels: float = MAX_MEGAPIXELS,
    *,
    classes: str | ClassChoice = "",
    val_fraction: float = splits.VAL_FRACTION,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> PreparedDataset:
    """A split of a dataset, its TFRecords written where they are not there yet.

    Args:
        name: of the dataset.
        data_dir: the folder of its files.
        split: see the dataset; ``train``, ``val`` or ``all`` where the folder has no splits of its own.
        prepared_dir: where the records go; ``<data_dir>/tfrecords`` by default.
        max_megapixels: larger pictures are refused when the records are written.
        classes: what is learnt, merged and ignored: a choice, or the text of one (``classes.parse``).
        val_fraction: the share of the pictures that are ``val`` where the folder has no splits.
        options: the dataset's own, by name.
        progress: show progress bars on stderr while writing.

    Raises UserError: for an unknown name, no ``data_dir``, or whatever is wrong with the data.
    """
    dataset = entry(name)
    if not data_dir:
        raise UserError(f"--data_dir is missing: the folder of the raw {name} data")
    choice = parse(classes) if isinstance(classes, str) else classes
    root = user_path(data_dir)
    raw = dataset.ready_made(root, split)
    if raw is None:
        frames = splits.frames_of(dataset, root, split, val_fraction, options or {})
        from fgfi_tf.data import builder  # TensorFlow

        folder = user_path(prepared_dir) if prepared_dir else root / "tfrecords"
        raw = builder.prepare(dataset, frames, split, folder, progress, max_megapixels)
    from fgfi_tf.data.records import PreparedDataset

    where = f"{name}/{split}"
    table = resolve(choice, raw.counts(), dataset.class_names, dataset.ignored_names, where)
    if table.unknown:
        text = "%s: objects of classes that are not learnt: %s (--classes names those to learn)"
        logging.warning(text, where, listed(table.unknown))
    return PreparedDataset(where, raw, table, choice)
