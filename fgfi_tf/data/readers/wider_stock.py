"""The stock TFDS ``wider_face`` where a user has prepared it: the same samples as from the official layout.

It cuts boxes to their picture, which the official files do not.
"""

from __future__ import annotations

import functools
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from fgfi_tf.data.dataset import canonical
from fgfi_tf.data.readers import stock
from fgfi_tf.data.readers.wider import ATTRIBUTES, CLASS_NAMES, counted_faces, settings_of
from fgfi_tf.data.records import RawSplit, Sample
from fgfi_tf.errors import UserError

STOCK_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def open_stock(data_dir: Path, split: str) -> RawSplit:
    """Opens the stock TFDS ``wider_face``; the evaluation kit's settings are looked for in ``data_dir``.

    Raises:
        UserError: it is not prepared, the split is unknown, or its files are no TFRecords.
    """
    name = canonical(split)
    if name not in STOCK_SPLITS:
        raise UserError(f"{data_dir / 'wider_face'} has no split {split!r}; it has {', '.join(STOCK_SPLITS)}")
    builder = stock.newest_builder(data_dir / "wider_face")
    paths = stock.files_of(builder, STOCK_SPLITS[name])
    parse = functools.partial(parse_record, builder.info.features)
    labels = stock.labels_of(paths, parse)
    counted = counted_faces(data_dir) if name == "val" else {}
    labels = [{**frame, **settings_of(frame["image_id"], len(frame["boxes"]), counted)} for frame in labels]
    return RawSplit(paths, parse, CLASS_NAMES, labels)


def parse_record(features: tfds.features.FeaturesDict, serialized: tf.Tensor) -> Sample:
    """As ``builder.parse_record``. Stored are edges, whole numbers, divided by the image's size."""
    record = features.deserialize_example(serialized, decoders={"image": tfds.decode.SkipDecoding()})
    faces = record["faces"]
    size = tf.io.extract_jpeg_shape(record["image"])[:2]
    ymin, xmin, ymax, xmax = tf.unstack(faces["bbox"], axis=-1)
    height, width = tf.unstack(tf.cast(size, tf.float32))
    edges = tf.round(tf.stack([xmin * width, ymin * height, xmax * width, ymax * height], axis=-1))  # N x 4
    empty = tf.reduce_any(edges[:, 2:] <= edges[:, :2], axis=-1)
    return {
        "image": record["image"],
        "boxes": edges - tf.constant([0.0, 0.0, 1.0, 1.0]),
        "label": tf.zeros(tf.shape(empty), tf.int64),
        "ignore": faces["invalid"] | empty,
        "image_id": tf.strings.regex_replace(record["image/filename"], r"\.jpg$", ""),
        "image_size": size,
        "attributes": {name: tf.cast(faces[name], tf.int32) for name in ATTRIBUTES},
    }
