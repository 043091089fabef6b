"""KITTI label and result folders (one text file a frame) to flat arrays and back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import kitti_text, text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import Boxes, check_unique

TYPE_NAMES = kitti_text.CLASS_NAMES


def list_frames(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The frame ids of all ``*.txt`` files of a folder and its subfolders that are not hidden, sorted.

    Raises UserError: the folder is absent or holds no text file.
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

    Raises UserError: the folder is absent; files that are absent or hold a malformed line or an unknown type
    (the message names up to 20 of them).
    """
    table, values = _read(folder, frame_ids, kitti_text.LABEL_FIELDS, class_names)
    columns = {name: values[:, i].copy() for i, name in enumerate(("truncation", "occlusion", "alpha"))}
    return dataclasses.replace(table, columns=columns)


def read_detections(
    folder: str | os.PathLike[str],
    frame_ids: Iterable[str],
    allow_missing: bool = False,
    class_names: Sequence[str] = TYPE_NAMES,
) -> Boxes:
    """The result files ``folder/<frame id>.txt`` of these frames; those of others are not looked at.

    ``allow_missing``: an absent file counts as a frame without detections. Raises UserError as
    :func:`read_labels`.
    """
    hint = " (--allow_missing counts it as a frame without detections)"
    table, values = _read(folder, frame_ids, kitti_text.RESULT_FIELDS, class_names, allow_missing, hint)
    return dataclasses.replace(table, scores=values[:, 14].copy(), columns={"alpha": values[:, 2].copy()})


def _read(
    folder: str | os.PathLike[str],
    frame_ids: Iterable[str],
    fields: int,
    class_names: Sequence[str],
    allow_missing: bool = False,
    hint: str = "",
) -> tuple[Boxes, np.ndarray]:
    """The boxes of all lines, and the fields after the class [N, fields - 1]."""
    folder, frame_ids, class_names = _check_folder(folder), check_unique(frame_ids), tuple(class_names)
    hint = _hint(folder) or hint
    frame, names, values = kitti_text.read(folder, frame_ids, fields, class_names, allow_missing, hint)
    index = {name.lower(): place for place, name in enumerate(class_names)}
    kind = np.array([index[name.lower()] for name in names], np.int64)
    return Boxes(frame_ids, class_names, frame, kind, values[:, 3:7].copy()), values


def _check_folder(folder: str | os.PathLike[str]) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (it must hold NNNNNN.txt, one a frame)")
    return folder


def _hint(folder: Path) -> str:
    inner = [name for name in ("data", "label_2") if (folder / name).is_dir()]
    return f" (the folder has {inner[0]}/ in it: give {folder / inner[0]})" if inner else ""
