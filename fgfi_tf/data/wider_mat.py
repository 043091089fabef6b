"""WIDER FACE's MATLAB files, for training and evaluation. scipy reads them (extra ``[wider]``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fgfi_tf.errors import UserError

SETTINGS = ("easy", "medium", "hard")
FACES_FILE = "wider_face_val.mat"
SETTING_FILE = "wider_{}_val.mat"
_FACES = ("event_list", "file_list", "face_bbx_list")


class Faces(NamedTuple):
    """The labelled faces of a picture.

    Attributes:
        image_id: ``<event>/<name>``, without suffix.
        boxes: float64 [n,4], x, y, w, h. A picture without a face has a row of zeros in these files.
        columns: name -> [n].
    """

    image_id: str
    boxes: np.ndarray
    columns: dict[str, np.ndarray]


def read_settings(folder: Path) -> list[Faces]:
    """The validation files of the evaluation kit, ``wider_{face,easy,medium,hard}_val.mat``.

    The columns are the settings, bool: whether a face counts there.

    Raises:
        UserError: scipy is not installed; a file is absent, damaged or of another form.
    """
    mat = _load(folder / FACES_FILE, _FACES)
    chosen = {name: _load(folder / SETTING_FILE.format(name), ("gt_list",))["gt_list"] for name in SETTINGS}
    try:
        return [
            Faces(
                image_id,
                boxes,
                {
                    name: _counted(_cell(lists, place), len(boxes), image_id, name)
                    for name, lists in chosen.items()
                },
            )
            for image_id, boxes, place in _pictures(mat)
        ]
    except (IndexError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: the files are not those of WIDER FACE's evaluation: {error}") from None


def read_labels(path: Path, attributes: Sequence[str]) -> list[Faces]:
    """``wider_face_<split>.mat`` with its columns ``blur`` and so on, int64.

    Raises:
        UserError: scipy is not installed; the file is damaged or of another form.
    """
    names = {name: f"{name}_label_list" for name in attributes}
    mat = _load(path, (*_FACES, *names.values()))
    try:
        return [
            Faces(
                image_id,
                boxes,
                {
                    name: np.asarray(_cell(mat[key], place), np.int64).reshape(len(boxes))
                    for name, key in names.items()
                },
            )
            for image_id, boxes, place in _pictures(mat)
        ]
    except (IndexError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is not a file of WIDER FACE's labels: {error}") from None


def _pictures(mat: dict[str, Any]) -> Iterator[tuple[str, np.ndarray, tuple[int, int]]]:
    """Id, boxes and (event, image) of each picture."""
    for event, (name,) in enumerate(mat["event_list"]):
        files = mat["file_list"][event, 0]
        for image in range(len(files)):
            boxes = np.asarray(_cell(mat["face_bbx_list"], (event, image)), np.float64).reshape(-1, 4)
            yield f"{name[0]}/{files[image, 0][0]}", boxes, (event, image)


def _cell(lists: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    event, image = place
    return lists[event, 0][image, 0]


def _counted(rows: np.ndarray, count: int, image_id: str, setting: str) -> np.ndarray:
    """bool [count], of rows counted from 1."""
    rows = np.asarray(rows, np.int64).reshape(-1) - 1
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise ValueError(f"{image_id}: {setting} names a face that it does not have")
    return np.isin(np.arange(count), rows)


def _load(path: Path, keys: Sequence[str]) -> dict[str, Any]:
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
