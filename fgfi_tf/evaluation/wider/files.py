"""The files of the WIDER FACE evaluation: the official .mat files, and result files in folders of events."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.errors import Problems, UserError
from fgfi_tf.evaluation.wider.ap import SETTINGS, Detections, Faces

FACES_FILE = "wider_face_val.mat"
SETTING_FILE = "wider_{}_val.mat"
_FIELDS = 5  # x y w h score


def read_ground_truth(folder: str | os.PathLike[str]) -> Faces:
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


def _faces(faces: dict[str, Any], chosen: dict[str, np.ndarray]) -> Faces:
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
    return Faces(
        tuple(image_ids),
        np.repeat(np.arange(len(boxes)), [len(own) for own in boxes]),
        np.concatenate(boxes) if boxes else np.zeros((0, 4)),
        {name: np.concatenate(flags) if flags else np.zeros(0, bool) for name, flags in counted.items()},
    )


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
) -> Detections:
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
    values = np.concatenate(rows) if rows else np.zeros((0, _FIELDS))
    return Detections(
        np.repeat(np.arange(len(rows)), [len(row) for row in rows]), values[:, :4], values[:, 4]
    )


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


def write_detections(
    folder: str | os.PathLike[str], image_ids: Sequence[str], detections: Detections
) -> None:
    """Writes ``folder/<event>/<image>.txt`` for every image, boxes by falling score, with every digit."""
    folder = Path(folder)
    for index, name in enumerate(image_ids):
        rows = np.flatnonzero(detections.image == index)
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        lines = [name.rsplit("/", 1)[-1], str(len(rows))]
        for box, score in zip(detections.boxes[rows].tolist(), detections.scores[rows].tolist(), strict=True):
            lines.append(" ".join(f"{value!r}" for value in (*box, score)))
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
