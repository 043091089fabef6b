"""What a run was trained on: a digest of every image and label by contents, kept in its folder.

A run that goes on over other data is neither the old run nor a new one. The names, sizes and times that
choose prepared records do not tell everything: a label edited in place may keep all three.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.errors import UserError
from fgfi_tf.models.metadata import ModelMetadata
from fgfi_tf.paths import replace_text
from fgfi_tf.training.checkpoints import FOLDER, list_checkpoints
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.run_log import RunLog

DATA_FILE, UNLABELLED_FILE = "data.tsv", "unlabelled.tsv"
#: What the digests of an image id are of, in order.
PARTS = ("image", "label")
SHOWN = 5

Digests = dict[str, tuple[str, ...]]


def digests(dataset: PreparedDataset) -> Digests:
    """Digests (12 hex digits) of the raw files of each image, in the split's order; "-" for none.

    Where there are no raw files, one of each prepared record.
    """
    if not dataset.files:
        records = tf.data.TFRecordDataset(dataset.record_paths).as_numpy_iterator()
        return {name: (_digest(record),) for name, record in zip(dataset.image_ids, records, strict=True)}
    paths = list(dict.fromkeys(path for files in dataset.files for path in files))  # labels may share a file
    with ThreadPoolExecutor() as pool:
        found = dict(zip(paths, pool.map(_file_digest, paths), strict=True))
    of_images = (tuple(found[path] for path in files) for files in dataset.files)
    return dict(zip(dataset.image_ids, of_images, strict=True))


def check(
    config: ExperimentConfig,
    folder: Path,
    dataset: PreparedDataset,
    log: RunLog,
    *,
    writes: bool,
    file: str = DATA_FILE,
) -> None:
    """Compares the data of a run that goes on with what its folder says, and keeps the present state there.

    Args:
        config: whose ``allow_changed_data`` makes a warning of the error.
        folder: of the run. One without checkpoints is new and has nothing to compare.
        dataset: its training split.
        log: of the run.
        writes: False for the workers that own no files.
        file: where the state is kept.

    Raises:
        UserError: the classes to learn are others, or the data is not what the run was trained on, naming
            what differs.
    """
    trained = bool(list_checkpoints(folder / FOLDER))
    metadata = ModelMetadata.read(folder / FOLDER) if trained else None
    if metadata is not None and metadata.class_names != dataset.learnt_names:
        raise UserError(
            f"the run in {folder} learns {', '.join(metadata.class_names)}, {dataset.name} now gives "
            f"{', '.join(dataset.learnt_names)}: name the former with --classes, or start anew (--overwrite)"
        )
    present, path = digests(dataset), folder / file
    changed = differences(read(path), present) if trained and path.is_file() else ""
    if changed and not config.allow_changed_data:
        raise UserError(
            f"{dataset.name} is not what the run in {folder} was trained on: {changed}. Restore it, "
            "start anew with --overwrite or in another --output_dir, or pass --allow_changed_data to go on "
            "with what is there now"
        )
    if writes:
        replace_text(path, "".join("\t".join((name, *values)) + "\n" for name, values in present.items()))
    log.warn(changed and f"going on with other data than before: {changed}")


def differences(before: Digests, now: Digests) -> str:
    """What differs between two states in words, "" where nothing does."""
    kept = [name for name in now if name in before]
    parts = [
        _listed("gone", [name for name in before if name not in now]),
        _listed("new", [name for name in now if name not in before]),
    ]
    for i, part in enumerate(PARTS):
        other = [name for name in kept if before[name][i : i + 1] != now[name][i : i + 1]]
        parts.append(_listed(f"with another {part}", other))
    found = "; ".join(part for part in parts if part)
    return found or ("" if list(before) == list(now) else "the same images in another order")


def read(path: Path) -> Digests:
    """What :func:`check` has written. Raises UserError for a malformed file."""
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        return {name: tuple(rest) for name, *rest in lines}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; delete it to go on without a comparison") from error


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} {'image' if len(names) == 1 else 'images'} {what} ({shown})"


def _file_digest(path: Path | None) -> str:
    if path is None:
        return "-"
    try:
        return _digest(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()
