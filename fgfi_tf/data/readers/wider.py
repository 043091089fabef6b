"""WIDER FACE in its official layout: folders of events, labels as text or as MATLAB files.

::

    DATA_DIR/WIDER_train/images/0--Parade/0_Parade_marchingband_1_849.jpg
    DATA_DIR/wider_face_split/wider_face_train_bbx_gt.txt    or wider_face_train.mat (scipy reads it)
    DATA_DIR/eval_tools/ground_truth/wider_easy_val.mat      of the evaluation kit: easy, medium, hard

``val`` is alike, ``test`` has pictures alone. An image id is ``<event>/<name>``, as in result files. The
kit's four files may also lie in ``DATA_DIR/ground_truth``, beside the labels, or where ``--settings_dir``
says; without them all valid faces are evaluated as one setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fgfi_tf.data import text_files, wider_mat
from fgfi_tf.data.dataset import NO_AREA, Dataset, Frame, canonical
from fgfi_tf.data.images import IMAGE_SUFFIXES
from fgfi_tf.data.readers.tree import path_id, picture_files
from fgfi_tf.data.wider_mat import SETTINGS, Faces
from fgfi_tf.errors import Problems, UserError
from fgfi_tf.options import Option
from fgfi_tf.paths import user_path

if TYPE_CHECKING:
    from fgfi_tf.data.records import RawSplit

DOWNLOAD_PAGE = "http://shuoyang1213.me/WIDERFACE/"
CLASS_NAMES = ("face",)
#: In the order of a line of the text files, behind x y w h.
ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
_LABELS = "wider_face_split"
_KIT_FOLDERS = ("eval_tools/ground_truth", "ground_truth", _LABELS, "")
_FIELDS = 4 + len(ATTRIBUTES)


class Wider(Dataset):
    """WIDER FACE: faces marked ``invalid``, and those of no area, are ignored."""

    protocol = "wider"
    class_names = CLASS_NAMES
    attributes = {name: ((), np.int32) for name in ATTRIBUTES}
    cuts_boxes = True
    options = (
        Option(
            "settings_dir",
            "",
            "Folder of WIDER FACE's wider_{face,easy,medium,hard}_val.mat (empty: looked for in --data_dir).",
        ),
    )
    description = "WIDER FACE from the official layout."
    homepage = DOWNLOAD_PAGE

    def splits(self, data_dir: Path) -> list[str]:
        """Those with labels, and ``test`` where its pictures are there."""
        found = [name for name in ("train", "val") if label_file(data_dir, name) is not None]
        return found + (["test"] if self.image_folder(data_dir, "test").is_dir() else [])

    def frames(self, data_dir: Path, split: str, settings_dir: str = "") -> list[Frame]:
        """See ``Dataset``. Raises UserError: see :func:`read_labels` and :func:`counted_faces`."""
        folder = self.image_folder(data_dir, split)
        if split == "test":
            return [Frame(path_id(path, folder), path, attributes=_none()) for path in picture_files(folder)]
        labels = label_file(data_dir, split)
        if labels is None:
            raise UserError(
                f"{data_dir}: no WIDER FACE data; it must hold WIDER_train/images and "
                f"{_LABELS}/wider_face_train_bbx_gt.txt (or wider_face_train.mat), and so for val: "
                f"{DOWNLOAD_PAGE}"
            )
        counted = counted_faces(data_dir, settings_dir) if split == "val" else {}
        frames, problems = [], Problems()
        for faces in read_labels(labels):
            with problems.collect():
                frames.append(_frame(faces, folder, labels, counted))
        problems.raise_any()
        return frames

    def image_folder(self, data_dir: str | Path, split: str) -> Path:
        """Of the events' folders."""
        return user_path(data_dir) / f"WIDER_{canonical(split)}" / "images"

    def ready_made(self, data_dir: Path, split: str) -> RawSplit | None:
        """The stock TFDS ``wider_face``, where a user has prepared it."""
        if not (data_dir / "wider_face").is_dir():
            return None
        from fgfi_tf.data.readers import wider_stock  # TensorFlow

        return wider_stock.open_stock(data_dir, split)


def label_file(data_dir: Path, split: str) -> Path | None:
    """The labels of a split, the text before the MATLAB file; None where there are none."""
    names = (f"wider_face_{split}_bbx_gt.txt", f"wider_face_{split}.mat")
    places = [folder / name for name in names for folder in (data_dir / _LABELS, data_dir)]
    return next((path for path in places if path.is_file()), None)


def read_labels(path: Path) -> list[Faces]:
    """The pictures of a label file with their faces, in its order; ids with the suffix where it gives one.

    Raises:
        UserError: the file cannot be read or is malformed; a MATLAB file and no scipy.
    """
    if path.suffix == ".mat":
        return [
            faces if faces.boxes.any() else Faces(faces.image_id, np.zeros((0, 4)), _none())
            for faces in wider_mat.read_labels(path, ATTRIBUTES)
        ]
    return list(_read_text(path))


def _read_text(path: Path) -> Iterator[Faces]:
    lines = text_files.read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    place = 0
    while place < len(lines):
        name, number = lines[place].strip(), place + 1
        if not name.lower().endswith(IMAGE_SUFFIXES) or "/" not in name:
            raise UserError(f"{path} line {number}: {name[:60]!r} is no picture like 0--Parade/a.jpg")
        count = lines[place + 1].strip() if place + 1 < len(lines) else ""
        if not (count.isascii() and count.isdecimal()):
            raise UserError(f"{path} line {number + 1}: the number of faces of {name} is expected")
        place += 2
        rows = [_row(path, lines, place + i) for i in range(int(count))]
        place += len(rows)
        if not rows and place < len(lines) and set(lines[place].split()) == {"0"}:
            place += 1  # a picture without a face has a line of zeros
        values = np.array(rows, np.float64).reshape(-1, _FIELDS)
        yield Faces(name, values[:, :4], _columns(values[:, 4:]))


def _row(path: Path, lines: Sequence[str], place: int) -> list[float]:
    fields = lines[place].split() if place < len(lines) else []
    values = text_files.numbers(fields) if len(fields) == _FIELDS else None
    if values is None:
        wanted = " ".join(("x", "y", "w", "h", *ATTRIBUTES))
        raise UserError(f"{path} line {place + 1}: a face is expected, {wanted}")
    return values


def _columns(values: np.ndarray) -> dict[str, np.ndarray]:
    """Of numbers [n, 6]."""
    return {name: values[:, i].astype(np.int32) for i, name in enumerate(ATTRIBUTES)}


def _none() -> dict[str, np.ndarray]:
    return _columns(np.zeros((0, len(ATTRIBUTES))))


def counted_faces(data_dir: Path, settings_dir: str = "") -> dict[str, Faces]:
    """Image id -> its faces with the settings in which each counts; {} where no folder has the kit's files.

    Raises:
        UserError: ``settings_dir`` lacks them; as ``wider_mat.read_settings``.
    """
    easy = wider_mat.SETTING_FILE.format(SETTINGS[0])
    folders = [user_path(settings_dir)] if settings_dir else [data_dir / name for name in _KIT_FOLDERS]
    folder = next((path for path in folders if (path / easy).is_file()), None)
    if folder is None:
        if settings_dir:
            raise UserError(f"--settings_dir={settings_dir}: holds no {easy}")
        return {}
    return {faces.image_id: faces for faces in wider_mat.read_settings(folder)}


def settings_of(image_id: str, count: int, counted: dict[str, Faces]) -> dict[str, np.ndarray]:
    """The settings of a picture's ``count`` faces, {} where none are known.

    Raises:
        UserError: the evaluation kit does not know the picture, or with other faces.
    """
    if not counted:
        return {}
    if image_id not in counted:
        raise UserError(f"{image_id}: is not in the evaluation kit's {wider_mat.FACES_FILE}")
    theirs = counted[image_id]
    if len(theirs.boxes) != count:
        raise UserError(
            f"{image_id}: has {count} faces in the labels, {len(theirs.boxes)} in the evaluation kit's "
            f"{wider_mat.FACES_FILE}"
        )
    return theirs.columns


def _frame(faces: Faces, folder: Path, labels: Path, counted: dict[str, Faces]) -> Frame:
    event, _, name = faces.image_id.rpartition("/")
    path = folder / event / (name if labels.suffix == ".txt" else f"{name}.jpg")
    if not path.is_file():
        raise UserError(f"{labels}: there is no picture {path}")
    image_id = path_id(path, folder)
    corners = faces.boxes.copy()  # N x 4, x y w h
    empty = (corners[:, 2:] <= 0).any(axis=1)
    corners[:, 2:] += corners[:, :2] - 1  # to inclusive xmax, ymax
    return Frame(
        image_id,
        path,
        labels,
        boxes=corners,
        names=CLASS_NAMES * len(corners),
        ignore=(faces.columns["invalid"] != 0) | empty,
        attributes={**faces.columns, **settings_of(image_id, len(corners), counted)},
        notes=[NO_AREA] * int(empty.sum()),
    )
