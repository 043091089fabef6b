"""Result files in every format, written from the table of boxes; and the table itself as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import text_files
from fgfi_tf.errors import Problems, UserError
from fgfi_tf.evaluation.boxes import EDGES, NO_ALPHA, ONE_BASED, PIXELS, Boxes, CocoIds
from fgfi_tf.options import Chooses

CSV_FILE, COCO_FILE = "detections.csv", "detections.json"
_CSV_COLUMNS = ("image", "class", "score", "xmin", "ymin", "xmax", "ymax")


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of result files.

    Attributes:
        text: what it is, for ``--help``.
        write: (detections, name of the split or "") to the texts by file name.
        grows: the texts of a file for different images, one after the other, are its text for all of them.
    """

    text: str
    write: Callable[[Boxes, str], dict[str, str]]
    grows: bool = True


def write_kitti(detections: Boxes, split: str = "") -> dict[str, str]:
    """One file an image, as the 2019 reference wrote, "" where nothing was found.

    A line is ``Type -1 -1 alpha x1 y1 x2 y2 0 0 0 0 0 0 0 score`` with alpha 0.0 where there is
    none. Numbers are written with as many digits as doubles need: what is read back is equal.

    Raises:
        UserError: a class name with a blank, which no line can hold.
    """
    _check_words(detections)
    detections = detections.to(PIXELS).by_image()
    names = detections.class_names
    alphas = detections.column("alpha", NO_ALPHA)
    rows = zip(
        detections.classes.tolist(),
        np.where(alphas == NO_ALPHA, 0.0, alphas).tolist(),
        detections.boxes.tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    lines = [
        f"{names[kind]} -1 -1 {alpha!r} {x1!r} {y1!r} {x2!r} {y2!r} 0 0 0 0 0 0 0 {score!r}\n"
        for kind, alpha, (x1, y1, x2, y2), score in rows
    ]
    ends = np.searchsorted(detections.image, np.arange(len(detections.image_ids)), side="right").tolist()
    return {
        f"{image_id}.txt": "".join(lines[start:end])
        for image_id, start, end in zip(detections.image_ids, [0, *ends], ends, strict=False)
    }


def _check_words(detections: Boxes) -> None:
    for name in detections.class_names:
        if len(name.split()) != 1:
            raise UserError(f"class {name!r}: a line of these result files holds names of one word only")


def write_comp4(detections: Boxes, split: str = "", full_precision: bool = True) -> dict[str, str]:
    """One file a class, ``comp4_det_<set>_<class>.txt``; the set is the split without its year.

    Args:
        detections: the table.
        split: as VOC names it, e.g. ``2007_test``; empty: ``images``.
        full_precision: every digit (reading gives the same numbers again), else scores of 3 decimals and
            coordinates of 1, as the published code writes them.
    """
    for name in detections.class_names:
        if "/" in name:
            raise UserError(f"class {name!r}: its name is part of the name of a file")
    image_set = split.partition("_")[2] or split or "images"
    detections = detections.to(ONE_BASED)
    files = {}
    for index, name in enumerate(detections.class_names):
        rows = np.flatnonzero(detections.classes == index)
        values = zip(
            detections.image[rows].tolist(),
            detections.scores[rows].tolist(),
            detections.boxes[rows].tolist(),
            strict=True,
        )
        files[f"comp4_det_{image_set}_{name}.txt"] = "".join(
            f"{detections.image_ids[image]} {score!r} {' '.join(map(repr, box))}\n"
            if full_precision
            else f"{detections.image_ids[image]} {score:.3f} {' '.join(f'{v:.1f}' for v in box)}\n"
            for image, score, box in values
        )
    return files


def write_coco(detections: Boxes, split: str = "") -> dict[str, str]:
    """``detections.json``: a list of ``image_id``, ``category_id``, ``bbox`` (x, y, w, h) and ``score``.

    Ids are those of the ground truth's file where the table has them. Else a category is the class's place
    from 1 on (behind the file's ids, of a class that its file does not know), and an image its name, as a
    number where it is one (000000000139), as in COCO itself. The name of the class is given as
    ``category_name`` in any case.
    """
    detections = detections.to(EDGES)
    known = detections.coco_ids or CocoIds(_numbers(detections.image_ids), {})
    ids = [known.images.get(name, name) for name in detections.image_ids]
    by_name = {name.casefold(): number for name, number in known.categories.items()} | known.categories
    first = 1 + max((number for number in by_name.values() if isinstance(number, int)), default=0)
    categories = [
        by_name.get(name, by_name.get(name.casefold(), first + place))
        for place, name in enumerate(detections.class_names)
    ]
    rows = zip(
        detections.image.tolist(),
        detections.classes.tolist(),
        detections.boxes.tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    found = [
        {
            "image_id": ids[image],
            "category_id": categories[kind],
            "category_name": detections.class_names[kind],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, kind, (x1, y1, x2, y2), score in rows
    ]
    return {COCO_FILE: "[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n"}


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """Names that are numbers, unless two are the same one (7 and 007)."""
    numbers = {name: int(name) for name in names if name.isdecimal() and name.isascii()}
    return numbers if len(set(numbers.values())) == len(numbers) else {}


def write_csv(detections: Boxes, split: str = "") -> dict[str, str]:
    """``detections.csv``: a line for each box, 0-based inclusive pixel corners, every digit."""
    detections = detections.to(PIXELS)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for row in range(len(detections)):
        image = detections.image_ids[detections.image[row]]
        name = detections.class_names[detections.classes[row]]
        writer.writerow(
            [image, name, repr(float(detections.scores[row])), *map(float, detections.boxes[row])]
        )
    return {CSV_FILE: out.getvalue()}


def write_wider(detections: Boxes, split: str = "") -> dict[str, str]:
    """WIDER FACE's ``<event>/<image>.txt``: name, number, and ``x y w h score`` by falling score."""
    detections = detections.to(EDGES).by_image()
    files = {}
    ends = np.searchsorted(detections.image, np.arange(len(detections.image_ids)), side="right")
    for name, start, end in zip(detections.image_ids, [0, *ends], ends, strict=False):
        rows = start + np.argsort(-detections.scores[start:end], kind="stable")
        lines = [name.rsplit("/", 1)[-1], str(len(rows))]
        for (x1, y1, x2, y2), score in zip(
            detections.boxes[rows].tolist(), detections.scores[rows].tolist(), strict=True
        ):
            lines.append(f"{x1!r} {y1!r} {x2 - x1!r} {y2 - y1!r} {score!r}")
        files[f"{name}.txt"] = "\n".join(lines) + "\n"
    return files


FORMATS: dict[str, Format] = {
    "kitti": Format("KITTI's NNNNNN.txt, one an image", write_kitti),
    "comp4": Format("VOC's comp4_det_<set>_<class>.txt, one a class", write_comp4),
    "coco": Format(f"COCO's list of detections, {COCO_FILE}", write_coco, grows=False),
    "csv": Format(f"{CSV_FILE}: {','.join(_CSV_COLUMNS)}", write_csv, grows=False),
    "wider": Format("WIDER FACE's <event>/<image>.txt", write_wider),
}
#: A flag whose value is the name of a format.
CHOICE = Chooses("format of result files", FORMATS.keys)


def format_of(name: str) -> Format:
    """A format by name. Raises UserError for an unknown one."""
    if name not in FORMATS:
        raise UserError(f"unknown format of result files {name!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def read_csv(path: str | Path, split: str = "", scored: bool = False) -> Boxes:
    """A table from :func:`write_csv` or alike; ground truth needs no column ``score``.

    Args:
        path: the file.
        split: a list of images, which may hold some without a box; empty: the images of the file.
        scored: of detections.

    Raises:
        UserError: the file cannot be read, lacks a column, or holds a wrong line; names up to 20 of them.
    """
    reader = csv.DictReader(io.StringIO(text_files.read_text(path)))
    wanted = [name for name in _CSV_COLUMNS if scored or name != "score"]
    missing = [name for name in wanted if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}: the first line names no column {missing[0]} ({','.join(wanted)} wanted)")
    frames: dict[str, dict[str, list]] = {}
    problems = Problems()
    for row in reader:
        numbers = text_files.numbers([row[name] or "" for name in wanted[2:]])
        if numbers is None or not all(map(math.isfinite, numbers)):
            problems.add(f"{path} line {reader.line_num}: wants {','.join(wanted)}")
            continue
        frame = frames.setdefault(row["image"], {"boxes": [], "classes": [], "scores": []})
        frame["boxes"].append(numbers[-4:])
        frame["classes"].append(row["class"])
        frame["scores"].append(numbers[0])
    problems.raise_any()
    names = sorted({name for frame in frames.values() for name in frame["classes"]})
    table = Boxes.of_detections(frames, names) if scored else Boxes.of_ground_truth(frames, names)
    return of_split(table, split, allow_missing=True)


def of_split(table: Boxes, split: str | Path, allow_missing: bool = False) -> Boxes:
    """The boxes of the images that a file lists, an id a line; the whole table where ``split`` is empty.

    Raises:
        UserError: the list cannot be read, or as ``Boxes.select`` does.
    """
    return table.select(text_files.read_ids(split, nested=True), allow_missing) if split else table
