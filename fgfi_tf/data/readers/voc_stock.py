"""The stock TFDS ``voc`` where a user has prepared it: the same samples as from the raw VOCdevkit."""

from __future__ import annotations

import functools
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from fgfi_tf.data.readers import stock
from fgfi_tf.data.readers.voc import CLASS_NAMES
from fgfi_tf.data.records import RawSplit, Sample
from fgfi_tf.errors import UserError
from fgfi_tf.paths import user_path

#: The lists of the devkit as the splits of the stock ``voc``.
STOCK_SPLITS = {
    "train": ("train",),
    "val": ("validation",),
    "trainval": ("train", "validation"),
    "test": ("test",),
}
#: The years as split names give them, as its folders.
STOCK_YEARS = {"2007": ("2007",), "2012": ("2012",), "0712": ("2007", "2012"), "07+12": ("2007", "2012")}


def open_stock(data_dir: str | Path, split: str) -> RawSplit:
    """Opens the stock TFDS ``voc`` where a user has prepared it; nothing is downloaded.

    Raises:
        UserError: a year is not prepared, the split is unknown, or its files are no TFRecords.
    """
    root = user_path(data_dir) / "voc"
    year, _, name = split.partition("_")
    if year not in STOCK_YEARS or name not in STOCK_SPLITS:
        raise UserError(
            f"split {split!r}: of {root} it must be a year ({', '.join(STOCK_YEARS)}), an underscore and "
            f"one of {', '.join(STOCK_SPLITS)}"
        )
    paths, features = [], None
    for folder in STOCK_YEARS[year]:
        builder = stock.newest_builder(root / folder)
        features = builder.info.features
        for part in STOCK_SPLITS[name]:
            paths += stock.files_of(builder, part)
    parse = functools.partial(parse_stock_record, features)
    return RawSplit(paths, parse, CLASS_NAMES, stock.labels_of(paths, parse))


def parse_stock_record(features: tfds.features.FeaturesDict, serialized: tf.Tensor) -> Sample:
    """As ``builder.parse_record``, of a record of the stock ``voc``.

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
    image_id = tf.strings.regex_replace(record["image/filename"], r"\.jpg$", "")
    attributes = {"difficult": objects["is_difficult"], "truncated": objects["is_truncated"]}
    return {
        "image": record["image"],
        "boxes": boxes,  # N x 4
        "label": objects["label"],  # N
        "ignore": tf.zeros_like(objects["label"], tf.bool),  # N
        "image_id": image_id,
        "image_size": size,  # 2
        "attributes": attributes,
    }
