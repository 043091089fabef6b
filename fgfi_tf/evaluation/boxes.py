"""The table of boxes that every evaluation is over: ground truth or detections of many images, as arrays."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fgfi_tf.data.coco_json import CocoIds
from fgfi_tf.errors import UserError

Frame = Mapping[str, np.ndarray]

NO_ALPHA = -10.0  # KITTI's "no observation angle"
_NO_COLUMNS = ("image_id", "image_size", "boxes", "classes", "scores", "coco_ids")
_DEFAULTS = {"alpha": NO_ALPHA}  # of rows without a value; 0 in every other column


class Corners(NamedTuple):
    """How the corners of a box are counted: what is added to 0-based inclusive pixel corners."""

    low: float
    high: float


#: 0-based inclusive pixels, the convention of samples and detectors (width = xmax - xmin + 1).
PIXELS = Corners(0, 0)
#: 1-based inclusive pixels, as in PASCAL VOC's files.
ONE_BASED = Corners(1, 1)
#: Edges of the pixels, as x and x + width of COCO's and WIDER FACE's files.
EDGES = Corners(0, 1)


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes of a list of images, in any order of rows; equal scores rank by row.

    Attributes:
        image_ids: names of all images, those without a box included.
        class_names: what ``classes`` indexes.
        image: int64 [N], index into ``image_ids``.
        classes: int64 [N]; -1 for a class that is not in ``class_names``.
        boxes: float64 [N, 4], (xmin, ymin, xmax, ymax) in pixels of the image file.
        scores: float64 [N] of detections; None for ground truth.
        columns: name -> [N], what a protocol needs beside (``difficult``, ``crowd``, ``occlusion`` ...).
        corners: how ``boxes`` counts corners.
        image_sizes: int64 [images, 2] (height, width) where they are known.
        coco_ids: ids of images and classes, of boxes that come from COCO's files.
    """

    image_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    image: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    corners: Corners = PIXELS
    image_sizes: np.ndarray | None = None
    coco_ids: CocoIds | None = None

    @classmethod
    def of_ground_truth(
        cls, frames: Iterable[Frame] | Mapping[str, Frame], class_names: Sequence[str]
    ) -> Boxes:
        """From ``PreparedDataset.labels()``, or image id -> the same without ``image_id``.

        A frame has ``boxes`` [n,4] in :data:`PIXELS`, ``classes`` [n], indices into ``class_names`` or names
        in any letter case, perhaps ``image_size``; every other array of n rows becomes a column. Raises
        UserError for arrays of different length, a number that is not finite, an unknown class, or an image
        named twice.
        """
        return _stack(frames, tuple(class_names), scored=False)

    @classmethod
    def of_detections(cls, frames: Mapping[str, Frame], class_names: Sequence[str]) -> Boxes:
        """From what a detector gives: image id -> ``boxes`` [n,4], ``scores`` [n], ``classes`` [n].

        Raises UserError as :meth:`of_ground_truth`.
        """
        return _stack(frames, tuple(class_names), scored=True)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def heights(self) -> np.ndarray:
        """float64 [N], ymax - ymin."""
        return self.boxes[:, 3] - self.boxes[:, 1]

    @property
    def noun(self) -> str:
        """What the rows are, for messages."""
        return "labels" if self.scores is None else "detections"

    def column(self, name: str, default: float | bool = 0.0) -> np.ndarray:
        """A column [N], all ``default`` where the table has none of the name."""
        found = self.columns.get(name)
        return np.full(len(self), default) if found is None else found

    def flag(self, *names: str) -> np.ndarray:
        """bool [N]: the first of these columns that there is; False without one."""
        found = next((self.columns[name] for name in names if name in self.columns), None)
        return np.zeros(len(self), bool) if found is None else np.asarray(found, bool)

    def of_class(self, name: str) -> np.ndarray:
        """bool [N]: the rows of a class; letter case is not told apart."""
        return self.classes == _index_of(self.class_names, name, absent=-2)

    def names(self, rows: np.ndarray) -> list[str]:
        """The class names of rows (indices or a mask)."""
        return [self.class_names[index] if index >= 0 else "other" for index in self.classes[rows].tolist()]

    def by_score(self, wanted: np.ndarray) -> np.ndarray:
        """The rows of a mask of detections, best score first, in their order among equals."""
        rows = np.flatnonzero(wanted)
        return rows[np.argsort(-self.scores[rows], kind="stable")]

    def rows(self) -> Iterator[tuple[int, int, list[float], float]]:
        """(image, class, corners, score) of each detection, as Python's numbers."""
        columns = (self.image, self.classes, self.boxes, self.scores)
        return zip(*(column.tolist() for column in columns), strict=True)

    def take(self, rows: np.ndarray) -> Boxes:
        """The boxes of ``rows`` (indices or a mask) of the same images."""
        return dataclasses.replace(
            self,
            image=self.image[rows],
            classes=self.classes[rows],
            boxes=self.boxes[rows],
            scores=None if self.scores is None else self.scores[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    def select(self, image_ids: Iterable[str], allow_missing: bool = False) -> Boxes:
        """The boxes of these images, whose order is the new one; rows keep theirs.

        Raises UserError where an image is named twice, or is not held here; ``allow_missing`` takes it as one
        without boxes.
        """
        image_ids = check_unique(image_ids)
        if image_ids == self.image_ids:
            return self
        held = {name: index for index, name in enumerate(self.image_ids)}
        missing = [name for name in image_ids if name not in held]
        if missing and not allow_missing:
            raise UserError(f"image {missing[0]} has no {self.noun} ({len(missing)} such images)")
        place = {name: index for index, name in enumerate(image_ids)}
        of_image = np.array([place.get(name, -1) for name in self.image_ids], np.int64)
        image = of_image[self.image] if len(self) else self.image
        rows = np.flatnonzero(image >= 0)
        known = self.image_sizes is not None and not missing
        sizes = self.image_sizes[[held[name] for name in image_ids]] if known else None
        return dataclasses.replace(self.take(rows), image_ids=image_ids, image=image[rows], image_sizes=sizes)

    def by_image(self) -> Boxes:
        """The rows image by image, as they are within an image."""
        if (np.diff(self.image) >= 0).all():
            return self
        return self.take(np.argsort(self.image, kind="stable"))

    def with_classes(self, class_names: Sequence[str]) -> Boxes:
        """``classes`` as indices into other names, -1 where a class is none of them."""
        if tuple(class_names) == self.class_names:
            return self
        new = np.array([*(_index_of(class_names, name) for name in self.class_names), -1], np.int64)
        return dataclasses.replace(self, class_names=tuple(class_names), classes=new[self.classes])

    def to(self, corners: Corners) -> Boxes:
        """The same boxes with corners counted in another way."""
        if corners == self.corners:
            return self
        low, high = corners.low - self.corners.low, corners.high - self.corners.high
        return dataclasses.replace(self, boxes=self.boxes + (low, low, high, high), corners=corners)

    def check_order(self) -> Boxes:
        """The table itself. Raises UserError for a box with x2 < x1 or y2 < y1."""
        wrong = np.flatnonzero((self.boxes[:, 2:] < self.boxes[:, :2]).any(axis=1))
        if len(wrong):
            raise UserError(f"image {self.image_ids[self.image[wrong[0]]]}: a box has x2 < x1 or y2 < y1")
        return self


def check_unique(image_ids: Iterable[str]) -> tuple[str, ...]:
    """The ids as a tuple; raises UserError where one occurs twice."""
    image_ids = tuple(image_ids)
    twice = [name for name, count in collections.Counter(image_ids).items() if count > 1]
    if twice:
        raise UserError(f"image {twice[0]} is listed more than once")
    return image_ids


def _stack(
    frames: Iterable[Frame] | Mapping[str, Frame], class_names: tuple[str, ...], scored: bool
) -> Boxes:
    if isinstance(frames, Mapping):
        frames = [{**frame, "image_id": name} for name, frame in frames.items()]
    frames = list(frames)
    image_ids = check_unique(frame["image_id"] for frame in frames)
    boxes = [_boxes(name, frame["boxes"]) for name, frame in zip(image_ids, frames, strict=True)]
    image = np.repeat(np.arange(len(frames)), [len(own) for own in boxes])
    columns: dict[str, np.ndarray] = {"boxes": np.concatenate([np.zeros((0, 4)), *boxes])}
    for key in [*["scores"] * scored, *_column_names(frames), "classes"]:
        parts = []
        for name, frame, own in zip(image_ids, frames, boxes, strict=True):
            values = frame.get(key)
            part = np.full(len(own), _DEFAULTS.get(key, 0.0)) if values is None else np.asarray(values)
            part = _class_indices(name, frame[key], class_names) if key == "classes" else part
            if len(part) != len(own):
                raise UserError(f"image {name}: {len(own)} boxes but {len(part)} {key}")
            parts.append(part)
        columns[key] = _concatenated(parts)
    for key, values in columns.items():
        if not np.isfinite(values).all():
            row = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0]
            raise UserError(f"image {image_ids[image[row]]}: {key} holds a value that is not finite")
    sizes = [frame.get("image_size") for frame in frames]
    return Boxes(
        image_ids,
        class_names,
        image,
        columns.pop("classes").astype(np.int64),
        columns.pop("boxes"),
        columns.pop("scores", None),
        columns,
        image_sizes=None if any(size is None for size in sizes) else np.array(sizes).reshape(-1, 2),
        coco_ids=_coco_ids(image_ids, [frame.get("coco_ids") for frame in frames]),
    )


def _coco_ids(image_ids: Sequence[str], found: Sequence[tuple | None]) -> CocoIds | None:
    """Those of all images; None where one has none, or those of several files do not go together."""
    if not found or any(one is None for one in found):
        return None
    images = {name: number for name, (number, _) in zip(image_ids, found, strict=True)}
    files = {id(categories): categories for _, categories in found}.values()
    agree = all(categories == found[0][1] for categories in files)
    return CocoIds(images, found[0][1]) if agree and len(set(images.values())) == len(images) else None


def _column_names(frames: Sequence[Frame]) -> list[str]:
    """The keys of numbers and flags of boxes, in order."""
    names = dict.fromkeys(
        key
        for frame in frames
        for key, value in frame.items()
        if key not in _NO_COLUMNS and np.ndim(value) == 1 and np.asarray(value).dtype.kind in "biuf"
    )
    return list(names)


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One column; numbers as float64, flags as bool."""
    flags = any(part.dtype == bool for part in parts)
    flags = flags and all(part.dtype == bool or not part.size for part in parts)
    kind = bool if flags else np.float64
    return np.concatenate([np.zeros(0, kind), *(part.astype(kind).reshape(-1) for part in parts)])


def _boxes(image_id: str, boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise UserError(f"image {image_id}: boxes must be [n, 4], not {list(boxes.shape)}")
    return boxes.reshape(-1, 4)


def _index_of(class_names: Sequence[str], name: str, absent: int = -1) -> int:
    """The place of a class; letter case is told apart only where two names differ in nothing else."""
    if name in class_names:
        return tuple(class_names).index(name)
    return next((i for i, known in enumerate(class_names) if known.casefold() == name.casefold()), absent)


def _class_indices(image_id: str, classes: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """int64 [n] of indices or names."""
    values = np.asarray(classes).reshape(-1)
    if values.dtype.kind in "SUO":
        names = [name.decode() if isinstance(name, bytes) else name for name in values.tolist()]
        found = np.array([_index_of(class_names, name) for name in names], np.int64)
        if (found < 0).any():
            unknown = names[int(np.argmin(found))]
            raise UserError(f"image {image_id}: unknown class {unknown!r} (known: {', '.join(class_names)})")
        return found
    if len(values) and not 0 <= values.min() <= values.max() < len(class_names):
        raise UserError(f"image {image_id}: a class is not in 0 .. {len(class_names) - 1}")
    return values.astype(np.int64)
