"""KITTI objects and detections of many frames as flat arrays.

Everything that is evaluated is held in a few arrays over all boxes of all frames (sorted by
frame, file order within a frame), not in a list per frame: the evaluation is array operations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from fgfi_tf.data import kitti_text
from fgfi_tf.errors import UserError

TYPE_NAMES, TYPE_INDEX = kitti_text.CLASS_NAMES, kitti_text.CLASS_INDEX
# The three evaluated classes come first: a detector's class index is its index here.
CLASS_NAMES = TYPE_NAMES[:3]
VAN, PERSON_SITTING, DONT_CARE = (TYPE_INDEX[name] for name in ("van", "person_sitting", "dontcare"))
NO_ALPHA = -10.0  # KITTI's "no observation angle"

_T = TypeVar("_T", bound="FrameBoxes")


@dataclasses.dataclass(frozen=True)
class FrameBoxes:
    """Boxes of many frames.

    Attributes:
        frame_ids: names of all frames, those without a box included.
        frame: int64 [N], index into ``frame_ids``, never decreasing.
        type: int64 [N], index into ``TYPE_NAMES``.
        boxes: float64 [N, 4], (x1, y1, x2, y2) in pixels of the image; width is x2 - x1.
        alpha: float64 [N], observation angle in radians; -10 where there is none.
    """

    frame_ids: tuple[str, ...]
    frame: np.ndarray
    type: np.ndarray
    boxes: np.ndarray
    alpha: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def heights(self) -> np.ndarray:
        """float64 [N], y2 - y1 in pixels."""
        return self.boxes[:, 3] - self.boxes[:, 1]

    def take(self: _T, rows: np.ndarray) -> _T:
        """The boxes of ``rows`` (indices or a mask, in rising order) of the same frames."""
        arrays = {name: getattr(self, name)[rows] for name in _array_names(type(self))}
        return dataclasses.replace(self, **arrays)

    def select(self: _T, frame_ids: Iterable[str], allow_missing: bool = False) -> _T:
        """The boxes of these frames, in this order.

        Raises:
            UserError: a frame is named twice, or is not held here (unless ``allow_missing``,
                which takes such a frame as one without boxes).
        """
        frame_ids = check_frame_ids(frame_ids)
        if frame_ids == self.frame_ids:
            return self
        held = {name: index for index, name in enumerate(self.frame_ids)}
        missing = [name for name in frame_ids if name not in held]
        if missing and not allow_missing:
            raise UserError(f"frame {missing[0]} has no {self.noun} ({len(missing)} such frames)")
        index = np.array([held.get(name, -1) for name in frame_ids], np.int64)  # [F]
        start = np.append(np.searchsorted(self.frame, np.arange(len(self.frame_ids))), len(self))
        start = np.append(start, len(self))  # index -1 reads the empty range at the end
        counts = start[index + 1] - start[index]
        counts[index < 0] = 0
        offset = np.repeat(start[index] - (np.cumsum(counts) - counts), counts)
        taken = self.take(offset + np.arange(counts.sum()))
        return dataclasses.replace(
            taken, frame_ids=frame_ids, frame=np.repeat(np.arange(len(frame_ids)), counts)
        )

    @property
    def noun(self) -> str:
        """What the rows are, for messages."""
        return "boxes"


@dataclasses.dataclass(frozen=True)
class Detections(FrameBoxes):
    """Detections of many frames: :class:`FrameBoxes` and ``scores`` float64 [N]."""

    scores: np.ndarray

    @property
    def noun(self) -> str:
        """What the rows are, for messages."""
        return "detections"

    @classmethod
    def from_frames(
        cls, frames: Mapping[str, Mapping[str, Any]], class_names: Sequence[str] = CLASS_NAMES
    ) -> Detections:
        """From what a detector gives: frame id -> {boxes [n,4], scores [n], classes [n]}.

        ``classes`` are indices into ``class_names`` or names (any letter case); ``alpha`` [n] is
        optional. A frame without detections has arrays of length 0.

        Raises:
            UserError: arrays of different length, a number that is not finite, a box with
                x2 < x1 or y2 < y1, an unknown class; names the frame.
        """
        return cls(**_stack(frames, class_names, {"scores": None, "alpha": NO_ALPHA}))


@dataclasses.dataclass(frozen=True)
class Labels(FrameBoxes):
    """Labelled objects, DontCare areas included.

    Attributes:
        truncation: float64 [N], 0 to 1 (-1 for DontCare).
        occlusion: float64 [N], 0 visible, 1 partly, 2 largely, 3 unknown (-1 for DontCare).
    """

    truncation: np.ndarray
    occlusion: np.ndarray

    @property
    def noun(self) -> str:
        """What the rows are, for messages."""
        return "labels"

    @classmethod
    def from_frames(
        cls, frames: Mapping[str, Mapping[str, Any]], class_names: Sequence[str] = TYPE_NAMES
    ) -> Labels:
        """From frame id -> {boxes [n,4], classes [n], truncation [n], occlusion [n], alpha [n]}.

        ``classes`` as in :meth:`Detections.from_frames`; truncation and occlusion default to 0.

        Raises:
            UserError: as :meth:`Detections.from_frames`.
        """
        columns = {"truncation": 0.0, "occlusion": 0.0, "alpha": NO_ALPHA}
        return cls(**_stack(frames, class_names, columns))


def check_frame_ids(frame_ids: Iterable[str]) -> tuple[str, ...]:
    """The ids as a tuple; raises UserError where one occurs twice."""
    frame_ids = tuple(frame_ids)
    if len(set(frame_ids)) != len(frame_ids):
        seen: set[str] = set()
        twice = next(name for name in frame_ids if name in seen or seen.add(name))
        raise UserError(f"frame {twice} is listed more than once")
    return frame_ids


def _array_names(cls: type[FrameBoxes]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.name != "frame_ids"]


def _stack(
    frames: Mapping[str, Mapping[str, Any]], class_names: Sequence[str], columns: dict[str, float | None]
) -> dict[str, Any]:
    """Concatenates per-frame arrays; ``columns`` maps a column to its default (None: required)."""
    frame_ids = check_frame_ids(frames)
    per_frame = [_check_frame(name, frames[name], class_names, columns) for name in frame_ids]
    counts = [len(arrays["boxes"]) for arrays in per_frame]
    stacked: dict[str, Any] = {
        key: np.concatenate([arrays[key] for arrays in per_frame])
        if per_frame
        else np.zeros((0, 4) if key == "boxes" else 0)
        for key in ("boxes", "type", *columns)
    }
    stacked["type"] = stacked["type"].astype(np.int64)
    return {"frame_ids": frame_ids, "frame": np.repeat(np.arange(len(frame_ids)), counts), **stacked}


def _check_frame(
    frame_id: str, arrays: Mapping[str, Any], class_names: Sequence[str], columns: dict[str, float | None]
) -> dict[str, np.ndarray]:
    boxes = np.asarray(arrays["boxes"], np.float64)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"frame {frame_id}: boxes must be [n, 4], not {list(boxes.shape)}")
    checked = {"boxes": boxes, "type": _type_indices(frame_id, arrays["classes"], class_names)}
    for key, default in columns.items():
        if default is not None and arrays.get(key) is None:
            checked[key] = np.full(len(boxes), default)
        else:
            checked[key] = np.asarray(arrays[key], np.float64)
    for key, value in checked.items():
        if len(value) != len(boxes):
            raise UserError(f"frame {frame_id}: {len(boxes)} boxes but {len(value)} {key}")
        if not np.isfinite(value).all():
            raise UserError(f"frame {frame_id}: {key} holds a value that is not finite")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise UserError(f"frame {frame_id}: a box has x2 < x1 or y2 < y1")
    return checked


def _type_indices(frame_id: str, classes: Any, class_names: Sequence[str]) -> np.ndarray:
    names = list(np.asarray(classes).reshape(-1).tolist())
    indices = np.zeros(len(names), np.int64)
    for row, name in enumerate(names):
        if not isinstance(name, str | bytes):
            if not 0 <= name < len(class_names):
                raise UserError(f"frame {frame_id}: class {name} is not below {len(class_names)}")
            name = class_names[int(name)]
        name = name.decode() if isinstance(name, bytes) else name
        if name.lower() not in TYPE_INDEX:
            raise UserError(f"frame {frame_id}: unknown class {name!r} (known: {', '.join(TYPE_NAMES)})")
        indices[row] = TYPE_INDEX[name.lower()]
    return indices
