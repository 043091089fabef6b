"""Result files in every format, written from the table of boxes; and the table itself as CSV."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import json
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
    """A format of result files, and what it is, for ``--help``.

    ``write`` takes detections and the name of the split or "", and gives texts by file name. ``grows``: the
    texts of a file for different images, one after the other, are its text for all of them.
    """

    text: str
    write: Callable[[Boxes, str], dict[str, str]]
    grows: bool = True


def write_kitti(detections: Boxes, split: str = "") -> dict[str, str]:
    """One file an image, as the 2019 reference wrote, "" where nothing was found.

    A line is ``Type -1 -1 alpha x1 y1 x2 y2 0 0 0 0 0 0 0 score`` with alpha 0.0 where there is
    none. Numbers are written with as many digits as doubles need: what is read back is equal.

    Raises UserError: a class name with a blank, which no line can hold.
    """
    for name in detections.class_names:
        if len(name.split()) != 1:
            raise UserError(f"class {name!r}: a line of these result files holds names of one word only")
    alphas = detections.column("alpha", NO_ALPHA)
    lines = collections.defaultdict(list)  # by image
    for (image, kind, (x1, y1, x2, y2), score), alpha in zip(
        detections.to(PIXELS).rows(), np.where(alphas == NO_ALPHA, 0.0, alphas).tolist(), strict=True
    ):
        numbers = f"-1 -1 {alpha!r} {x1!r} {y1!r} {x2!r} {y2!r} 0 0 0 0 0 0 0 {score!r}"
        lines[image].append(f"{detections.class_names[kind]} {numbers}\n")
    return {f"{name}.txt": "".join(lines[image]) for image, name in enumerate(detections.image_ids)}


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
    lines = collections.defaultdict(list)  # by class
    for image, kind, box, score in detections.to(ONE_BASED).rows():
        numbers = [repr(score), *map(repr, box)]
        if not full_precision:
            numbers = [f"{score:.3f}", *(f"{value:.1f}" for value in box)]
        lines[kind].append(f"{detections.image_ids[image]} {' '.join(numbers)}\n")
    names = enumerate(detections.class_names)
    return {f"comp4_det_{image_set}_{name}.txt": "".join(lines[kind]) for kind, name in names}


def write_coco(detections: Boxes, split: str = "") -> dict[str, str]:
    """``detections.json``: a list of ``image_id``, ``category_id``, ``bbox`` (x, y, w, h) and ``score``.

    Ids are those of the ground truth's file where the table has them. Else a category is the class's place
    from 1 on (behind the file's ids, of a class that its file does not know), and an image its name, as a
    number where it is one (000000000139), as in COCO itself; ``image_name`` is the name then, since the
    ground truth's ids may be other numbers. ``category_name`` is that of the class in any case.
    """
    known = detections.coco_ids or CocoIds(_numbers(detections.image_ids), {})
    guessed = detections.coco_ids is None
    ids = [known.images.get(name, name) for name in detections.image_ids]
    by_name = {name.casefold(): number for name, number in known.categories.items()} | known.categories
    first = 1 + max((number for number in by_name.values() if isinstance(number, int)), default=0)
    categories = [
        by_name.get(name, by_name.get(name.casefold(), first + place))
        for place, name in enumerate(detections.class_names)
    ]
    found = [
        {
            "image_id": ids[image],
            **({"image_name": detections.image_ids[image]} if guessed else {}),
            "category_id": categories[kind],
            "category_name": detections.class_names[kind],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, kind, (x1, y1, x2, y2), score in detections.to(EDGES).rows()
    ]
    return {COCO_FILE: "[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n"}


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """Names that are numbers, unless two are the same one (7 and 007)."""
    numbers = {name: int(name) for name in names if name.isdecimal() and name.isascii()}
    return numbers if len(set(numbers.values())) == len(numbers) else {}


def write_csv(detections: Boxes, split: str = "") -> dict[str, str]:
    """``detections.csv``: a line for each box, 0-based inclusive pixel corners, every digit."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for image, kind, box, score in detections.to(PIXELS).rows():
        writer.writerow([detections.image_ids[image], detections.class_names[kind], score, *box])
    return {CSV_FILE: out.getvalue()}


def write_wider(detections: Boxes, split: str = "") -> dict[str, str]:
    """WIDER FACE's ``<event>/<image>.txt``: name, number, and ``x y w h score`` by falling score."""
    lines = collections.defaultdict(list)  # by image
    falling = detections.to(EDGES).take(np.argsort(-detections.scores, kind="stable"))
    for image, _, (x1, y1, x2, y2), score in falling.rows():
        lines[image].append(f"{x1!r} {y1!r} {x2 - x1!r} {y2 - y1!r} {score!r}\n")
    return {
        f"{name}.txt": "".join([f"{name.rsplit('/', 1)[-1]}\n{len(lines[image])}\n", *lines[image]])
        for image, name in enumerate(detections.image_ids)
    }


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
    """A table from :func:`write_csv` or alike; only detections (``scored``) need a column ``score``.

    ``split``: a list of images, which may hold some without a box; empty: the images of the file. Raises
    UserError where the file cannot be read, lacks a column, or holds a wrong line; names up to 20 of them.
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
        if numbers is None:
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

    Raises UserError where the list cannot be read, or as ``Boxes.select`` does.
    """
    return table.select(text_files.read_ids(split, nested=True), allow_missing) if split else table
