"""KITTI label and result folders (one text file a frame) to flat arrays and back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fgfi_tf.data import kitti_text, text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.kitti_types import (
    NO_ALPHA,
    TYPE_NAMES,
    Detections,
    Labels,
    check_frame_ids,
)


def read_split(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The frame ids of a split file, one a line; see ``text_files.read_ids``.

    Raises:
        UserError: the file is absent or empty, names a frame twice, or holds a line that is no id.
    """
    return tuple(text_files.read_ids(path))


def list_frames(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The frame ids of all ``*.txt`` files of a folder that are not hidden, sorted.

    Raises:
        UserError: the folder is absent or holds no text file.
    """
    files = _check_folder(folder).glob("*.txt")
    names = sorted(path.stem for path in files if not text_files.is_hidden(path))
    if not names:
        raise UserError(f"{folder}: holds no text files (NNNNNN.txt, one a frame)")
    return tuple(names)


def read_labels(folder: str | os.PathLike[str], frame_ids: Iterable[str]) -> Labels:
    """The label files ``folder/<frame id>.txt`` of these frames.

    Raises:
        UserError: the folder is absent; files that are absent or hold a malformed line or an unknown type
            (the message names up to 20 of them).
    """
    frame_ids = check_frame_ids(frame_ids)
    folder = _check_folder(folder)
    frame, kind, values = kitti_text.read(folder, frame_ids, kitti_text.LABEL_FIELDS, hint=_hint(folder))
    return Labels(
        frame_ids,
        frame,
        kind,
        values[:, 3:7].copy(),
        values[:, 2].copy(),
        values[:, 0].copy(),
        values[:, 1].copy(),
    )


def read_detections(
    folder: str | os.PathLike[str], frame_ids: Iterable[str], allow_missing: bool = False
) -> Detections:
    """The result files ``folder/<frame id>.txt`` of these frames.

    Args:
        folder: where the files lie; files of other frames are not looked at.
        frame_ids: the frames to read.
        allow_missing: an absent file counts as a frame without detections.

    Raises:
        UserError: as :func:`read_labels`.
    """
    frame_ids = check_frame_ids(frame_ids)
    folder = _check_folder(folder)
    hint = _hint(folder) or " (--allow_missing counts it as a frame without detections)"
    frame, kind, values = kitti_text.read(folder, frame_ids, kitti_text.RESULT_FIELDS, allow_missing, hint)
    return Detections(
        frame_ids, frame, kind, values[:, 3:7].copy(), values[:, 2].copy(), values[:, 14].copy()
    )


def write_detections(folder: str | os.PathLike[str], detections: Detections) -> None:
    """Writes :func:`result_files` into a folder, over what is there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in result_files(detections).items():
        (folder / name).write_text(text)


def result_files(detections: Detections) -> dict[str, str]:
    """Name -> text of one result file a frame, as the 2019 reference wrote, "" where nothing was found.

    A line is ``Type -1 -1 alpha x1 y1 x2 y2 0 0 0 0 0 0 0 score`` with alpha 0.0 where there is
    none. Numbers are written with as many digits as doubles need: what is read back is equal.
    """
    alphas = np.where(detections.alpha == NO_ALPHA, 0.0, detections.alpha).tolist()
    rows = zip(
        detections.type.tolist(), alphas, detections.boxes.tolist(), detections.scores.tolist(), strict=True
    )
    lines = [
        f"{TYPE_NAMES[kind]} -1 -1 {alpha!r} {x1!r} {y1!r} {x2!r} {y2!r} 0 0 0 0 0 0 0 {score!r}\n"
        for kind, alpha, (x1, y1, x2, y2), score in rows
    ]
    ends = np.searchsorted(detections.frame, np.arange(len(detections.frame_ids)), side="right").tolist()
    return {
        f"{frame_id}.txt": "".join(lines[start:end])
        for frame_id, start, end in zip(detections.frame_ids, [0, *ends], ends, strict=False)
    }


def _check_folder(folder: str | os.PathLike[str]) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (it must hold NNNNNN.txt, one a frame)")
    return folder


def _hint(folder: Path) -> str:
    inner = [name for name in ("data", "label_2") if (folder / name).is_dir()]
    return f" (the folder has {inner[0]}/ in it: give {folder / inner[0]})" if inner else ""
