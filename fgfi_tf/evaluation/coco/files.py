"""COCO's JSON files: ground truth and lists of detections."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from fgfi_tf.errors import MOST_PROBLEMS, UserError
from fgfi_tf.evaluation.boxes import EDGES, Boxes, CocoIds


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


def read_detections(path: str | os.PathLike[str], ids: CocoIds) -> list[dict[str, Any]]:
    """A list of detections of known images and categories.

    An image may be given by its name instead of its id, a category by ``category_name``, which wins: so
    detectors write that do not know the ids.

    Raises:
        UserError: the file is absent or no such JSON; a detection of an unknown image or category, a box or
            score that is not finite; up to 20 are named at once.
    """
    found = _read(path)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{path}: results are a list of image_id, category_id, bbox and score")
    found = [_with_ids(one, ids) for one in found]
    _refuse(path, "detections", found, set(ids.images.values()), set(ids.categories.values()), ("score",))
    return found


def _with_ids(one: dict[str, Any], ids: CocoIds) -> dict[str, Any]:
    image, name = one.get("image_id"), one.get("category_name")
    changed = {}
    if isinstance(image, str) and image in ids.images:
        changed["image_id"] = ids.images[image]
    if isinstance(name, str) and name in ids.categories:
        changed["category_id"] = ids.categories[name]
    return {**one, **changed} if changed else one


def ground_truth_table(ground_truth: dict[str, Any]) -> Boxes:
    """What :func:`read_ground_truth` gives as a table; images by rising id, as pycocotools takes them.

    An image is called as its file, without suffix, where every image has one of its own; else as its id.
    """
    images = sorted(ground_truth["images"], key=lambda one: (isinstance(one["id"], str), one["id"]))
    categories = sorted(ground_truth["categories"], key=lambda one: one["id"])
    names = [PurePath(str(one.get("file_name", ""))).with_suffix("").as_posix() for one in images]
    if len({name for name in names if name != "."}) < len(images):
        names = [str(one["id"]) for one in images]
    ids = CocoIds(
        {name: one["id"] for name, one in zip(names, images, strict=True)},
        {str(one["name"]): one["id"] for one in categories},
    )
    if len(ids.categories) < len(categories):
        raise UserError("two categories have the same name")
    sizes = [(one.get("height", 0), one.get("width", 0)) for one in images]
    table = _table(ground_truth["annotations"], ids)
    return dataclasses.replace(
        table,
        columns={
            **table.columns,
            "area": np.array([one["area"] for one in ground_truth["annotations"]], np.float64),
            "crowd": np.array([one["iscrowd"] for one in ground_truth["annotations"]], bool),
        },
        image_sizes=np.array(sizes).reshape(-1, 2) if all(min(size) > 0 for size in sizes) else None,
    ).by_image()


def detections_table(detections: Sequence[dict[str, Any]], ids: CocoIds) -> Boxes:
    """What :func:`read_detections` gives as a table; equal scores keep their order within an image."""
    scores = np.array([one["score"] for one in detections], np.float64)
    return dataclasses.replace(_table(detections, ids), scores=scores).by_image()


def _table(rows: Sequence[dict[str, Any]], ids: CocoIds) -> Boxes:
    image = {key: number for number, key in enumerate(ids.images.values())}
    kind = {key: number for number, key in enumerate(ids.categories.values())}
    boxes = np.array([one["bbox"] for one in rows], np.float64).reshape(-1, 4)
    return Boxes(
        tuple(ids.images),
        tuple(ids.categories),
        np.array([image[one["image_id"]] for one in rows], np.int64),
        np.array([kind[one["category_id"]] for one in rows], np.int64),
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        columns={"width": boxes[:, 2], "height": boxes[:, 3]},
        corners=EDGES,
        coco_ids=ids,
    )


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
