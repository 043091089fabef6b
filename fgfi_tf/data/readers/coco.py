"""COCO's layout: JSON annotations of any categories, and pictures in any folder.

::

    DATA_DIR/annotations/instances_train2017.json   a split: its name stands behind instances_
    DATA_DIR/train2017/000000000009.jpg
    DATA_DIR/train/_annotations.coco.json           as Roboflow exports it; the folder is the split
    DATA_DIR/train/a.jpg

Other JSON files of ``DATA_DIR`` and ``annotations`` are splits of their own names, and a split may be the
path of a file. A picture is looked for beside its annotations, in folders of the usual names, and at last by
its name in all of ``DATA_DIR``.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.data import coco_json, text_files
from fgfi_tf.data.dataset import ELSEWHERE, NO_AREA, SIZE_READ, Dataset, Frame, canonical
from fgfi_tf.data.readers.tree import path_id, picture_files
from fgfi_tf.errors import Problems, UserError
from fgfi_tf.paths import user_path

ROBOFLOW = "_annotations.coco.json"
_PREFIX = "instances_"
_OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")


class Coco(Dataset):
    """Annotations as COCO's JSON has them; crowds are ignored."""

    protocol = "coco"
    attributes = {"crowd": ((), np.bool_), "area": ((), np.float32)}
    description = "Object detection from JSON annotations in COCO's format."
    homepage = "https://cocodataset.org/#format-data"

    def splits(self, data_dir: Path) -> list[str]:
        """The annotation files by the name of their split."""
        return list(annotation_files(data_dir))

    def find_split(self, data_dir: Path, split: str, own: Sequence[str]) -> str | None:
        """A split may also be the path of its file, from ``data_dir`` or the working directory."""
        if split.endswith(".json") and _named_file(data_dir, split).is_file():
            return split
        return super().find_split(data_dir, split, own)

    def frames(self, data_dir: Path, split: str) -> list[Frame]:
        """See ``Dataset``. Raises UserError: see :func:`read_frames`."""
        files = annotation_files(data_dir)
        return read_frames(files[split] if split in files else _named_file(data_dir, split), data_dir)

    def image_folder(self, data_dir: str | Path, split: str) -> Path:
        """Image ids are paths from the root."""
        return user_path(data_dir)


def annotation_files(data_dir: Path) -> dict[str, Path]:
    """Split -> annotation file. Raises UserError where there is none."""
    found: dict[str, Path] = {}
    for folder in (data_dir / "annotations", data_dir):
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            if text_files.is_hidden(path) or path.name.startswith(_OTHER_TASKS):
                continue
            name = data_dir.name if path.name == ROBOFLOW else path.stem.removeprefix(_PREFIX)
            found.setdefault(name, path)
    for path in sorted(data_dir.glob(f"*/{ROBOFLOW}")) if data_dir.is_dir() else []:
        found.setdefault(path.parent.name, path)
    if not found:
        places = f"annotations/{_PREFIX}<split>.json or <split>/{ROBOFLOW}"
        raise UserError(f"{data_dir}: no annotations in COCO's format; it must hold {places}")
    return found


def read_frames(path: Path, data_dir: Path) -> list[Frame]:
    """The pictures of an annotation file, in its order, with their objects.

    A box of no area is ignored, and so is one with ``iscrowd``; an annotation without ``area`` gets its
    box's. Raises UserError as ``coco_json.read_annotations``, and for pictures that are not there, up to 20.
    """
    found = coco_json.read_annotations(path)
    by_image: dict[Any, list[dict]] = {key: [] for key in found.images}
    for one in found.objects:
        by_image[one["image_id"]].append(one)
    names = {key: one["name"] for key, one in found.categories.items()}
    ids = {name: key for key, name in names.items()}
    problems = Problems()
    place_of = _Pictures(path, data_dir)
    frames = []
    for key, image in found.images.items():
        with problems.collect():
            picture, notes = place_of(image["file_name"])
            frame = _frame(path, picture, data_dir, image, by_image[key], names, notes)
            frames.append(dataclasses.replace(frame, coco_ids=(key, ids)))
    problems.raise_any()
    return frames


def _frame(
    path: Path,
    picture: Path,
    data_dir: Path,
    image: dict,
    objects: list[dict],
    names: Mapping[Any, str],
    notes: list[str],
) -> Frame:
    corners = np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4)  # x, y, w, h
    empty = (corners[:, 2:] <= 0).any(axis=1)
    crowd = np.array([bool(one.get("iscrowd", 0)) for one in objects], bool)
    ignored = np.array([bool(one.get("ignore", 0)) for one in objects], bool)
    area = [one.get("area", one["bbox"][2] * one["bbox"][3]) for one in objects]
    corners[:, 2:] += corners[:, :2] - 1  # to inclusive xmax, ymax
    size = [image.get(side) for side in ("height", "width")]
    known = all(map(coco_json.is_side, size))
    return Frame(
        path_id(picture, data_dir),
        picture,
        path,
        boxes=corners,
        names=[names[one["category_id"]] for one in objects],
        ignore=crowd | ignored | empty,
        attributes={"crowd": crowd, "area": np.array(area, np.float64)},
        image_size=(int(size[0]), int(size[1])) if known else None,
        notes=[*notes, *[NO_AREA] * int(empty.sum()), *([] if known else [SIZE_READ])],
    )


class _Pictures:
    """Finds the pictures of an annotation file, those after the first mostly at once."""

    def __init__(self, path: Path, data_dir: Path):
        self._path, self._data_dir = path, data_dir
        name = path.parent.name if path.name == ROBOFLOW else path.stem.removeprefix(_PREFIX)
        short = canonical(name)
        places = [path.parent, data_dir, data_dir / "images", data_dir / name, data_dir / "images" / name]
        places += [data_dir / short, data_dir / "images" / short, data_dir / "JPEGImages", path.parent.parent]
        self._places = list(dict.fromkeys(places))
        self._pictures: dict[str, list[Path]] | None = None  # by stem
        self._taken: dict[Path, str] = {}  # by their names alone

    def __call__(self, file_name: str) -> tuple[Path, list[str]]:
        """The picture, and what there is to say of it.

        Raises UserError: there is none, there are several, or one was taken for another file already.
        """
        name = file_name.replace("\\", "/")
        for place in self._places:
            if (place / name).is_file():
                self._places.remove(place)
                self._places.insert(0, place)
                return place / name, []
        if self._pictures is None:
            self._pictures = collections.defaultdict(list)
            for path in picture_files(self._data_dir):
                self._pictures[path.stem].append(path)
        found = self._pictures.get(Path(name).stem, [])
        there = [one for one in found if one.as_posix().lower().endswith(f"/{name.lower()}")]
        found = there or found
        if not found:
            raise UserError(f"{self._path}: there is no picture {file_name} in {self._data_dir}")
        if len(found) > 1:
            raise UserError(
                f"{self._path}: {file_name} may be {found[0]} or {found[1]}: give its folder there"
            )
        if there:
            return found[0], []
        other = self._taken.setdefault(found[0], file_name)
        if other != file_name:
            raise UserError(
                f"{self._path}: {other} and {file_name} may both be {found[0]}: give its folder there"
            )
        return found[0], [ELSEWHERE]


def _named_file(data_dir: Path, split: str) -> Path:
    inside = data_dir / split
    return inside if inside.is_file() else user_path(split)
