"""VOC objects and detections of many images as flat arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fgfi_tf.errors import UserError

Frame = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Truths:
    """The objects of a list of images.

    Attributes:
        image_ids: names of all images, those without objects included.
        class_names: what ``classes`` indexes.
        image: int64 [N], index into ``image_ids``.
        classes: int64 [N].
        boxes: float64 [N,4], (xmin, ymin, xmax, ymax), 1-based inclusive pixels as in the devkit's files.
        difficult: bool [N].
    """

    image_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    image: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray

    @classmethod
    def from_frames(cls, frames: Iterable[Mapping], class_names: Sequence[str]) -> Truths:
        """From frames with ``image_id``, ``boxes`` [n,4] (0-based), ``classes`` [n] and ``difficult`` [n]."""
        frames = list(frames)
        return cls(
            image_ids=check_unique(frame["image_id"] for frame in frames),
            class_names=tuple(class_names),
            image=np.repeat(np.arange(len(frames)), [len(f["classes"]) for f in frames]).astype(np.int64),
            classes=_join(frames, "classes", np.int64),
            boxes=_join(frames, "boxes", np.float64, 4) + 1.0,
            difficult=_join(frames, "difficult", np.bool_),
        )


@dataclasses.dataclass(frozen=True)
class Detections:
    """Detections of many images; equal scores rank by row.

    Attributes:
        image_ids: the images that ``image`` indexes.
        class_names: what ``classes`` indexes.
        image: int64 [N].
        classes: int64 [N].
        boxes: float64 [N,4], 1-based as in :class:`Truths`.
        scores: float64 [N].
    """

    image_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    image: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    @classmethod
    def from_frames(cls, frames: Mapping[str, Frame], class_names: Sequence[str]) -> Detections:
        """From what a detector gives: image id -> ``boxes`` [n,4] (0-based), ``scores`` [n], ``classes`` [n].

        Raises:
            UserError: arrays of different length, a class index out of range, a number that is not finite.
        """
        for image_id, frame in frames.items():
            _check(image_id, frame, len(class_names))
        values = list(frames.values())
        return cls(
            image_ids=tuple(frames),
            class_names=tuple(class_names),
            image=np.repeat(np.arange(len(values)), [len(f["scores"]) for f in values]).astype(np.int64),
            classes=_join(values, "classes", np.int64),
            boxes=_join(values, "boxes", np.float64, 4) + 1.0,
            scores=_join(values, "scores", np.float64),
        )

    def of_images(self, truths: Truths) -> Detections:
        """The same rows, with ``image`` an index into the images of ``truths``.

        Raises:
            UserError: an image that ``truths`` does not have, or other class names.
        """
        if self.class_names != truths.class_names[: len(self.class_names)]:  # ignored classes stand behind
            raise UserError(f"detections of {len(self.class_names)} other classes than the labels' classes")
        index = {name: number for number, name in enumerate(truths.image_ids)}
        used = np.unique(self.image)
        unknown = [self.image_ids[i] for i in used if self.image_ids[i] not in index]
        if unknown:
            raise UserError(
                f"detections of image {unknown[0]}, which has no labels ({len(unknown)} such images)"
            )
        of_image = np.array([index.get(name, -1) for name in self.image_ids], np.int64)
        image = of_image[self.image] if len(self.image) else self.image
        return dataclasses.replace(self, image_ids=truths.image_ids, image=image)

    def rounded(self) -> Detections:
        """As the published result files hold them: scores with 3 decimals, coordinates with 1."""
        return dataclasses.replace(self, scores=_decimals(self.scores, 3), boxes=_decimals(self.boxes, 1))


def check_unique(image_ids: Iterable[str]) -> tuple[str, ...]:
    """The ids as a tuple; raises UserError where one occurs twice."""
    image_ids, seen = tuple(image_ids), set()
    for name in image_ids:
        if name in seen:
            raise UserError(f"image {name} is listed more than once")
        seen.add(name)
    return image_ids


def _decimals(values: np.ndarray, digits: int) -> np.ndarray:
    """What printing with so many decimals and reading again gives (numpy's own rounding differs on ties)."""
    return np.array([float(f"{v:.{digits}f}") for v in values.reshape(-1)]).reshape(values.shape)


def _join(frames: Sequence[Frame], key: str, dtype: type, *shape: int) -> np.ndarray:
    parts = [np.asarray(frame[key], dtype).reshape(-1, *shape) for frame in frames]
    return np.concatenate(parts) if parts else np.zeros((0, *shape), dtype)


def _check(image_id: str, frame: Frame, n_classes: int) -> None:
    boxes, scores, classes = (np.asarray(frame[key]) for key in ("boxes", "scores", "classes"))
    if boxes.size != 4 * len(scores) or len(classes) != len(scores):
        raise UserError(
            f"image {image_id}: {boxes.size // 4} boxes, {len(scores)} scores and {len(classes)} classes"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise UserError(f"image {image_id}: a box or score is not finite")
    if len(classes) and not 0 <= classes.min() <= classes.max() < n_classes:
        raise UserError(f"image {image_id}: a class is not in 0 .. {n_classes - 1}")
