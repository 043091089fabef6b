"""PASCAL VOC detection, from the raw VOCdevkit through a TFDS builder or from the stock TFDS ``voc``.

Both give the same samples: every annotated object, ``difficult`` ones included, is one to train on, as in the
published Faster R-CNN runs; evaluation knows them by the attribute. Boxes are 0-based inclusive corners.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from fgfi_tf.data import voc_raw
from fgfi_tf.data.builder import SplitBuilder, SplitConfig, fingerprint, parse_record
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.data.images import image_size as read_image_size
from fgfi_tf.data.records import PreparedDataset, Sample, is_prepared, prepare_records, quiet_tfds
from fgfi_tf.errors import UserError
from fgfi_tf.paths import user_path

ATTRIBUTES = ("difficult", "truncated")
#: The lists of the devkit as the splits of the stock ``voc``.
STOCK_SPLITS = {
    "train": ("train",),
    "val": ("validation",),
    "trainval": ("train", "validation"),
    "test": ("test",),
}


class Voc(SplitBuilder, skip_registration=True):
    """Writes one split of the raw VOC layout as TFRecords."""

    RELEASE_NOTES = {
        "1.0.0": "0-based boxes, difficult and truncated; encoded images as they are",
        "1.1.0": "images upright and of 8 bits",
    }
    DESCRIPTION = "PASCAL VOC detection from the raw layout."
    HOMEPAGE = voc_raw.DOWNLOAD_PAGE
    OBJECT_FEATURES = {
        "boxes": ((4,), np.float32),
        "classes": ((), np.int32),
        "difficult": ((), np.bool_),
        "truncated": ((), np.bool_),
    }

    def frame_objects(self, frame: voc_raw.Frame, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
        """See ``SplitBuilder``; an annotation that gives a size must give the upright picture's own.

        One that gives the size before the EXIF orientation is refused: nothing tells whether its boxes were
        drawn on the picture as it is stored or as it is shown.
        """
        (annotation,) = voc_raw.read_labels([frame])
        if annotation.image_size not in (None, image_size):
            swapped = annotation.image_size == image_size[::-1]
            hint = "; where EXIF turns a picture, the upright one counts, for boxes too" if swapped else ""
            raise UserError(
                f"{frame.annotation_path}: says {_size_text(annotation.image_size)}, "
                f"but {frame.image_path} is {_size_text(image_size)}{hint}"
            )
        objects = annotation.arrays()
        return objects | {"boxes": self.cut_boxes(objects["boxes"], image_size, frame.annotation_path)}


def prepare(
    data_dir: str | Path,
    split: str,
    prepared_dir: str | Path | None = None,
    progress: bool = True,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> PreparedDataset:
    """Opens a split of VOC, writing its TFRecords first where they are neither ours nor TFDS's own.

    Args:
        data_dir: the folder that holds ``VOCdevkit`` (or is it); or a TFDS folder that holds the stock
            ``voc``, prepared.
        split: ``2007_trainval``, ``2007_test``, ``0712_trainval`` ...; see ``voc_raw.list_frames``.
        prepared_dir: where the records go; ``<data_dir>/tfrecords`` by default. Records of another state of
            the raw files are never used.
        progress: show progress bars on stderr while writing.
        max_megapixels: larger pictures are refused, before they are decoded.

    Raises:
        UserError: anything wrong with the folder, the split, an image or an annotation.
    """
    root = user_path(data_dir)
    if any((root / "voc" / year).is_dir() for year in ("2007", "2012")):
        return open_stock(root, split)
    frames = voc_raw.list_frames(root, split)
    folder = user_path(prepared_dir) if prepared_dir else root / "tfrecords"
    files = (path for frame in frames for path in (frame.image_path, frame.annotation_path))
    prefix = re.sub(r"[^A-Za-z0-9]", "_", split)
    name = f"{prefix}-{fingerprint(f'{Voc.VERSION} {split}', files)}"
    config = SplitConfig(name=name, frames=tuple(frames), progress=progress, max_megapixels=max_megapixels)
    with quiet_tfds():
        builder = Voc(data_dir=folder, config=config)
    if not is_prepared(builder):
        voc_raw.read_labels(frames)  # what is wrong is told before any image is read
    paths = prepare_records(builder)
    builder.warn_of_cut_boxes()
    return PreparedDataset(
        name=f"voc/{split}",
        class_names=voc_raw.CLASS_NAMES,
        files=[(frame.image_path, frame.annotation_path) for frame in frames],
        num_training_classes=len(voc_raw.CLASS_NAMES),
        image_ids=[frame.image_id for frame in frames],
        paths=paths,
        parse=functools.partial(parse_record, builder.info.features, ATTRIBUTES),
        labels=functools.partial(_read_all_labels, frames),
    )


def open_stock(data_dir: str | Path, split: str) -> PreparedDataset:
    """Opens the stock TFDS ``voc`` where a user has prepared it; nothing is downloaded.

    Raises:
        UserError: a year is not prepared, the split is unknown, or its files are no TFRecords.
    """
    root = user_path(data_dir) / "voc"
    year, _, name = split.partition("_")
    if year not in voc_raw.YEARS or name not in STOCK_SPLITS:
        raise UserError(
            f"split {split!r}: of {root} it must be a year ({', '.join(voc_raw.YEARS)}), an underscore and "
            f"one of {', '.join(STOCK_SPLITS)}"
        )
    paths, features = [], None
    for folder in voc_raw.YEARS[year]:
        builder = _stock_builder(root / folder.removeprefix("VOC"))
        features = builder.info.features
        for part in STOCK_SPLITS[name]:
            if part not in builder.info.splits:
                raise UserError(f"{builder.data_dir}: has no split {part}")
            paths += builder.info.splits[part].filepaths
    parse = functools.partial(parse_stock_record, features)
    frames = _stock_labels(paths, parse)
    return PreparedDataset(
        name=f"voc/{split}",
        class_names=voc_raw.CLASS_NAMES,
        num_training_classes=len(voc_raw.CLASS_NAMES),
        image_ids=[frame["image_id"] for frame in frames],
        paths=paths,
        parse=parse,
        labels=lambda: frames,
    )


def parse_stock_record(features: tfds.features.FeaturesDict, serialized: tf.Tensor) -> Sample:
    """As :func:`parse_record`, of a record of the stock ``voc``.

    It stores corners divided by the image's size, in float32. Coordinates are whole numbers, in two files of
    VOC 2012 fractions, so rounding to hundredths of a pixel restores them.
    """
    record = features.deserialize_example(serialized, decoders={"image": tfds.decode.SkipDecoding()})
    objects = record["objects"]
    size = tf.io.extract_jpeg_shape(record["image"])[:2]
    ymin, xmin, ymax, xmax = tf.unstack(objects["bbox"], axis=-1)
    height, width = tf.unstack(tf.cast(size, tf.float32))
    corners = tf.stack([xmin * width, ymin * height, xmax * width, ymax * height], axis=-1)  # N x 4, 1-based
    boxes = tf.round(corners * 100.0) / 100.0 - 1.0
    classes = tf.cast(objects["label"], tf.int32)
    image_id = tf.strings.regex_replace(record["image/filename"], r"\.jpg$", "")
    attributes = {"difficult": objects["is_difficult"], "truncated": objects["is_truncated"]}
    return {
        "image": record["image"],
        "boxes": boxes,  # N x 4
        "classes": classes,  # N
        "ignore": tf.zeros_like(classes, tf.bool),  # N
        "image_id": image_id,
        "image_size": size,  # 2
        "attributes": attributes,
    }


def _read_all_labels(frames: list[voc_raw.Frame]) -> list[dict[str, np.ndarray]]:
    labels = []
    for frame, annotation in zip(frames, voc_raw.read_labels(frames), strict=True):
        size = annotation.image_size or read_image_size(frame.image_path)
        arrays = annotation.arrays()
        ignore = np.zeros(len(arrays["classes"]), np.bool_)
        image = {"image_id": frame.image_id, "image_size": np.array(size, np.int32)}
        labels.append({**image, **arrays, "ignore": ignore})
    return labels


def _stock_builder(folder: Path) -> tfds.core.DatasetBuilder:
    """The newest version in ``folder``."""
    versions = [p.parent for p in folder.glob("*/dataset_info.json")]
    if not versions:
        raise UserError(f"{folder}: no prepared TFDS voc")
    newest = max(versions, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    with quiet_tfds():
        builder = tfds.builder_from_directory(newest)
    kind = builder.info.file_format
    if kind is not tfds.core.FileFormat.TFRECORD:
        raise UserError(f"{newest}: holds {kind.value} files; prepare voc with file_format='tfrecord'")
    return builder


def _stock_labels(paths: list[str], parse) -> list[dict[str, np.ndarray]]:
    """Labels of every record, images not decoded."""

    def labels(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        sample = parse(serialized)
        del sample["image"]
        return sample

    frames = []
    records = tf.data.TFRecordDataset(paths).map(labels, num_parallel_calls=tf.data.AUTOTUNE)
    for sample in records.as_numpy_iterator():
        frames.append(
            {
                "image_id": sample["image_id"].decode(),
                "image_size": sample["image_size"],
                "boxes": np.round(sample["boxes"].astype(np.float64), 2),
                "classes": sample["classes"],
                "ignore": sample["ignore"],
                **sample["attributes"],
            }
        )
    return frames


def _size_text(size) -> str:
    return f"{size[1]} x {size[0]}"
