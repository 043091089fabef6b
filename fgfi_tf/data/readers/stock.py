"""Datasets of the TFDS catalogue where a user has prepared them; nothing is downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from fgfi_tf.data.records import Sample, quiet_tfds
from fgfi_tf.errors import UserError


def newest_builder(folder: Path) -> tfds.core.DatasetBuilder:
    """The newest version in ``folder``, which is called like the dataset, or is its folder of one config.

    Raises:
        UserError: there is none, or its files are no TFRecords.
    """
    versions = [p.parent for p in folder.glob("*/dataset_info.json")]
    if not versions:
        name = folder.parent.name if folder.name.isdigit() else folder.name
        raise UserError(f"{folder}: no prepared TFDS {name}")
    newest = max(versions, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    with quiet_tfds():
        builder = tfds.builder_from_directory(newest)
    kind = builder.info.file_format
    if kind is not tfds.core.FileFormat.TFRECORD:
        name = builder.info.name
        raise UserError(f"{newest}: holds {kind.value} files; prepare {name} with file_format='tfrecord'")
    return builder


def files_of(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
    """The record files of a split. Raises UserError where there is no such split."""
    if split not in builder.info.splits:
        raise UserError(f"{builder.data_dir}: has no split {split}")
    return list(builder.info.splits[split].filepaths)


def labels_of(paths: Sequence[str], parse: Callable[[tf.Tensor], Sample]) -> list[dict[str, Any]]:
    """Labels of every record as in ``RawSplit``, boxes to hundredths of a pixel; images are not decoded."""

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
                "label": sample["label"],
                "ignore": sample["ignore"],
                **sample["attributes"],
            }
        )
    return frames
