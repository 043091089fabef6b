"""What the TFDS builders of raw folders share: one split of one folder in one state as TFRecords.

Images are stored in the order of the split, as the bytes of their files; those that the graph would not read
as they are shown (turned, of 16 bits, of other formats) as PNG, without loss: see ``fgfi_tf.data.images``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from fgfi_tf.data.edges import cut_to_image
from fgfi_tf.data.images import MAX_MEGAPIXELS, encoded_image
from fgfi_tf.data.records import Sample, progress_bar
from fgfi_tf.errors import Problems

ObjectFeatures = dict[str, tuple[tuple[int, ...], type]]


@dataclasses.dataclass
class SplitConfig(tfds.core.BuilderConfig):
    """A split; its name carries the fingerprint of the raw files.

    Attributes:
        frames: the dataset's own records of a frame, with ``image_id`` and ``image_path``.
        progress: show a progress bar while writing.
        max_megapixels: larger pictures are refused.
    """

    frames: tuple[Any, ...] = ()
    progress: bool = True
    max_megapixels: float = MAX_MEGAPIXELS


class SplitBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders. A subclass defines the constants and :meth:`frame_objects`."""

    VERSION = tfds.core.Version("1.1.0")  # in the fingerprint: records of another version are not used
    DESCRIPTION = ""
    HOMEPAGE = ""
    #: shape and dtype of what each object has.
    OBJECT_FEATURES: ObjectFeatures = {}
    _boxes_cut = 0

    def frame_objects(self, frame: Any, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
        """The labels of a frame: arrays [N, ...] by the names of ``OBJECT_FEATURES``."""
        raise NotImplementedError("a subclass defines frame_objects")

    def cut_boxes(self, boxes: np.ndarray, image_size: tuple[int, int], path: Path | None) -> np.ndarray:
        """Boxes of a label file, cut to the image; a subclass calls it. See ``edges.cut_to_image``."""
        boxes, count = cut_to_image(boxes, image_size, path)
        self._boxes_cut += count
        return boxes

    def warn_of_cut_boxes(self) -> None:
        """Says how many boxes were cut where this builder has written records; TFDS silences what writes."""
        if self._boxes_cut:
            logging.warning(
                "%s: boxes that reached over the edge of their image by up to a pixel were cut: %d",
                self.builder_config.name,
                self._boxes_cut,
            )

    def _info(self) -> tfds.core.DatasetInfo:
        objects = {
            name: tfds.features.Tensor(shape=shape, dtype=dtype)
            for name, (shape, dtype) in self.OBJECT_FEATURES.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
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
        problems = Problems()
        for key, frame in enumerate(bar):
            with problems.collect():
                image, size = encoded_image(frame.image_path, config.max_megapixels)
                objects = self.frame_objects(frame, size)
                yield (
                    key,
                    {
                        "image": io.BytesIO(image),
                        "image_id": frame.image_id,
                        "image_size": np.array(size, np.int32),
                        "objects": {
                            name: objects[name].astype(dtype)
                            for name, (_, dtype) in self.OBJECT_FEATURES.items()
                        },
                    },
                )
        problems.raise_any()


def fingerprint(title: str, paths: Iterable[Path | None]) -> str:
    """12 hex digits over a title and the name, size and time of each file; None is passed over."""
    digest = hashlib.sha256(f"{title}\n".encode())
    for path in paths:
        if path is not None:
            state = path.stat()
            digest.update(f"{path.parent.name}/{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def parse_record(
    features: tfds.features.FeaturesDict, attributes: tuple[str, ...], serialized: tf.Tensor
) -> Sample:
    """A record of a :class:`SplitBuilder` to a sample; its ``image`` is the encoded file, a string.

    Without a stored ``ignore`` every object is one to train on.
    """
    record = features.deserialize_example(serialized, decoders={"image": tfds.decode.SkipDecoding()})
    objects = record["objects"]
    classes = objects["classes"]
    return {
        "image": record["image"],
        "boxes": objects["boxes"],  # N x 4
        "classes": classes,  # N
        "ignore": objects["ignore"] if "ignore" in objects else tf.zeros_like(classes, tf.bool),  # N
        "image_id": record["image_id"],
        "image_size": record["image_size"],  # 2
        "attributes": {name: objects[name] for name in attributes},
    }
