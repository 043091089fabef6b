"""Prepared data: TFRecords that a TFDS builder wrote once, read at any position.

Every dataset of the package is a :class:`PreparedDataset`. Reading by position is what makes an
exact resume cheap: the pipeline asks for the examples of step k without reading those before it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tqdm.auto import tqdm

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


class PreparedDataset:
    """One split, ready to read: samples as ``fgfi_tf.data.sample`` defines them.

    Attributes:
        name: what messages call it, e.g. ``kitti/train``.
        class_names: every class of the dataset; those to learn come first.
        num_training_classes: how many are to learn.
        num_examples: images of the split.
        image_ids: their names, in the order of the split.
        files: the raw files of each image, (image, labels or None); () where there are only records.
        record_paths: the TFRecord files.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        num_training_classes: int,
        image_ids: Sequence[str],
        paths: Sequence[str | os.PathLike],
        parse: Callable[[tf.Tensor], Sample],
        labels: Callable[[], list[dict[str, np.ndarray]]],
        files: Sequence[tuple[Path | None, ...]] = (),
    ):
        self.name = name
        self.class_names = tuple(class_names)
        self.num_training_classes = num_training_classes
        self.image_ids = tuple(image_ids)
        self.num_examples = len(self.image_ids)
        self._folder = Path(paths[0]).parent if paths else Path()
        self._records = RecordFile(paths)
        self._parse = parse
        self._read_labels = labels
        self._labels: list[dict[str, np.ndarray]] | None = None
        self.files = tuple(files)
        self.record_paths = [os.fspath(path) for path in paths]
        if self._records.num_records != self.num_examples:
            raise UserError(
                f"{name}: {self._records.num_records} prepared records for {self.num_examples} frames; "
                f"delete {self._folder} to prepare anew"
            )

    def sample(self, index: tf.Tensor) -> Sample:
        """The sample at ``index`` (int64 scalar); its ``image`` is still the encoded file.

        Made for ``Dataset.map``: the read, like the decoding, runs in the map's threads.
        """
        return self._parse(self._records.read(index))

    def records(self) -> tf.data.Dataset:
        """All samples in the order of the split, images still encoded."""
        return tf.data.Dataset.range(self.num_examples).map(self.sample, num_parallel_calls=tf.data.AUTOTUNE)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around whatever reads the records: a damaged one becomes a UserError that names their folder."""
        try:
            yield
        except tf.errors.DataLossError as error:
            raise UserError(
                f"{self.name}: a prepared record is damaged; delete {self._folder} to prepare anew"
            ) from error

    def labels(self) -> list[dict[str, np.ndarray]]:
        """The labels of every frame, in order, with the full digits of the label files (float64).

        Each is a dict of ``image_id`` (str) and columns of N rows: ``boxes`` [N,4] in pixels of
        the image file, ``classes``, ``ignore`` and what the dataset's evaluation needs.
        """
        if self._labels is None:
            self._labels = self._read_labels()
        return self._labels

    def image_sizes(self) -> np.ndarray:
        """(H, W) of every image file, in order, int64 [N,2]: of the labels, or else of the records."""
        frames = self.labels()
        if all("image_size" in frame for frame in frames):
            sizes = [frame["image_size"] for frame in frames]
        else:
            with self.reading():
                sizes = [s.numpy() for s in self.records().map(lambda sample: sample["image_size"])]
        return np.array(sizes, np.int64).reshape(-1, 2)

    @property
    def max_boxes(self) -> int:
        """The most objects to train on in one image, rounded up to a multiple of 8 (at least 8)."""
        most = max((int(np.sum(~frame["ignore"])) for frame in self.labels()), default=0)
        return max(8, -(-most // 8) * 8)


def prepare_records(builder: tfds.core.GeneratorBasedBuilder) -> list[Path]:
    """Lets a builder write its TFRecords, unless they are there; returns them in order.

    Nothing is ever fetched from a network. Processes that prepare the same folder at once wait for
    each other. Records are written beside their place and moved there when complete, so a killed
    preparation leaves nothing that could pass for data; its remains are removed by the next.

    Raises:
        UserError: the folder cannot be written or the disk is full, or what the builder raises for raw data.
    """
    target = Path(builder.data_dir)
    if not is_prepared(builder):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target.parent / ".lock"):
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


def progress_bar(items: Iterable, description: str, enabled: bool) -> Iterable:
    """A progress bar on stderr over ``items``, which have a length."""
    return tqdm(items, desc=description, unit="image", disable=not enabled)


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
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_remains(target: Path) -> None:
    for folder in target.parent.glob("*incomplete*"):
        logging.info("removing what an interrupted preparation left: %s", folder)
        shutil.rmtree(folder, ignore_errors=True)
    if target.exists():
        shutil.rmtree(target)
