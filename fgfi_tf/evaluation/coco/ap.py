"""COCO's average precision, computed by pycocotools (extra ``[coco]``).

Ground truth and detections are what COCO's JSON files hold, as Python values (see ``files``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
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

    Attributes:
        ap, ap50, ar: AP over the ten IoU thresholds, at 0.5, and average recall; fractions.
        precision: float64 [101], at IoU 0.5 and recall 0, 0.01 ... 1.
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
        class_names, category_ids: of the axis K.
        n_images: how many were evaluated.
    """

    stats: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    n_images: int

    def __iter__(self) -> Iterator[tuple[str, ClassResult]]:
        for index, name in enumerate(self.class_names):
            precision = self.precision[:, :, index, _ALL_AREAS, _MOST_DETECTIONS]  # T x R
            yield (
                name,
                ClassResult(
                    ap=_mean(precision),
                    ap50=_mean(precision[_IOU_50]),
                    ar=_mean(self.recall[:, index, _ALL_AREAS, _MOST_DETECTIONS]),
                    precision=precision[_IOU_50],
                ),
            )

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
        classes = {
            name: {
                key: None if np.isnan(getattr(one, key)) else getattr(one, key)
                for key in ("ap", "ap50", "ar")
            }
            for name, one in self
        }
        stats = self.stats.tolist()
        return {
            "stats": stats,
            **dict(zip(STATS, stats, strict=True)),
            "classes": classes,
            "images": self.n_images,
        }


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


def evaluate(ground_truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> Evaluation:
    """Evaluates boxes by COCOeval's default parameters.

    Args:
        ground_truth: ``images`` (``id``), ``annotations`` (``id``, ``image_id``, ``category_id``, ``bbox``
            (x, y, w, h) in pixels, ``area``, ``iscrowd``) and ``categories`` (``id``, ``name``).
        detections: ``image_id``, ``category_id``, ``bbox``, ``score``; ties keep this order.

    Raises:
        UserError: pycocotools is not installed.
    """
    COCO, COCOeval = pycocotools()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = _indexed(COCO(), ground_truth)
        boxes = [dict(found, id=number, iscrowd=0) for number, found in enumerate(detections, start=1)]
        for found in boxes:
            found["area"] = found["bbox"][2] * found["bbox"][3]
        found = _indexed(COCO(), {**ground_truth, "annotations": boxes})
        run = COCOeval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    return Evaluation(
        stats=np.asarray(run.stats, np.float64),
        precision=run.eval["precision"],
        recall=run.eval["recall"],
        class_names=tuple(names[key] for key in run.params.catIds),
        category_ids=tuple(run.params.catIds),
        n_images=len(run.params.imgIds),
    )


def evaluate_tables(detections: Boxes, ground_truth: Boxes) -> Evaluation:
    """:func:`evaluate` of two tables: the classes of the detections, the images of the ground truth.

    Columns of the ground truth: ``area`` (else that of the box) and ``crowd`` (else what is difficult, or
    what training ignores, which takes detections without counting them, as a crowd does). Without COCO's own
    ids images are numbered as they stand, classes too.

    Raises:
        UserError: pycocotools is not installed.
    """
    names, images = detections.class_names, ground_truth.image_ids
    truth = ground_truth.with_classes(names).to(EDGES)
    found = detections.select(images, allow_missing=True).to(EDGES)
    crowd = truth.flag("crowd") if "crowd" in truth.columns else ignored_rows(truth)
    boxes, areas = _xywh(truth)
    area = truth.columns.get("area", areas)
    annotations = [
        {
            "id": row + 1,
            "image_id": int(truth.image[row]),
            "category_id": int(truth.classes[row]),
            "bbox": boxes[row],
            "area": float(area[row]),
            "iscrowd": int(crowd[row]),
        }
        for row in np.flatnonzero(truth.classes >= 0)
    ]
    boxes, _ = _xywh(found)
    rows = zip(found.image.tolist(), found.classes.tolist(), boxes, found.scores.tolist(), strict=True)
    return evaluate(
        {
            "images": [{"id": number} for number in range(len(images))],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        },
        [
            dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True))
            for row in rows
            if row[1] >= 0
        ],
    )


def _xywh(table: Boxes) -> tuple[list[list[float]], np.ndarray]:
    """(x, y, w, h) and area of each box; sizes as a file gave them, to the last digit, where one did."""
    width = table.columns.get("width", table.boxes[:, 2] - table.boxes[:, 0])
    height = table.columns.get("height", table.boxes[:, 3] - table.boxes[:, 1])
    corners = [table.boxes[:, 0], table.boxes[:, 1], width, height]
    return np.stack(corners, axis=1).tolist(), width * height


def _indexed(coco: Any, dataset: dict[str, Any]) -> Any:
    coco.dataset = dataset
    coco.createIndex()
    return coco
