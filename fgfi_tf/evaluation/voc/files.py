"""The VOC devkit's result files, ``comp4_det_<set>_<class>.txt``: one detection a line.

``image score xmin ymin xmax ymax`` with 1-based inclusive pixels; images are names, leading zeros kept,
which may hold blanks. ``comp3`` stands for detectors that were trained on VOC alone, ``comp4`` for others;
some code adds a word of its own, ``comp4_<salt>_det_<set>_<class>.txt``.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from fgfi_tf.data import text_files
from fgfi_tf.data.readers import voc, voc_xml
from fgfi_tf.errors import Problems, UserError
from fgfi_tf.evaluation.boxes import ONE_BASED, Boxes, check_unique

CLASS_NAMES = voc.CLASS_NAMES


def image_sets(folder: str | Path, class_names: Sequence[str] = CLASS_NAMES) -> list[tuple[str, str]]:
    """Each prefix (``comp4``) and image set (``test``) of a folder's result files.

    Raises UserError where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder")
    known = "|".join(map(re.escape, class_names))
    name = re.compile(rf"(comp[34](?:_.+?)?)_det_(.+?)_(?:{known})\.txt")  # the longest name
    matches = (name.fullmatch(path.name) for path in Path(folder).iterdir())
    return sorted({match.groups() for match in matches if match})


def list_images(annotations: str | Path) -> tuple[str, ...]:
    """The images of all ``*.xml`` files below a folder that are not hidden, sorted; UserError for none."""
    inner = Path(annotations) / "Annotations"
    images = text_files.ids_below(Path(annotations), ".xml")
    if not images or (inner.is_dir() and all("/" in name for name in images)):
        hint = f"; give {inner}" if inner.is_dir() else ""
        raise UserError(f"{annotations}: no annotation files (.xml) there{hint}")
    return images


def read_ground_truth(
    annotations: str | Path, image_ids: Sequence[str], class_names: Sequence[str] = CLASS_NAMES
) -> Boxes:
    """The objects of some images from ``annotations``/<image>.xml.

    Objects of other classes are left out, as the devkit does; a warning counts them.

    Raises UserError: files that are missing or no VOC annotation; names up to 20 of them.
    """
    evaluated = {name.lower() for name in class_names}
    frames, unknown, problems = [], collections.Counter(), Problems()
    for name in check_unique(image_ids):
        with problems.collect():
            found = voc_xml.read_annotation(Path(annotations) / f"{name}.xml")
            known = np.array([one.lower() in evaluated for one in found.names], bool)
            columns = {"boxes": found.boxes, "classes": np.array(found.names, object), **found.attributes}
            frames.append({"image_id": name, **{key: values[known] for key, values in columns.items()}})
            unknown.update(columns["classes"][~known])
    problems.raise_any()
    if unknown:
        counts = ", ".join(f"{name!r} ({count})" for name, count in unknown.most_common(10))
        logging.warning("objects of classes that are not evaluated: %s", counts)
    return Boxes.of_ground_truth(frames, class_names).to(ONE_BASED)


def read_detections(
    folder: str | Path,
    image_set: str,
    image_ids: Sequence[str],
    class_names: Sequence[str] = CLASS_NAMES,
    allow_missing: bool = False,
    prefix: str = "comp4",
) -> Boxes:
    """Reads the result files ``<prefix>_det_<image_set>_<class>.txt`` of every class.

    Boxes that end before they begin are read: published results have some, and every evaluator takes them as
    false positives. A warning counts them. ``allow_missing`` takes a class without a file as one without
    detections.

    Raises UserError: files that are missing or have a wrong line: not six fields, a field that is no finite
    ASCII number, a coordinate beyond 1e6, an image that is not of the set. Names up to 20 files and their
    first wrong line.
    """
    index = {name: number for number, name in enumerate(image_ids)}
    images, numbers, classes, problems = [], [], [], Problems()
    for class_index, class_name in enumerate(class_names):
        path = Path(folder) / f"{prefix}_det_{image_set}_{class_name}.txt"
        if not path.is_file():
            if not allow_missing:
                problems.add(
                    f"{path}: no such file (--allow_missing counts it as a class without detections)"
                )
            continue
        with problems.collect():
            of_class, rows = _read_rows(path, index)
            images += of_class
            numbers.append(rows)
            classes += [class_index] * len(rows)
    problems.raise_any()
    values = np.concatenate([np.zeros((0, 5)), *numbers])
    empty = (values[:, 3:] - values[:, 1:3] + 1 <= 0).any(axis=1)
    if empty.any():
        logging.warning("boxes with xmax < xmin or ymax < ymin count as false positives: %d", empty.sum())
    rows = np.array(images, np.int64), np.array(classes, np.int64), values[:, 1:], values[:, 0]
    return Boxes(tuple(image_ids), tuple(class_names), *rows, corners=ONE_BASED)


def _read_rows(path: Path, image_index: Mapping[str, int]) -> tuple[list[int], np.ndarray]:
    """Of each detection the index of its image, and its score and corners [n,5]."""
    images, rows = [], []
    for number, line in enumerate(text_files.read_text(path).split("\n"), start=1):
        fields = line.strip().rsplit(maxsplit=5)  # the image's name may hold blanks
        if not fields:
            continue
        if len(fields) != 6:
            raise UserError(f"{path}:{number}: {len(fields)} fields, not image, score and four coordinates")
        if fields[0] not in image_index:
            raise UserError(f"{path}:{number}: image {fields[0]!r} is not in the set")
        values = text_files.numbers(fields[1:])
        if values is None:
            wrong = next(field for field in fields[1:] if text_files.number(field) is None)
            raise UserError(f"{path}:{number}: {wrong!r} is not a finite number")
        images.append(image_index[fields[0]])
        rows.append(values)
    values = np.array(rows, np.float64).reshape(-1, 5)
    if (np.abs(values[:, 1:]) > text_files.LARGEST).any():
        raise UserError(f"{path}: a coordinate is beyond {text_files.LARGEST:,.0f} pixels")
    return images, values
