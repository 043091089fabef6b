"""The files of the WIDER FACE evaluation: the official .mat files, and result files in folders of events."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import wider_mat
from fgfi_tf.data.wider_mat import FACES_FILE, SETTING_FILE
from fgfi_tf.errors import Problems, UserError
from fgfi_tf.evaluation.boxes import EDGES, Boxes

__all__ = ["FACES_FILE", "SETTING_FILE", "read_detections", "read_ground_truth"]

CLASS_NAMES = ("face",)
_FIELDS = 5  # x y w h score


def read_ground_truth(folder: str | os.PathLike[str]) -> Boxes:
    """The four official validation files of a folder; see ``data.wider_mat.read_settings``."""
    faces = wider_mat.read_settings(Path(folder))
    columns = {
        name: np.concatenate([np.zeros(0, bool), *(one.columns[name] for one in faces)])
        for name in wider_mat.SETTINGS
    }
    return _table([one.image_id for one in faces], [one.boxes for one in faces], columns=columns)


def _table(
    image_ids: Sequence[str],
    xywh: Sequence[np.ndarray],
    scores: np.ndarray | None = None,
    columns: dict[str, np.ndarray] | None = None,
) -> Boxes:
    """From (x, y, w, h) [n, 4] of each image."""
    image = np.repeat(np.arange(len(xywh)), [len(own) for own in xywh])
    boxes = np.concatenate([np.zeros((0, 4)), *xywh])
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    classes = np.zeros(len(boxes), np.int64)
    return Boxes(tuple(image_ids), CLASS_NAMES, image, classes, boxes, scores, columns or {}, EDGES)


def read_detections(
    folder: str | os.PathLike[str], image_ids: Sequence[str], allow_missing: bool = False
) -> Boxes:
    """The result files ``folder/<event>/<image>.txt`` of these images.

    A file holds the image's name, the number of boxes, and lines ``x y w h score``.

    Args:
        folder: folder of the events' folders.
        image_ids: ``<event>/<image>``.
        allow_missing: an absent file counts as an image without detections.

    Raises:
        UserError: a file is absent or malformed; up to 20 are named at once.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of result files")
    rows, problems = [], Problems()
    for name in image_ids:
        path = folder / f"{name}.txt"
        if allow_missing and not path.is_file():
            rows.append(np.zeros((0, _FIELDS)))
            continue
        with problems.collect():
            rows.append(_read_result(path))
    problems.raise_any()
    scores = np.concatenate([np.zeros(0), *(row[:, 4] for row in rows)])
    return _table(image_ids, [row[:, :4] for row in rows], scores)


def _read_result(path: Path) -> np.ndarray:
    """float64 [n, 5]."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file") from None
    body = [line.split() for line in lines[2:] if line.strip()]
    if len(lines) < 2 or not lines[1].strip().isdecimal() or int(lines[1]) != len(body):
        raise UserError(f"{path}: wants the image's name, the number of boxes, and as many lines after them")
    for number, fields in enumerate(body, start=3):
        if len(fields) != _FIELDS:
            raise UserError(f"{path}:{number}: {len(fields)} fields instead of x y w h score")
    try:
        values = np.array(body, np.float64).reshape(-1, _FIELDS)
    except ValueError:
        raise UserError(f"{path}: holds a field that is no number") from None
    if not np.isfinite(values).all():
        raise UserError(f"{path}: holds a number that is not finite")
    return values
