"""The VOC devkit's result files, ``comp4_det_<set>_<class>.txt``: one detection a line.

``image score xmin ymin xmax ymax`` with 1-based inclusive pixels; images are names, leading zeros kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import voc_raw
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.voc_types import Detections, Truths, check_unique


def result_file(folder: str | Path, image_set: str, class_name: str) -> Path:
    """Where the detections of a class are."""
    return Path(folder) / f"comp4_det_{image_set}_{class_name}.txt"


def image_sets(folder: str | Path, class_names: Sequence[str] = voc_raw.CLASS_NAMES) -> list[str]:
    """The image sets of which a folder holds result files. Raises UserError for a missing folder."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder")
    known = "|".join(map(re.escape, class_names))
    matches = (
        re.fullmatch(rf"comp4_det_(.+)_(?:{known})\.txt", path.name) for path in Path(folder).iterdir()
    )
    return sorted({match.group(1) for match in matches if match})


def read_image_set(path: str | Path) -> tuple[str, ...]:
    """The image names of a list file, one a line (a second column is not read).

    Raises:
        UserError: the file cannot be read, is empty, or names an image twice.
    """
    names = [line.split()[0] for line in _read(Path(path)).splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path}: the list of images is empty")
    return check_unique(names)


def read_truths(
    annotations: str | Path, image_ids: Sequence[str], class_names: Sequence[str] = voc_raw.CLASS_NAMES
) -> Truths:
    """The objects of some images from ``annotations``/<image>.xml.

    Raises:
        UserError: a file is missing, is no VOC annotation, or has an unknown class.
    """
    frames = []
    for name in check_unique(image_ids):
        annotation = voc_raw.read_annotation(Path(annotations) / f"{name}.xml", class_names)
        frames.append({"image_id": name, **annotation.arrays()})
    return Truths.from_frames(frames, class_names)


def read_detections(
    folder: str | Path,
    image_set: str,
    image_ids: Sequence[str],
    class_names: Sequence[str] = voc_raw.CLASS_NAMES,
    allow_missing: bool = False,
) -> Detections:
    """Reads the result files of every class.

    Args:
        folder: where they are.
        image_set: the middle part of their names, e.g. ``test``.
        image_ids: the images of the set.
        class_names: their last parts.
        allow_missing: take a class without a file as one without detections.

    Raises:
        UserError: a file is missing (unless ``allow_missing``), a line has not six fields, a field is no
            finite number, an image is not of the set; names the file and line.
    """
    index = {name: number for number, name in enumerate(image_ids)}
    images, numbers, classes = [], [], []
    for class_index, class_name in enumerate(class_names):
        path = result_file(folder, image_set, class_name)
        if not path.is_file() and allow_missing:
            continue
        rows = _read_rows(path, index)
        images += [row[0] for row in rows]
        numbers += [row[1] for row in rows]
        classes += [class_index] * len(rows)
    values = np.array(numbers, np.float64).reshape(-1, 5)
    return Detections(
        image_ids=tuple(image_ids),
        class_names=tuple(class_names),
        image=np.array(images, np.int64),
        classes=np.array(classes, np.int64),
        boxes=values[:, 1:],
        scores=values[:, 0],
    )


def write_detections(
    folder: str | Path, image_set: str, detections: Detections, full_precision: bool = False
) -> list[Path]:
    """Writes :func:`result_files` into a folder, over what is there, and returns their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in result_files(image_set, detections, full_precision).items():
            paths.append(Path(folder) / name)
            paths[-1].write_text(text)
    except OSError as error:
        raise UserError(f"{folder}: result files cannot be written: {error.strerror}") from None
    return paths


def result_files(image_set: str, detections: Detections, full_precision: bool = False) -> dict[str, str]:
    """Name -> text of one result file per class.

    Scores have 3 decimals and coordinates 1, as the published code writes them, unless ``full_precision``
    (every digit: reading gives the same numbers again).
    """
    form = _full_line if full_precision else _rounded_line
    files = {}
    for index, name in enumerate(detections.class_names):
        lines = (
            form(detections.image_ids[detections.image[r]], detections.scores[r], detections.boxes[r])
            for r in np.flatnonzero(detections.classes == index)
        )
        files[result_file("", image_set, name).name] = "".join(lines)
    return files


def _rounded_line(image: str, score: float, box: np.ndarray) -> str:
    return f"{image} {score:.3f} " + " ".join(f"{v:.1f}" for v in box) + "\n"


def _full_line(image: str, score: float, box: np.ndarray) -> str:
    return f"{image} {float(score)!r} " + " ".join(repr(float(v)) for v in box) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None


def _read_rows(path: Path, image_index: dict[str, int]) -> list[tuple[int, list[float]]]:
    rows = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        fields = line.rsplit(maxsplit=5)  # an image's name may hold blanks
        if not fields:
            continue
        if len(fields) != 6:
            raise UserError(f"{path}:{number}: {len(fields)} fields, not image, score and four coordinates")
        if fields[0] not in image_index:
            raise UserError(f"{path}:{number}: image {fields[0]} is not in the set")
        try:
            values = [float(field) for field in fields[1:]]
        except ValueError as error:
            raise UserError(f"{path}:{number}: not a number: {error}") from None
        if not all(map(math.isfinite, values)):
            raise UserError(f"{path}:{number}: a number that is not finite")
        rows.append((image_index[fields[0]], values))
    return rows
