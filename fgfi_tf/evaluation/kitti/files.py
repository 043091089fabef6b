"""KITTI label and result folders (one text file a frame) to flat arrays and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fgfi_tf.data import kitti_text, text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import Boxes, check_unique

TYPE_NAMES = kitti_text.CLASS_NAMES


def list_frames(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The frame ids of all ``*.txt`` files of a folder and its subfolders that are not hidden, sorted.

    Raises:
        UserError: the folder is absent or holds no text file.
    """
    folder = _check_folder(folder)
    names = text_files.ids_below(folder, ".txt")
    if not names or (_hint(folder) and all("/" in name for name in names)):
        raise UserError(f"{folder}: holds no text files (NNNNNN.txt, one a frame){_hint(folder)}")
    return names


def read_labels(
    folder: str | os.PathLike[str], frame_ids: Iterable[str], class_names: Sequence[str] = TYPE_NAMES
) -> Boxes:
    """The label files ``folder/<frame id>.txt`` of these frames.

    Raises:
        UserError: the folder is absent; files that are absent or hold a malformed line or an unknown type
            (the message names up to 20 of them).
    """
    frame_ids = check_unique(frame_ids)
    folder = _check_folder(folder)
    frame, kind, values = kitti_text.read(
        folder, frame_ids, kitti_text.LABEL_FIELDS, hint=_hint(folder), class_names=class_names
    )
    columns = {name: values[:, i].copy() for i, name in enumerate(("truncation", "occlusion", "alpha"))}
    return Boxes(frame_ids, tuple(class_names), frame, kind, values[:, 3:7].copy(), columns=columns)


def read_detections(
    folder: str | os.PathLike[str],
    frame_ids: Iterable[str],
    allow_missing: bool = False,
    class_names: Sequence[str] = TYPE_NAMES,
) -> Boxes:
    """The result files ``folder/<frame id>.txt`` of these frames.

    Args:
        folder: where the files lie; files of other frames are not looked at.
        frame_ids: the frames to read.
        allow_missing: an absent file counts as a frame without detections.
        class_names: the known classes, in any letter case.

    Raises:
        UserError: as :func:`read_labels`.
    """
    frame_ids = check_unique(frame_ids)
    folder = _check_folder(folder)
    hint = _hint(folder) or " (--allow_missing counts it as a frame without detections)"
    frame, kind, values = kitti_text.read(
        folder, frame_ids, kitti_text.RESULT_FIELDS, allow_missing, hint, class_names
    )
    boxes, scores, alpha = values[:, 3:7].copy(), values[:, 14].copy(), values[:, 2].copy()
    return Boxes(frame_ids, tuple(class_names), frame, kind, boxes, scores, {"alpha": alpha})


def _check_folder(folder: str | os.PathLike[str]) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (it must hold NNNNNN.txt, one a frame)")
    return folder


def _hint(folder: Path) -> str:
    inner = [name for name in ("data", "label_2") if (folder / name).is_dir()]
    return f" (the folder has {inner[0]}/ in it: give {folder / inner[0]})" if inner else ""
