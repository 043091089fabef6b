"""Average precision of the PASCAL VOC development kit: 11 points (2007) and area (2010 on).

Detections of a class go down in score over all images. Each is compared with the object of its image and
class that it overlaps most, difficult and already found ones included. With a sufficient IoU (+ 1 pixel
convention) it is a true positive where the object has not been found yet, ignored where the object is
difficult, and a false positive where it has been found; otherwise it is a false positive. Difficult objects
are no positives. Equal scores keep their order.

Two variants: ``official``, the development kit (Matlab), for which an IoU equal to the threshold is
sufficient, and ``reference``, the Python evaluator of the 2019 code, which published Faster R-CNN metrics
come from, for which it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import matching
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.protocol import MEAN, Measure, Result, Rule, ignored_rows

METRICS = {"11point": "11 points (VOC 2007)", "area": "Area under the curve (VOC 2010 on)"}
VARIANTS = ("official", "reference")
#: The mean over those classes that have objects that count.
PRESENT = ("", "mean, present")
_RECALL_THRESHOLDS = np.arange(0.0, 1.1, 0.1)


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """One class over all images.

    Attributes:
        ap_11point: VOC 2007's measure.
        ap_area: VOC 2010's; NaN for a class without positives that has detections.
        positives: objects that are not difficult.
        difficult: objects that are.
        true_positives: bool [N], N detections by descending score.
        false_positives: bool [N]; neither is set for detections of difficult objects.
        recall: float64 [N], up to each detection; NaN without positives.
        precision: float64 [N].
    """

    ap_11point: float
    ap_area: float
    positives: int
    difficult: int
    true_positives: np.ndarray
    false_positives: np.ndarray
    recall: np.ndarray
    precision: np.ndarray

    def ap(self, metric: str = "11point") -> float:
        """``ap_11point`` or ``ap_area``."""
        return getattr(self, f"ap_{metric}")

    @property
    def ignored(self) -> int:
        """Detections of difficult objects."""
        return int(len(self.recall) - np.sum(self.true_positives) - np.sum(self.false_positives))


@dataclasses.dataclass(frozen=True)
class Evaluation(Result):
    """Results by class name; ``n_images`` images were evaluated at ``iou_threshold`` by ``variant``."""

    results: dict[str, ClassResult]
    n_images: int
    iou_threshold: float
    variant: str = "official"

    def __iter__(self) -> Iterator[tuple[str, ClassResult]]:
        return iter(self.results.items())

    @property
    def metrics(self) -> dict[str, float]:
        """The mean over the classes that have objects, at 11 points and of the area, then each class."""
        means = {"mAP11": self.mean_ap(present_only=True), "mAP_area": self.mean_ap("area", True)}
        return means | {name: one.ap_11point for name, one in self if one.positives}

    def measures(self) -> tuple[Measure, ...]:
        """Both APs; None for a class that has no objects that count."""
        found = []
        for metric, title in METRICS.items():
            values = {(name, ""): one.ap(metric) if one.positives else None for name, one in self}
            mean = self.mean_ap(metric)
            values[MEAN] = None if np.isnan(mean) else mean
            present = [bool(one.positives) for _, one in self]
            if not all(present):
                values[PRESENT] = self.mean_ap(metric, present_only=True) if any(present) else None
            found.append(Measure(title, values, published=metric == "11point"))
        return tuple(found)

    def curves(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """The best precision at each recall or above, from the first axis down to the second."""
        found = {}
        for name, one in self:
            if one.positives:
                envelope = np.maximum.accumulate(one.precision[::-1])[::-1]
                start, last = np.zeros(len(one.recall[:1])), one.recall[-1:]
                x = np.concatenate([start, one.recall, last])
                found[name, ""] = x, np.concatenate([envelope[:1], envelope, np.zeros(len(last))])
        return found

    def mean_ap(self, metric: str = "11point", present_only: bool = False) -> float:
        """Mean over all classes, or over those that have positives (of a small data set not all do)."""
        values = [r.ap(metric) for r in self.results.values() if r.positives or not present_only]
        return float(np.mean(values)) if values else 0.0

    def to_json(self) -> dict:
        """Class -> metrics as fractions in full precision, and their means under ``mean``."""
        classes = {
            name: {
                "AP11": r.ap_11point,
                "AP_area": None if np.isnan(r.ap_area) else r.ap_area,
                "positives": r.positives,
                "difficult": r.difficult,
                "detections": len(r.recall),
                "true_positives": int(np.sum(r.true_positives)),
                "false_positives": int(np.sum(r.false_positives)),
                "ignored": r.ignored,
            }
            for name, r in self
        }
        means = {"AP11": self.mean_ap(), "AP11_present": self.mean_ap(present_only=True)}
        return {**classes, "mean": {**means, "AP_area_present": self.mean_ap("area", present_only=True)}}


def evaluate(
    detections: Boxes, ground_truth: Boxes, variant: str = "official", iou_threshold: float = 0.5
) -> Evaluation:
    """Evaluates every class of the detections, of which equal scores rank by row; corners are inclusive.

    ``variant`` is ``official`` or ``reference``, see the module. The ground truth has a column ``difficult``;
    its other classes are left out.

    Raises UserError: an unknown variant, detections of an image that ``ground_truth`` does not name, no class
    that both have.
    """
    if variant not in VARIANTS:
        raise UserError(f"protocol {variant!r} is not one of {', '.join(VARIANTS)}")
    detections, ground_truth = _aligned(detections, ground_truth)
    n_classes = len(ground_truth.class_names)
    found, objects = ((one.image * n_classes + one.classes, one.boxes) for one in (detections, ground_truth))
    best_iou, best_truth = matching.best_overlaps(*found, *objects, side=1.0)
    evaluation = Evaluation({}, len(ground_truth.image_ids), iou_threshold, variant)
    suffices = Rule(at_least=variant == "official").suffices(best_iou, iou_threshold)
    best_truth = np.where(suffices, best_truth, -1)
    difficult = ignored_rows(ground_truth)
    for index, name in enumerate(ground_truth.class_names):
        rows, own = detections.by_score(detections.classes == index), ground_truth.classes == index
        evaluation.results[name] = _class_result(best_truth[rows], own, difficult)
    return evaluation


def _aligned(detections: Boxes, ground_truth: Boxes) -> tuple[Boxes, Boxes]:
    """Both of the same images and of the detections' classes."""
    known = set(ground_truth.image_ids)
    used = np.bincount(detections.image, minlength=len(detections.image_ids))
    unknown = [n for n, count in zip(detections.image_ids, used, strict=True) if count and n not in known]
    if unknown:
        raise UserError(f"detections of image {unknown[0]}, which has no labels ({len(unknown)} such images)")
    labelled = ground_truth.with_classes(detections.class_names)
    if len(labelled) and (labelled.classes < 0).all():
        raise UserError(
            f"no label is of the detections' classes ({', '.join(detections.class_names[:5])} ...)"
        )
    return detections.select(ground_truth.image_ids, allow_missing=True), labelled.take(labelled.classes >= 0)


def _class_result(best_truth: np.ndarray, own: np.ndarray, difficult: np.ndarray) -> ClassResult:
    """``best_truth`` [N]: the object that each detection, best score first, matches; -1 for none."""
    matched = best_truth >= 0
    on_difficult = matched.copy()
    on_difficult[matched] = difficult[best_truth[matched]]
    first = np.zeros(len(best_truth), bool)  # the first detection of its ground truth
    first[np.unique(best_truth, return_index=True)[1]] = True
    true_positives = matched & first & ~on_difficult
    false_positives = ~true_positives & ~on_difficult
    tp, fp = np.cumsum(true_positives, dtype=np.float64), np.cumsum(false_positives, dtype=np.float64)
    positives = int(np.sum(own & ~difficult))
    with np.errstate(invalid="ignore"):
        recall = tp / np.float64(positives)
    precision = tp / np.maximum(tp + fp, np.finfo(np.float64).eps)
    return ClassResult(
        ap_11point=ap_11point(recall, precision),
        ap_area=ap_area(recall, precision),
        positives=positives,
        difficult=int(np.sum(own & difficult)),
        true_positives=true_positives,
        false_positives=false_positives,
        recall=recall,
        precision=precision,
    )


def ap_11point(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over recall 0, 0.1 .. 1 of the best precision at that recall or above (VOC 2007)."""
    total = 0.0
    for threshold in _RECALL_THRESHOLDS:
        reached = recall >= threshold
        total += np.max(precision[reached]) if reached.any() else 0.0
    return float(total / len(_RECALL_THRESHOLDS))  # eleven elevenths added up would be more than 1


def ap_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision envelope over recall (VOC 2010)."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * envelope[steps + 1]))


def rounded(detections: Boxes) -> Boxes:
    """As the published result files hold them: scores with 3 decimals, coordinates with 1."""
    return dataclasses.replace(
        detections, scores=_decimals(detections.scores, 3), boxes=_decimals(detections.boxes, 1)
    )


def _decimals(values: np.ndarray, digits: int) -> np.ndarray:
    """What printing with so many decimals and reading again gives (numpy's own rounding differs on ties)."""
    return np.array([float(f"{v:.{digits}f}") for v in values.reshape(-1)]).reshape(values.shape)
