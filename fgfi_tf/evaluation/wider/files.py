"""The files of the WIDER FACE evaluation: the official .mat files, and result files in folders of events."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.errors import Problems, UserError
from fgfi_tf.evaluation.boxes import EDGES, Boxes
from fgfi_tf.evaluation.wider.ap import SETTINGS

CLASS_NAMES = ("face",)
FACES_FILE = "wider_face_val.mat"
SETTING_FILE = "wider_{}_val.mat"
_FIELDS = 5  # x y w h score


def read_ground_truth(folder: str | os.PathLike[str]) -> Boxes:
    """The four official validation files of a folder, ``wider_{face,easy,medium,hard}_val.mat``.

    Raises:
        UserError: scipy is not installed; a file is absent, damaged or of another form.
    """
    folder = Path(folder)
    faces = _read_mat(folder / FACES_FILE, ("event_list", "file_list", "face_bbx_list"))
    chosen = {name: _read_mat(folder / SETTING_FILE.format(name), ("gt_list",)) for name in SETTINGS}
    try:
        return _faces(faces, {name: mat["gt_list"] for name, mat in chosen.items()})
    except (IndexError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: the files are not those of WIDER FACE's evaluation: {error}") from None


def _faces(faces: dict[str, Any], chosen: dict[str, np.ndarray]) -> Boxes:
    image_ids: list[str] = []
    boxes: list[np.ndarray] = []
    counted: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    for event, (event_name,) in enumerate(faces["event_list"]):
        files = faces["file_list"][event, 0]
        for image in range(len(files)):
            image_ids.append(f"{event_name[0]}/{files[image, 0][0]}")
            own = np.asarray(faces["face_bbx_list"][event, 0][image, 0], np.float64).reshape(-1, 4)
            boxes.append(own)
            for name, lists in chosen.items():
                rows = np.asarray(lists[event, 0][image, 0], np.int64).reshape(-1) - 1  # 1-based in the file
                if len(rows) and not 0 <= rows.min() <= rows.max() < len(own):
                    raise ValueError(f"{image_ids[-1]}: {name} names a face that it does not have")
                counted[name].append(np.isin(np.arange(len(own)), rows))
    columns = {name: np.concatenate([np.zeros(0, bool), *flags]) for name, flags in counted.items()}
    return _table(image_ids, boxes, columns=columns)


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


def _read_mat(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(
            f"{path}: MATLAB files are read with scipy: pip install -e '.[wider]', or pip install scipy"
        ) from None
    if not path.is_file():
        names = [FACES_FILE, *(SETTING_FILE.format(name) for name in SETTINGS)]
        raise UserError(f"{path}: no such file; the folder of the labels holds {', '.join(names)}")
    try:
        found = loadmat(path)
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        raise UserError(f"{path}: cannot be read as a MATLAB file: {error}") from None
    missing = [key for key in keys if key not in found]
    if missing:
        raise UserError(f"{path}: holds no {missing[0]}")
    return found


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
