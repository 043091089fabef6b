"""COCO's JSON files: the one reader of annotations and detections, for training and evaluation.

Format: https://cocodataset.org/#format-data and #format-results. Boxes are (x, y, width, height), from edge
to edge of the pixels. Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fgfi_tf.data import text_files
from fgfi_tf.errors import Problems, UserError

Id = int | str


@dataclasses.dataclass(frozen=True)
class CocoIds:
    """What COCO's files call images and classes: name -> id."""

    images: Mapping[str, Id]
    categories: Mapping[str, Id]


@dataclasses.dataclass(frozen=True)
class Annotations:
    """A file of annotations.

    Attributes:
        images: by id, in the file's order.
        categories: by id; ``name`` is without blanks around it.
        objects: ``image_id``, ``category_id`` and ``bbox``, perhaps ``area``, ``iscrowd`` and more.
    """

    images: Mapping[Id, dict[str, Any]]
    categories: Mapping[Id, dict[str, Any]]
    objects: Sequence[dict[str, Any]]


def read_annotations(path: str | os.PathLike[str], named: bool = True) -> Annotations:
    """A file with ``images``, ``annotations`` and ``categories``.

    Args:
        path: the file.
        named: every image must have a ``file_name``.

    Raises UserError: the file is absent or no such JSON; an entry without id or name, or with the id of
    another; a wrong annotation; up to 20 are named.
    """
    found = _read(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: COCO's annotations are an object with images, annotations and categories")
    for key in ("images", "categories", "annotations"):
        if not isinstance(found.get(key), list) or not all(isinstance(one, dict) for one in found[key]):
            alone = "; pictures alone are no ground truth" if key == "annotations" else ""
            raise UserError(f"{path}: holds no list of {key}{alone}")
    problems = Problems()
    categories = _by_id(path, found, "categories", "name", problems)
    images = _by_id(path, found, "images", "file_name" if named else "", problems)
    _check_rows(path, "annotations", found["annotations"], images, categories, problems)
    problems.raise_any()
    return Annotations(images, categories, found["annotations"])


def read_detections(path: str | os.PathLike[str], ids: CocoIds) -> list[dict[str, Any]]:
    """A list of detections of known images and categories.

    An image may be given by its name instead of its id, a category by ``category_name``, which wins: so
    detectors write that do not know the ids.

    Raises UserError: the file is absent or no such JSON; a wrong detection, or one without a finite
    ``score``; up to 20 are named.
    """
    found = _read(path)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{path}: results are a list of image_id, category_id, bbox and score")
    found = [_with_ids(one, ids) for one in found]
    images, categories = set(ids.images.values()), set(ids.categories.values())
    problems = Problems()
    _check_rows(path, "detections", found, images, categories, problems)
    problems.raise_any()
    return found


def _check_rows(
    path: str | os.PathLike[str],
    what: str,
    rows: Sequence[dict[str, Any]],
    images: Collection[Id],
    categories: Collection[Id],
    problems: Problems,
) -> None:
    """Adds to ``problems`` annotations or detections of an unknown image or category, or a wrong number."""
    numbers = ("score",) if what == "detections" else ()
    for place, one in enumerate(rows):
        fault = _fault(one, images, categories, numbers)
        if fault:
            problems.add(f"{path}: {what}[{place}]: {fault}")


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(text_files.read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is no JSON file: {error}") from None


def _by_id(
    path: str | os.PathLike[str], found: dict[str, Any], key: str, text: str, problems: Problems
) -> dict[Id, dict]:
    """The entries of a list by their id, each with a text, unless that is ""."""
    by_id: dict[Id, dict] = {}
    for place, one in enumerate(found[key]):
        number, name = one.get("id"), one.get(text, "")
        if not isinstance(number, int | str) or (text and not (isinstance(name, str) and name.strip())):
            problems.add(f"{path}: {key}[{place}] has no id{f' or no {text}' if text else ''}")
        elif number in by_id:
            problems.add(f"{path}: {key}[{place}]: the id {number!r} stands there twice")
        else:
            by_id[number] = {**one, text: name.strip()} if text else one
    return by_id


def _with_ids(one: dict[str, Any], ids: CocoIds) -> dict[str, Any]:
    image, name = one.get("image_name", one.get("image_id")), one.get("category_name")
    if isinstance(image, str) and image in ids.images:
        one = {**one, "image_id": ids.images[image]}
    if isinstance(name, str) and name in ids.categories:
        one = {**one, "category_id": ids.categories[name]}
    return one


def _fault(
    one: dict[str, Any], images: Collection[Id], categories: Collection[Id], numbers: Sequence[str]
) -> str:
    """What is wrong with an annotation or a detection, or ""."""
    for key, known in (("image_id", images), ("category_id", categories)):
        if isinstance(one.get(key), list | dict) or one.get(key) not in known:
            return f"unknown {key} {one.get(key)!r}"
    box = one.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)) or min(box[2:]) < 0:
        return f"bbox {box!r} is not four numbers x, y, width, height with a size of 0 or more"
    for key in numbers:
        if not _finite(one.get(key)):
            return f"{key} {one.get(key)!r} is no finite number"
    if not _finite(one.get("area", 0)):
        return f"area {one['area']!r} is no finite number"
    if one.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {one['iscrowd']!r} is neither 0 nor 1"
    return ""


def is_side(value: Any) -> bool:
    """Whether it can be the height or width of a picture; files may lack them, or hold null or 0."""
    return isinstance(value, int | float) and 0 < value <= text_files.LARGEST


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= text_files.LARGEST**2  # an integer may have any number of digits
