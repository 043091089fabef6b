"""COCO's JSON files as tables: ground truth and lists of detections."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from fgfi_tf.data import coco_json
from fgfi_tf.data.coco_json import CocoIds
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import EDGES, Boxes


def read_ground_truth(path: str | os.PathLike[str]) -> Boxes:
    """A file of annotations; images by rising id, as pycocotools takes them.

    An image is called as its file, without suffix, where every image has one of its own; else as its id. An
    annotation without ``area`` gets the area of its box, one without ``iscrowd`` is no crowd.

    Raises UserError: see ``coco_json.read_annotations``; two categories have the same name.
    """
    found = coco_json.read_annotations(path, named=False)
    images, categories = _by_rising_id(found.images), _by_rising_id(found.categories)
    paths = [PurePath(str(one.get("file_name", ""))) for one in images]
    names = [path.with_suffix("").as_posix() for path in paths if path.name]
    if len(set(names)) < len(images):
        names = [str(one["id"]) for one in images]
    ids = CocoIds(
        {name: one["id"] for name, one in zip(names, images, strict=True)},
        {one["name"]: one["id"] for one in categories},
    )
    if len(ids.categories) < len(categories):
        raise UserError(f"{path}: two categories have the same name")
    sizes = [(one.get("height"), one.get("width")) for one in images]
    known = all(coco_json.is_side(side) for size in sizes for side in size)
    table = _table(found.objects, ids)
    areas = [one.get("area", one["bbox"][2] * one["bbox"][3]) for one in found.objects]
    crowd = [one.get("iscrowd", 0) for one in found.objects]
    return dataclasses.replace(
        table,
        columns={**table.columns, "area": np.array(areas, np.float64), "crowd": np.array(crowd, bool)},
        image_sizes=np.array(sizes).reshape(-1, 2) if known else None,
    ).by_image()


def read_detections(path: str | os.PathLike[str], ids: CocoIds) -> Boxes:
    """A list of detections; equal scores keep their order within an image.

    Raises UserError as ``coco_json.read_detections``.
    """
    found = coco_json.read_detections(path, ids)
    scores = np.array([one["score"] for one in found], np.float64)
    return dataclasses.replace(_table(found, ids), scores=scores).by_image()


def _by_rising_id(entries: dict[coco_json.Id, dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries.values(), key=lambda one: (isinstance(one["id"], str), one["id"]))


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
