"""KITTI 2D object detection as a TFDS builder over the raw layout.

The KITTI of the TFDS catalogue drops DontCare areas and has a split of its own, so no published
table can be reproduced with it. This one keeps every class and attribute and the user's splits.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
from absl import logging

from fgfi_tf.data import kitti_raw
from fgfi_tf.data.builder import SplitBuilder, SplitConfig, fingerprint, parse_record
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.data.records import PreparedDataset, is_prepared, prepare_records, quiet_tfds
from fgfi_tf.paths import user_path

ATTRIBUTES = ("truncation", "occlusion", "alpha", "dimensions", "location", "rotation_y")


class Kitti(SplitBuilder, skip_registration=True):
    """Writes one split of the raw KITTI layout as TFRecords."""

    RELEASE_NOTES = {
        "1.0.0": "every class and attribute; encoded images as they are",
        "1.1.0": "images upright and of 8 bits",
    }
    DESCRIPTION = "KITTI 2D object detection with DontCare areas, from the raw layout."
    HOMEPAGE = kitti_raw.DOWNLOAD_PAGE
    OBJECT_FEATURES = {
        "boxes": ((4,), np.float32),
        "classes": ((), np.int32),
        "ignore": ((), np.bool_),
        "truncation": ((), np.float32),
        "occlusion": ((), np.int32),
        "alpha": ((), np.float32),
        "dimensions": ((3,), np.float32),
        "location": ((3,), np.float32),
        "rotation_y": ((), np.float32),
    }

    def frame_objects(self, frame: kitti_raw.Frame, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
        """See ``SplitBuilder``."""
        (objects,) = kitti_raw.read_labels([frame])
        return objects | {"boxes": self.cut_boxes(objects["boxes"], image_size, frame.label_path)}


def prepare(
    data_dir: str | Path,
    split: str,
    prepared_dir: str | Path | None = None,
    progress: bool = True,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> PreparedDataset:
    """Opens a split of a raw KITTI folder, writing its TFRecords where they are not there yet.

    Args:
        data_dir: the folder that holds ``training/`` (and ``ImageSets/``), see ``kitti_raw``.
        split: a list of ``ImageSets``; ``test`` or ``testing`` for the frames of ``testing/``,
            which have no labels.
        prepared_dir: where the records go; ``<data_dir>/tfrecords`` by default. Records of another
            state of the raw files (other names, sizes or times) are never used.
        progress: show progress bars on stderr while writing.
        max_megapixels: larger pictures are refused, before they are decoded.

    Raises:
        UserError: anything wrong with the folder, the split, an image or a label line.
    """
    root = kitti_raw.check_data_dir(data_dir)
    frames = kitti_raw.list_frames(root, split)
    folder = user_path(prepared_dir) if prepared_dir else root / "tfrecords"
    prefix = re.sub(r"[^A-Za-z0-9]", "_", split)
    files = (path for frame in frames for path in (frame.image_path, frame.label_path))
    name = f"{prefix}-{fingerprint(f'{Kitti.VERSION} {split}', files)}"
    config = SplitConfig(name=name, frames=tuple(frames), progress=progress, max_megapixels=max_megapixels)
    with quiet_tfds():
        builder = Kitti(data_dir=folder, config=config)
    if not is_prepared(builder):
        _name_outdated(Path(builder.data_dir).parent.parent, prefix)
        kitti_raw.read_labels(frames)  # what is wrong is told before any image is read
    paths = prepare_records(builder)
    builder.warn_of_cut_boxes()
    return PreparedDataset(
        name=f"kitti/{split}",
        class_names=kitti_raw.CLASS_NAMES,
        files=[(frame.image_path, frame.label_path) for frame in frames],
        num_training_classes=kitti_raw.NUM_TRAINING_CLASSES,
        image_ids=[frame.image_id for frame in frames],
        paths=paths,
        parse=functools.partial(parse_record, builder.info.features, ATTRIBUTES),
        labels=functools.partial(_read_all_labels, frames),
    )


def _read_all_labels(frames: list[kitti_raw.Frame]) -> list[dict[str, np.ndarray]]:
    labels = kitti_raw.read_labels(frames)
    return [{"image_id": frame.image_id, **objects} for frame, objects in zip(frames, labels, strict=True)]


def _name_outdated(folder: Path, prefix: str) -> None:
    """Says which prepared records of the same split belong to another state of the raw files."""
    for other in sorted(folder.glob(f"{prefix}-*")):
        if any(other.glob("*/dataset_info.json")):
            logging.warning(
                "the raw files have changed, or how they are read; %s is not used any more: delete it",
                other,
            )
