"""KITTI 2D object detection as a TFDS builder over the raw layout.

The KITTI of the TFDS catalogue drops DontCare areas and has a split of its own, so no published
table can be reproduced with it. This one keeps every class and attribute and the user's splits.
Images are stored as the bytes of their files, never encoded anew.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from fgfi_tf.data import kitti_raw
from fgfi_tf.data.records import (
    PreparedDataset,
    Sample,
    is_prepared,
    prepare_records,
    progress_bar,
    quiet_tfds,
)
from fgfi_tf.errors import UserError

ATTRIBUTES = ("truncation", "occlusion", "alpha", "dimensions", "location", "rotation_y")
_OBJECT_FEATURES = {
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


@dataclasses.dataclass
class KittiConfig(tfds.core.BuilderConfig):
    """One split of one raw folder in one state; its name carries the fingerprint of the files."""

    frames: tuple[kitti_raw.Frame, ...] = ()
    progress: bool = True


class Kitti(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes one split of the raw KITTI layout as TFRecords, in the order of the split."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "every class and attribute; encoded images as they are"}

    def _info(self) -> tfds.core.DatasetInfo:
        objects = {
            name: tfds.features.Tensor(shape=shape, dtype=dtype)
            for name, (shape, dtype) in _OBJECT_FEATURES.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="KITTI 2D object detection with DontCare areas, from the raw layout.",
            homepage=kitti_raw.DOWNLOAD_PAGE,
            disable_shuffling=True,  # the pipeline shuffles; evaluation needs the split's order
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "image_id": tfds.features.Text(),
                    "image_size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
                    "objects": tfds.features.Sequence(objects),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        return {"frames": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        bar = progress_bar(config.frames, f"preparing {config.name}", config.progress)
        for key, frame in enumerate(bar):
            height, width = check_image(frame.image_path)
            objects = _frame_objects(frame, (height, width))
            yield (
                key,
                {
                    "image": str(frame.image_path),
                    "image_id": frame.image_id,
                    "image_size": np.array([height, width], np.int32),
                    "objects": {
                        name: objects[name].astype(dtype) for name, (_, dtype) in _OBJECT_FEATURES.items()
                    },
                },
            )


def prepare(
    data_dir: str | Path, split: str, prepared_dir: str | Path | None = None, progress: bool = True
) -> PreparedDataset:
    """Opens a split of a raw KITTI folder, writing its TFRecords where they are not there yet.

    Args:
        data_dir: the folder that holds ``training/`` (and ``ImageSets/``), see ``kitti_raw``.
        split: a list of ``ImageSets``; ``test`` or ``testing`` for the frames of ``testing/``,
            which have no labels.
        prepared_dir: where the records go; ``<data_dir>/tfrecords`` by default. Records of another
            state of the raw files (other names, sizes or times) are never used.
        progress: show progress bars on stderr while writing.

    Raises:
        UserError: anything wrong with the folder, the split, an image or a label line.
    """
    root = kitti_raw.check_data_dir(data_dir)
    frames = kitti_raw.list_frames(root, split)
    folder = Path(prepared_dir).expanduser() if prepared_dir else root / "tfrecords"
    prefix = re.sub(r"[^A-Za-z0-9]", "_", split)
    config = KittiConfig(
        name=f"{prefix}-{fingerprint(split, frames)}", frames=tuple(frames), progress=progress
    )
    with quiet_tfds():
        builder = Kitti(data_dir=folder, config=config)
    if not is_prepared(builder):
        _name_outdated(Path(builder.data_dir).parent.parent, prefix)
    paths = prepare_records(builder)
    return PreparedDataset(
        name=f"kitti/{split}",
        class_names=kitti_raw.CLASS_NAMES,
        num_training_classes=kitti_raw.NUM_TRAINING_CLASSES,
        image_ids=[frame.image_id for frame in frames],
        paths=paths,
        parse=functools.partial(parse_record, builder.info.features),
        labels=functools.partial(_read_all_labels, frames),
    )


def fingerprint(split: str, frames: list[kitti_raw.Frame]) -> str:
    """12 hex digits over the split's name, its frames, and size and time of each of their files."""
    digest = hashlib.sha256(f"{Kitti.VERSION} {split}\n".encode())
    for frame in frames:
        for path in (frame.image_path, frame.label_path):
            if path is not None:
                state = path.stat()
                digest.update(
                    f"{path.parent.name}/{path.name} {state.st_size} {state.st_mtime_ns}\n".encode()
                )
    return digest.hexdigest()[:12]


def check_image(path: Path) -> tuple[int, int]:
    """Decodes an image file once, to find a broken one before training does; returns (H, W)."""
    try:
        with Image.open(path) as image:
            image.load()
            kind, (width, height) = image.format, image.size
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise UserError(f"{path}: the image is unreadable or truncated: {error}") from error
    if kind not in ("PNG", "JPEG"):
        raise UserError(f"{path}: the image is {kind}, neither png nor jpg")
    return height, width


def parse_record(features: tfds.features.FeaturesDict, serialized: tf.Tensor) -> Sample:
    """A serialised record to a sample; its ``image`` is the encoded file, a string scalar."""
    record = features.deserialize_example(serialized, decoders={"image": tfds.decode.SkipDecoding()})
    objects = record["objects"]
    return {
        "image": record["image"],
        "boxes": objects["boxes"],  # N x 4
        "classes": objects["classes"],  # N
        "ignore": objects["ignore"],  # N
        "image_id": record["image_id"],
        "image_size": record["image_size"],  # 2
        "attributes": {name: objects[name] for name in ATTRIBUTES},
    }


def _frame_objects(frame: kitti_raw.Frame, image_size: tuple[int, int] | None) -> dict[str, np.ndarray]:
    if frame.label_path is None:
        return kitti_raw.label_arrays([])
    return kitti_raw.label_arrays(kitti_raw.read_labels(frame.label_path, image_size))


def _read_all_labels(frames: list[kitti_raw.Frame]) -> list[dict[str, np.ndarray]]:
    return [{"image_id": frame.image_id, **_frame_objects(frame, None)} for frame in frames]


def _name_outdated(folder: Path, prefix: str) -> None:
    """Says which prepared records of the same split belong to another state of the raw files."""
    for other in sorted(folder.glob(f"{prefix}-*")):
        if any(other.glob("*/dataset_info.json")):
            logging.warning("the raw files have changed; %s is not used any more and can be deleted", other)
