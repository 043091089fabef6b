"""COCO's JSON files: ground truth and lists of detections."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgfi_tf.errors import MOST_PROBLEMS, UserError


def read_ground_truth(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A file with ``images``, ``annotations`` and ``categories``.

    An annotation without ``area`` gets the area of its box, one without ``iscrowd`` is no crowd, one without
    ``id`` gets a number.

    Raises:
        UserError: the file is absent or no such JSON; an annotation of an unknown image or category, or whose
            box is not four finite numbers with a size of 0 or more; up to 20 are named at once.
    """
    found = _read(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: ground truth is an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(found.get(key), list) or not all(isinstance(one, dict) for one in found[key]):
            raise UserError(f"{path}: holds no list of {key}")
    for key, wanted in (("images", ("id",)), ("categories", ("id", "name"))):
        for number, one in enumerate(found[key]):
            if any(name not in one for name in wanted):
                raise UserError(f"{path}: {key}[{number}] has no {' or '.join(wanted)}")
        if len({one["id"] for one in found[key]}) != len(found[key]):
            raise UserError(f"{path}: an id of {key} stands there twice")
    images, categories = ({one["id"] for one in found[key]} for key in ("images", "categories"))
    _refuse(path, "annotations", found["annotations"], images, categories, ())
    annotations = [
        {
            **one,
            "id": one.get("id", number),
            "area": one.get("area", one["bbox"][2] * one["bbox"][3]),
            "iscrowd": one.get("iscrowd", 0),
        }
        for number, one in enumerate(found["annotations"], start=1)
    ]
    return {**found, "annotations": annotations}


def read_detections(path: str | os.PathLike[str], ground_truth: dict[str, Any]) -> list[dict[str, Any]]:
    """A list of detections of the images and categories of ``ground_truth``.

    Raises:
        UserError: the file is absent or no such JSON; a detection of an unknown image or category, a box or
            score that is not finite; up to 20 are named at once.
    """
    found = _read(path)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{path}: results are a list of image_id, category_id, bbox and score")
    images, categories = ({one["id"] for one in ground_truth[key]} for key in ("images", "categories"))
    _refuse(path, "detections", found, images, categories, ("score",))
    return found


def write_detections(path: str | os.PathLike[str], detections: Sequence[dict[str, Any]]) -> None:
    """Writes a list of ``image_id``, ``category_id``, ``bbox`` and ``score``, with every digit."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(list(detections)) + "\n")


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON file: {error}") from None


def _refuse(
    path: str | os.PathLike[str], what: str, rows: list[dict], images: set, categories: set, numbers: tuple
) -> None:
    bad = []
    for place, one in enumerate(rows):
        reason = _fault(one, images, categories, numbers)
        if reason:
            bad.append(f"{what}[{place}]: {reason}")
    if bad:
        more = f" ({len(bad)} in all)" if len(bad) > MOST_PROBLEMS else ""
        raise UserError(f"{path}: {'; '.join(bad[:MOST_PROBLEMS])}{more}")


def _fault(one: dict, images: set, categories: set, numbers: tuple) -> str:
    """What is wrong with an annotation or detection, or ""."""
    for key, known in (("image_id", images), ("category_id", categories)):
        value = one.get(key)
        if isinstance(value, list | dict) or value not in known:
            return f"unknown {key} {value!r}"
    box = one.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)) or min(box[2:]) < 0:
        return f"bbox {box!r} is not four numbers x, y, w, h with a size of 0 or more"
    for key in numbers:
        if not _finite(one.get(key)):
            return f"{key} {one.get(key)!r} is no finite number"
    if not _finite(one.get("area", 0)) or one.get("iscrowd", 0) not in (0, 1):
        return "area or iscrowd is no number as it should be"
    return ""


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
