"""COCO's average precision, computed by pycocotools (extra ``[coco]``)."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import EDGES, Boxes
from fgfi_tf.evaluation.protocol import Measure, Result, ignored_rows

#: The twelve numbers in COCOeval's order.
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_ALL_AREAS, _MOST_DETECTIONS, _IOU_50 = 0, -1, 0  # places on the axes of ``precision`` and ``recall``


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """One class, over all areas, 100 detections an image; NaN where the class has no object.

    AP over the ten IoU thresholds, at 0.5, and average recall are fractions. ``precision`` is float64 [101],
    at IoU 0.5 and recall 0, 0.01 ... 1.
    """

    ap: float
    ap50: float
    ar: float
    precision: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluation(Result):
    """What COCOeval accumulated.

    Attributes:
        stats: float64 [12], in the order of ``STATS``; -1 where nothing can be said.
        precision: float64 [T 10, R 101, K, A 4, M 3], -1 where a class has no object.
        recall: float64 [T, K, A, M].
        class_names: of the axis K.
        n_images: how many were evaluated.
    """

    stats: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    class_names: tuple[str, ...]
    n_images: int

    def __iter__(self) -> Iterator[tuple[str, ClassResult]]:
        for index, name in enumerate(self.class_names):
            precision = self.precision[:, :, index, _ALL_AREAS, _MOST_DETECTIONS]  # T x R
            at_50, recall = precision[_IOU_50], self.recall[:, index, _ALL_AREAS, _MOST_DETECTIONS]
            yield name, ClassResult(_mean(precision), _mean(at_50), _mean(recall), at_50)

    @property
    def metrics(self) -> dict[str, float]:
        """The twelve numbers without those that say nothing, then AP of each class that has an object."""
        stats = {key: value for key, value in zip(STATS, self.stats.tolist(), strict=True) if value > -1}
        return {"AP": 0.0} | stats | {name: one.ap for name, one in self if not np.isnan(one.ap)}

    def measures(self) -> tuple[Measure, ...]:
        """The twelve numbers, and AP of each class."""
        stats = {("", key): _known(value) for key, value in zip(STATS, self.stats.tolist(), strict=True)}
        classes = {
            (name, title): _known(getattr(one, key))
            for name, one in self
            for key, title in (("ap", "AP"), ("ap50", "AP50"), ("ar", "AR100"))
        }
        return Measure("COCO's twelve numbers", stats, published=True), Measure("Classes", classes)

    def curves(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """Precision at IoU 0.5 and recall 0, 0.01 ... 1."""
        recall = np.linspace(0, 1, self.precision.shape[1])
        return {(name, ""): (recall, one.precision) for name, one in self if not np.isnan(one.ap)}

    def to_json(self) -> dict[str, Any]:
        """The twelve numbers in order and by name, and those of each class (None without an object)."""
        keys, stats = ("ap", "ap50", "ar"), self.stats.tolist()
        classes = {name: {key: _known(getattr(one, key)) for key in keys} for name, one in self}
        by_name = dict(zip(STATS, stats, strict=True))
        return {"stats": stats, **by_name, "classes": classes, "images": self.n_images}


def _known(value: float) -> float | None:
    return value if value >= 0 else None  # neither -1 nor NaN


def _mean(values: np.ndarray) -> float:
    held = values[values > -1]
    return float(held.mean()) if held.size else float("nan")


def pycocotools() -> tuple[type, type]:
    """Its classes COCO and COCOeval. Raises UserError where it is not installed."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError("COCO AP is computed by pycocotools: pip install -e '.[coco]'") from None
    return COCO, COCOeval


def evaluate(detections: Boxes, ground_truth: Boxes) -> Evaluation:
    """COCOeval with its default parameters: the classes of the detections, the images of the ground truth.

    Columns of the ground truth: ``area`` (else that of the box) and ``crowd`` (else what is difficult, or
    what training ignores, which takes detections without counting them, as a crowd does). Images and classes
    are numbered as they stand. Equal scores rank by row.

    Raises UserError: pycocotools is not installed.
    """
    COCO, COCOeval = pycocotools()
    detections = detections.select(ground_truth.image_ids, allow_missing=True)
    truth = ground_truth.with_classes(detections.class_names)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        run = COCOeval(_indexed(COCO(), truth), _indexed(COCO(), detections), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return Evaluation(
        stats=np.asarray(run.stats, np.float64),
        precision=run.eval["precision"],
        recall=run.eval["recall"],
        class_names=detections.class_names,
        n_images=len(run.params.imgIds),
    )


def _indexed(coco: Any, table: Boxes) -> Any:
    """A table as what pycocotools reads from a JSON file."""
    table, scored = table.to(EDGES), table.scores is not None
    # sizes as a file gave them, to the last digit, where one did
    width = table.columns.get("width", table.boxes[:, 2] - table.boxes[:, 0])
    height = table.columns.get("height", table.boxes[:, 3] - table.boxes[:, 1])
    crowd = table.flag("crowd") if scored or "crowd" in table.columns else ignored_rows(table)
    columns = {
        "image_id": table.image,
        "category_id": table.classes,
        "bbox": np.stack([table.boxes[:, 0], table.boxes[:, 1], width, height], axis=1),
        "area": width * height if scored else table.columns.get("area", width * height),
        "iscrowd": crowd.astype(int),
        **({"score": table.scores} if scored else {}),
    }
    rows = enumerate(zip(*(column.tolist() for column in columns.values()), strict=True), start=1)
    coco.dataset = {
        "images": [{"id": number} for number in range(len(table.image_ids))],
        "annotations": [{"id": n, **dict(zip(columns, row, strict=True))} for n, row in rows if row[1] >= 0],
        "categories": [{"id": number, "name": name} for number, name in enumerate(table.class_names)],
    }
    coco.createIndex()
    return coco
