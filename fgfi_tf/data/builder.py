"""The one TFDS builder of every dataset that is read from files: one split in one state as TFRecords.

Images are stored in the order of the split, as ``images.encoded_image`` gives them. Classes are stored as the
labels name them: what is learnt of them is chosen when records are read (``classes``).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tqdm.auto import tqdm

from fgfi_tf.data.dataset import Dataset, Frame, first_of
from fgfi_tf.data.edges import boxes_in_image, outside
from fgfi_tf.data.images import MAX_MEGAPIXELS, encoded_image
from fgfi_tf.data.records import RawSplit, Sample, is_prepared, prepare_records, quiet_tfds
from fgfi_tf.errors import Problems, UserError

_SIZES = "image_sizes"  # of the records' metadata


@dataclasses.dataclass
class SplitConfig(tfds.core.BuilderConfig):
    """A split of a dataset; its name carries the fingerprint of the raw files."""

    frames: tuple[Frame, ...] = ()
    dataset: Dataset = dataclasses.field(default_factory=Dataset)
    progress: bool = True
    max_megapixels: float = MAX_MEGAPIXELS


class SplitBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes one split of any dataset."""

    VERSION = tfds.core.Version("2.0.0")  # in the fingerprint: records of another version are not used
    RELEASE_NOTES = {"2.0.0": "one builder for every dataset; classes by their names"}

    def __init__(self, **kwargs: Any):
        self.cut: dict[str, int] = {}  # image id -> boxes that were cut
        self.written = False
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        objects = {
            "boxes": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "label": tfds.features.ClassLabel(names=list(vocabulary(config.frames)) or ["none"]),
            "ignore": tfds.features.Tensor(shape=(), dtype=np.bool_),
            **{
                name: tfds.features.Tensor(shape=shape, dtype=dtype)
                for name, (shape, dtype) in config.dataset.attributes.items()
            },
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=config.dataset.description,
            homepage=config.dataset.homepage,
            disable_shuffling=True,  # the pipeline shuffles; evaluation needs the split's order
            metadata=tfds.core.MetadataDict({_SIZES: []}),
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
        index = {name: place for place, name in enumerate(vocabulary(config.frames))}
        sizes: list[list[int]] = []
        title, quiet = f"preparing {config.name}", not config.progress
        problems = Problems()
        for key, frame in enumerate(tqdm(config.frames, desc=title, unit="image", disable=quiet)):
            with problems.collect():
                image, size = encoded_image(frame.image_path, config.max_megapixels)
                boxes, cut = boxes_in_image(frame, size, config.dataset.cuts_boxes)
                if cut:
                    self.cut[frame.image_id] = cut
                sizes.append(list(map(int, size)))
                yield key, self._example(frame, image, size, boxes, index)
        problems.raise_any()
        self.info.metadata[_SIZES] = sizes
        self.written = True

    def _example(
        self, frame: Frame, image: bytes, size: Sequence[int], boxes: np.ndarray, index: dict
    ) -> dict:
        dataset = self.builder_config.dataset
        attributes, ignore = dataset.attributes, frame.ignore
        if dataset.cuts_boxes:
            ignore = ignore | outside(frame.boxes, size)
        return {
            "image": io.BytesIO(image),
            "image_id": frame.image_id,
            "image_size": np.array(size, np.int32),
            "objects": {
                "boxes": boxes.astype(np.float32),
                "label": np.array([index[name] for name in frame.names], np.int64),
                "ignore": ignore,
                **{
                    name: np.asarray(frame.attributes[name], dtype) for name, (_, dtype) in attributes.items()
                },
            },
        }

    def summary(self) -> str:
        """What was put right in the labels of the frames that this builder has written, "" where nothing."""
        notes: dict[str, list[str]] = collections.defaultdict(list)  # the image of each time
        for image_id, count in self.cut.items():
            notes["boxes that reached over the edge of their image, cut"] += [image_id] * count
        for frame in self.builder_config.frames if self.written else ():
            for note in frame.notes:
                notes[note].append(frame.image_id)
        return "; ".join(
            f"{note}: {len(ids)}, in {first_of(list(dict.fromkeys(ids)))}" for note, ids in notes.items()
        )


def prepare(
    dataset: Dataset,
    frames: Sequence[Frame],
    split: str,
    folder: Path,
    progress: bool = True,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> RawSplit:
    """The records of a split's ``frames`` in ``folder``, written where they are not there yet.

    Those of other labels or another state of the pictures (names, sizes or times) are never used.

    Raises UserError: images that cannot be read, boxes outside of them, sizes that are not theirs, up to 20;
    a folder that cannot be written.
    """
    prefix = re.sub(r"[^A-Za-z0-9]", "_", split) or "all"
    name = f"{prefix}-{fingerprint(f'{SplitBuilder.VERSION} {split}', frames)}"
    config = SplitConfig(
        name=name, frames=tuple(frames), dataset=dataset, progress=progress, max_megapixels=max_megapixels
    )
    with quiet_tfds():
        builder = SplitBuilder(data_dir=folder, config=config)
    if not is_prepared(builder):
        _name_outdated(Path(builder.data_dir).parent.parent, prefix)
    paths = prepare_records(builder)
    if builder.summary():
        logging.warning("%s: %s", split, builder.summary())  # once: TFDS silences what writes
    sizes = builder.info.metadata[_SIZES]
    if len(sizes) != len(frames):
        raise UserError(f"{builder.data_dir}: the prepared records are damaged; delete it to prepare anew")
    return RawSplit(
        paths=paths,
        parse=functools.partial(parse_record, builder.info.features, tuple(dataset.attributes)),
        vocabulary=vocabulary(frames),
        labels=_labels(frames, sizes),
        files=[(frame.image_path, frame.label_path) for frame in frames],
    )


def vocabulary(frames: Sequence[Frame]) -> tuple[str, ...]:
    """Every class name that the labels hold, sorted."""
    return tuple(sorted({name for frame in frames for name in frame.names}))


def fingerprint(title: str, frames: Sequence[Frame]) -> str:
    """12 hex digits over a title, the name, size and time of each picture file, and the labels themselves."""
    digest = hashlib.sha256(f"{title}\n".encode())
    for frame in frames:
        path, state = frame.image_path, frame.image_path.stat()
        names = "\n".join(frame.names)
        digest.update(f"{frame.image_id}\n{path.parent.name}/{path.name} {state.st_size} ".encode())
        digest.update(f"{state.st_mtime_ns}\n{frame.image_size}\n{names}\n".encode())
        for column in (frame.boxes, frame.ignore, *map(np.asarray, frame.attributes.values())):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:12]


def parse_record(
    features: tfds.features.FeaturesDict, attributes: tuple[str, ...], serialized: tf.Tensor
) -> Sample:
    """A record of a :class:`SplitBuilder`, see ``RawSplit``; its ``image`` is the encoded file, a string."""
    record = features.deserialize_example(serialized, decoders={"image": tfds.decode.SkipDecoding()})
    objects = record["objects"]
    return {
        "image": record["image"],
        "boxes": objects["boxes"],  # N x 4
        "label": objects["label"],  # N
        "ignore": objects["ignore"],  # N
        "image_id": record["image_id"],
        "image_size": record["image_size"],  # 2
        "attributes": {name: objects[name] for name in attributes},
    }


def _labels(frames: Sequence[Frame], sizes: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    index = {name: place for place, name in enumerate(vocabulary(frames))}
    return [
        {
            "image_id": frame.image_id,
            "image_size": np.array(size, np.int32),
            "boxes": frame.boxes,
            "label": np.array([index[name] for name in frame.names], np.int64),
            "ignore": frame.ignore,
            **({} if frame.coco_ids is None else {"coco_ids": frame.coco_ids}),
            **frame.attributes,
        }
        for frame, size in zip(frames, sizes, strict=True)
    ]


def _name_outdated(folder: Path, prefix: str) -> None:
    """Says which prepared records of a split of that name belong to another state of the raw files.

    Nothing tells whether they are of this data set: others, and other shares of it, may be prepared there.
    """
    for other in sorted(folder.glob(f"{prefix}-*")):
        if any(other.glob("*/dataset_info.json")):
            text = (
                "the raw files, or how they are read, have changed since %s was prepared, or it is of other "
                "data: delete it if nobody uses it"
            )
            logging.warning(text, other)
