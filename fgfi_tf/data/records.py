"""Prepared data: TFRecords that a TFDS builder wrote once, read at any position.

Every dataset of the package is a :class:`PreparedDataset`. Reading by position is what makes an
exact resume cheap: the pipeline asks for the examples of step k without reading those before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from fgfi_tf.data.classes import ClassChoice, ClassTable
from fgfi_tf.errors import UserError, first_line

Sample = dict[str, tf.Tensor]

# Of a TFRecord: uint64 length, uint32 CRC of it, the data, uint32 CRC of the data.
_LENGTH = struct.Struct("<Q")
_FRAMING = 16


class RecordFile:
    """The records of a list of TFRecord files, in order, each readable by its index in a graph."""

    def __init__(self, paths: Sequence[str | os.PathLike]):
        files, offsets = [], []
        for number, path in enumerate(paths):
            found = record_offsets(path)
            files += [number] * len(found)
            offsets += found
        self._paths = tf.constant([os.fspath(p) for p in paths], tf.string)
        self._files = tf.constant(files, tf.int32)
        self._offsets = tf.constant(offsets, tf.int64)
        self.num_records = len(offsets)

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """The serialised record, a string scalar, at ``index`` (int64 scalar); checks its CRC."""
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(self._paths, tf.gather(self._files, index))[tf.newaxis],
            compression_type="",
            buffer_size=tf.constant(0, tf.int64),
            byte_offsets=tf.gather(self._offsets, index)[tf.newaxis],
        )
        dataset = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        return dataset.take(1).get_single_element()


def record_offsets(path: str | os.PathLike) -> list[int]:
    """The byte offset of every record of a TFRecord file, found without reading their data."""
    size = os.path.getsize(path)
    offsets, position = [], 0
    with open(path, "rb", buffering=0) as file:
        while position < size:
            file.seek(position)
            head = file.read(_LENGTH.size)
            following = position + _FRAMING + (_LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else size)
            if following > size:
                raise UserError(
                    f"{path}: the prepared records are damaged or cut short; "
                    "delete their folder to prepare anew"
                )
            offsets.append(position)
            position = following
    return offsets


@dataclasses.dataclass(frozen=True)
class RawSplit:
    """What lies in records: the labels' own classes, before any is learnt, merged or ignored.

    Attributes:
        paths: the TFRecord files, in order.
        parse: a record, a string scalar, to a sample that has ``label``, int [N] into ``vocabulary``, in
            place of ``classes``, and as ``ignore`` what is ignored whatever its class.
        vocabulary: the class names of the labels.
        labels: for each picture, in order, a dict of ``image_id``, ``image_size`` (H, W), ``label`` and
            columns of N rows; see ``PreparedDataset.labels``.
        files: the raw files of each picture, (image, labels or None); () where there are only records.
    """

    paths: Sequence[str | os.PathLike]
    parse: Callable[[tf.Tensor], Sample]
    vocabulary: Sequence[str]
    labels: Sequence[dict[str, Any]]
    files: Sequence[tuple[Path | None, ...]] = ()

    def counts(self) -> dict[str, int]:
        """Objects by the class name of the labels, each name of the vocabulary that occurs."""
        labels = [frame["label"] for frame in self.labels]
        found = np.bincount(np.concatenate([np.zeros(0, int), *labels]), minlength=len(self.vocabulary))
        return {name: int(n) for name, n in zip(self.vocabulary, found, strict=True) if n}


class PreparedDataset:
    """One split, ready to read: samples as ``fgfi_tf.data.sample`` defines them.

    Attributes:
        name: what messages call it, e.g. ``kitti/train``.
        classes: which names of the labels are learnt (``learnt_names``) and which are ignored.
        class_names: what ``classes`` of samples and labels index: the learnt names, then the ignored ones.
        choice: what opens another split for the same detector.
        num_examples, image_ids: images of the split, and their names in its order.
        files, record_paths: the raw files of each image, see ``RawSplit``, and the TFRecord files.
    """

    def __init__(self, name: str, raw: RawSplit, classes: ClassTable, choice: ClassChoice):
        self.name = name
        self.choice = dataclasses.replace(choice, learnt=classes.learnt)
        self.classes, self.class_names, self.learnt_names = classes, classes.names, classes.learnt
        self.image_ids = tuple(frame["image_id"] for frame in raw.labels)
        self.num_examples = len(self.image_ids)
        self._folder = Path(raw.paths[0]).parent if raw.paths else Path()
        self._records = RecordFile(raw.paths)
        self._parse = raw.parse
        # a row for labels without any name: nothing indexes it
        self._classes = np.append(classes.indices(raw.vocabulary), 0).astype(np.int32)
        self._labels = [self._with_classes(frame, np.take) for frame in raw.labels]
        self.files = tuple(raw.files)
        self.record_paths = [os.fspath(path) for path in raw.paths]
        if self._records.num_records != self.num_examples:
            raise UserError(
                f"{name}: {self._records.num_records} prepared records for {self.num_examples} frames; "
                f"delete {self._folder} to prepare anew"
            )

    def _with_classes(self, row: dict[str, Any], take: Callable) -> dict[str, Any]:
        """A row with ``classes`` for its ``label``; objects of classes that are not learnt are ignored."""
        rest = {key: value for key, value in row.items() if key != "label"}
        classes = take(self._classes, row["label"])
        return {**rest, "classes": classes, "ignore": row["ignore"] | (classes >= len(self.learnt_names))}

    def sample(self, index: tf.Tensor) -> Sample:
        """The sample at ``index`` (int64 scalar); its ``image`` is still the encoded file.

        Made for ``Dataset.map``: the read, like the decoding, runs in the map's threads.
        """
        return self._with_classes(self._parse(self._records.read(index)), tf.gather)

    def records(self) -> tf.data.Dataset:
        """All samples in the order of the split, images still encoded."""
        return tf.data.Dataset.range(self.num_examples).map(self.sample, num_parallel_calls=tf.data.AUTOTUNE)

    @contextlib.contextmanager
    def reading(self, *others: PreparedDataset) -> Iterator[None]:
        """Around whatever reads the records: a damaged one becomes a UserError that names their folder.

        ``others``: whose records are read as well, and named as well: TensorFlow does not say which it was.
        """
        try:
            yield
        except tf.errors.DataLossError as error:
            folders = " and ".join(str(one._folder) for one in (self, *others))
            raise UserError(
                f"{self.name}: a prepared record is damaged; delete {folders} to prepare anew"
            ) from error

    def labels(self) -> list[dict[str, Any]]:
        """The labels of every frame, in order, with the full digits of the label files.

        Each is a dict of ``image_id`` (str), ``image_size`` int (H, W) of the upright picture, and columns of
        N rows: ``boxes`` float64 [N,4] as in samples, but as the labels have them, whether or not they reach
        over the edge; ``classes`` int32 into ``class_names``; ``ignore`` bool, no object to train on; and the
        dataset's own attributes (``difficult``, ``crowd``, ``area``, ``truncation`` ...).
        """
        return self._labels

    def image_sizes(self) -> np.ndarray:
        """(H, W) of every image file, in order, int64 [N,2]."""
        return np.array([frame["image_size"] for frame in self._labels], np.int64).reshape(-1, 2)

    @property
    def max_boxes(self) -> int:
        """The most objects to train on in one image, rounded up to a multiple of 8 (at least 8)."""
        most = max((int(np.sum(~frame["ignore"])) for frame in self.labels()), default=0)
        return max(8, -(-most // 8) * 8)


def prepare_records(builder: tfds.core.GeneratorBasedBuilder) -> list[Path]:
    """Lets a builder write its TFRecords, unless they are there; returns them in order.

    Nothing is ever fetched from a network. Processes that prepare the same folder at once wait for
    each other. Records are written beside their place and moved there when complete, so a killed
    preparation leaves nothing that could pass for data; its remains are removed by the next. Raises UserError
    where the folder cannot be written or the disk is full, or what the builder raises for raw data.
    """
    target = Path(builder.data_dir)
    if not is_prepared(builder):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with locked(target.parent / ".lock"):
                if not is_prepared(builder):
                    _remove_remains(target)
                    _write(builder)
        except (OSError, RuntimeError) as error:
            failure = error if isinstance(error, OSError) else error.__cause__  # TFDS wraps others
            if not isinstance(failure, OSError | tf.errors.OpError):
                raise
            reason = getattr(failure, "strerror", None) or first_line(failure).rpartition("; ")[2]
            raise UserError(
                f"cannot write the prepared records to {target}: {reason}; "
                "--prepared_dir names another folder"
            ) from error
    builder.info.read_from_directory(target)
    return [Path(path) for split in builder.info.splits.values() for path in split.filepaths]


def is_prepared(builder: tfds.core.GeneratorBasedBuilder) -> bool:
    """Whether the builder's records are complete (the info file is written last)."""
    return (Path(builder.data_dir) / "dataset_info.json").is_file()


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keeps back what TFDS prints and logs about builders made outside its catalogue."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.ERROR))
    tfds.disable_progress_bar()  # its bars do not know their length; builders show their own
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)


def _write(builder: tfds.core.GeneratorBasedBuilder) -> None:
    logging.info("preparing TFRecords once, in %s", builder.data_dir)
    tfds.core.utils.gcs_utils._is_gcs_disabled = True
    downloads = Path(builder.data_dir).parent / "downloads"
    try:
        with quiet_tfds():
            builder.download_and_prepare(
                download_dir=downloads,  # made by TFDS though nothing is downloaded
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                file_format="tfrecord",
            )
    finally:
        shutil.rmtree(downloads, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While it holds, no other process is inside with the same file, which is made and stays."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_remains(target: Path) -> None:
    for folder in target.parent.glob("*incomplete*"):
        logging.info("removing what an interrupted preparation left: %s", folder)
        shutil.rmtree(folder, ignore_errors=True)
    if target.exists():
        shutil.rmtree(target)
