"""Average precision of the PASCAL VOC development kit: 11 points (2007) and area (2010 on).

Detections of a class go down in score over all images. Each is compared with the object of its image and
class that it overlaps most, difficult and already found ones included. With a sufficient IoU (+ 1 pixel
convention) it is a true positive where the object has not been found yet, ignored where the object is
difficult, and a false positive where it has been found; otherwise it is a false positive. Difficult objects
are no positives. Equal scores keep their order.

Two protocols: ``official``, the development kit (Matlab), for which an IoU equal to the threshold is
sufficient, and ``reference``, the Python evaluator of the 2019 code, which published Faster R-CNN figures
come from, for which it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.voc_types import Detections, Truths

METRICS = ("11point", "area")
PROTOCOLS = ("official", "reference")
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
        order: int64 [N], the rows of the evaluated detections in that order.
        matched: int64 [N], the row of the truth that each matches, difficult or not; -1 for none.
        recall: float64 [N], up to each detection; NaN without positives.
        precision: float64 [N].
    """

    ap_11point: float
    ap_area: float
    positives: int
    difficult: int
    true_positives: np.ndarray
    false_positives: np.ndarray
    order: np.ndarray
    matched: np.ndarray
    recall: np.ndarray
    precision: np.ndarray

    def ap(self, metric: str = "11point") -> float:
        """``ap_11point`` or ``ap_area``."""
        return getattr(self, f"ap_{metric}")

    @property
    def ignored(self) -> int:
        """Detections of difficult objects."""
        return int(len(self.order) - np.sum(self.true_positives) - np.sum(self.false_positives))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results by class name; ``n_images`` images were evaluated at ``iou_threshold`` by ``protocol``."""

    results: dict[str, ClassResult]
    n_images: int
    iou_threshold: float
    protocol: str = "official"

    def __iter__(self) -> Iterator[tuple[str, ClassResult]]:
        return iter(self.results.items())

    def suffices(self, iou: np.ndarray) -> np.ndarray:
        """bool: whether boxes of these IoUs match."""
        return iou >= self.iou_threshold if self.protocol == "official" else iou > self.iou_threshold

    def mean_ap(self, metric: str = "11point", present_only: bool = False) -> float:
        """Mean over all classes, or over those that have positives (of a small data set not all do)."""
        values = [r.ap(metric) for r in self.results.values() if r.positives or not present_only]
        return float(np.mean(values)) if values else 0.0

    def to_json(self) -> dict:
        """Class -> figures as fractions in full precision, and their means under ``mean``."""
        classes = {
            name: {
                "AP11": r.ap_11point,
                "AP_area": None if np.isnan(r.ap_area) else r.ap_area,
                "positives": r.positives,
                "difficult": r.difficult,
                "detections": len(r.order),
                "true_positives": int(np.sum(r.true_positives)),
                "false_positives": int(np.sum(r.false_positives)),
                "ignored": r.ignored,
            }
            for name, r in self
        }
        means = {
            "AP11": self.mean_ap("11point"),
            "AP11_present": self.mean_ap("11point", present_only=True),
            "AP_area_present": self.mean_ap("area", present_only=True),
        }
        return {**classes, "mean": means}


def evaluate(
    detections: Detections, truths: Truths, protocol: str = "official", iou_threshold: float = 0.5
) -> Evaluation:
    """Evaluates every class.

    Args:
        detections: of the images of ``truths``; those of other images are refused.
        truths: all objects of all images.
        protocol: ``official`` or ``reference`` (module docstring).
        iou_threshold: the IoU that two boxes must have, or exceed, to match.

    Raises:
        UserError: an unknown protocol, detections of an image that ``truths`` does not name, other class
            names.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    detections = detections.of_images(truths)
    best_iou, best_truth = best_truths(detections, truths)
    evaluation = Evaluation({}, len(truths.image_ids), iou_threshold, protocol)
    best_truth = np.where(evaluation.suffices(best_iou), best_truth, -1)
    for index, name in enumerate(detections.class_names):
        rows = np.flatnonzero(detections.classes == index)
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        own = truths.classes == index
        evaluation.results[name] = _class_result(
            rows,
            best_truth=best_truth[rows],
            difficult=truths.difficult,
            positives=int(np.sum(own & ~truths.difficult)),
            n_difficult=int(np.sum(own & truths.difficult)),
        )
    return evaluation


def best_truths(
    detections: Detections, truths: Truths, other_classes: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Each detection's highest IoU with a truth of its image and class, and that truth (first on a tie).

    -inf and -1 where there is none; the IoU is NaN where a box has no area. With ``other_classes``, of the
    image's truths of every other class.
    """
    n_classes = 1 if other_classes else len(truths.class_names)
    truth_group = truths.image * n_classes + (0 if other_classes else truths.classes)
    group = detections.image * n_classes + (0 if other_classes else detections.classes)
    by_group = np.argsort(truth_group, kind="stable")
    sorted_groups = truth_group[by_group]
    start = np.searchsorted(sorted_groups, group, side="left")
    count = np.searchsorted(sorted_groups, group, side="right") - start
    best_iou, best_truth = np.full(len(group), -np.inf), np.full(len(group), -1)
    some = np.flatnonzero(count)
    if not len(some):
        return best_iou, best_truth
    first_pair = np.cumsum(count[some]) - count[some]  # where the pairs of each detection begin
    within = np.arange(count[some].sum()) - np.repeat(first_pair, count[some])
    pair_truth = by_group[np.repeat(start[some], count[some]) + within]
    pair_detection = np.repeat(some, count[some])
    iou = _iou(detections.boxes[pair_detection], truths.boxes[pair_truth])
    if other_classes:
        iou[truths.classes[pair_truth] == detections.classes[pair_detection]] = -np.inf
    best_iou[some] = np.maximum.reduceat(iou, first_pair)
    is_best = iou == np.repeat(best_iou[some], count[some])
    first_best = np.minimum.reduceat(np.where(is_best, np.arange(len(iou)), len(iou)), first_pair)
    known = first_best < len(iou)  # not where the IoU is NaN
    best_truth[some[known]] = pair_truth[first_best[known]]
    return best_iou, best_truth


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes [P,4], row by row; in the order of operations of the Python evaluator, to the last bit."""
    width = np.maximum(np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + 1.0, 0.0)
    height = np.maximum(np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + 1.0, 0.0)
    intersection = width * height
    area_a = (a[:, 2] - a[:, 0] + 1.0) * (a[:, 3] - a[:, 1] + 1.0)
    area_b = (b[:, 2] - b[:, 0] + 1.0) * (b[:, 3] - b[:, 1] + 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return intersection / (area_a + area_b - intersection)


def _class_result(
    rows: np.ndarray, best_truth: np.ndarray, difficult: np.ndarray, positives: int, n_difficult: int
) -> ClassResult:
    """``best_truth`` [N]: the truth that each detection, by descending score, matches; -1 for none."""
    matched = best_truth >= 0
    on_difficult = matched.copy()
    on_difficult[matched] = difficult[best_truth[matched]]
    first = np.zeros(len(rows), bool)  # the first detection of its truth
    first[np.unique(best_truth, return_index=True)[1]] = True
    true_positives = matched & first & ~on_difficult
    false_positives = ~true_positives & ~on_difficult
    tp, fp = np.cumsum(true_positives, dtype=np.float64), np.cumsum(false_positives, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        recall = tp / np.float64(positives)
    precision = tp / np.maximum(tp + fp, np.finfo(np.float64).eps)
    return ClassResult(
        ap_11point=ap_11point(recall, precision),
        ap_area=ap_area(recall, precision),
        positives=positives,
        difficult=n_difficult,
        true_positives=true_positives,
        false_positives=false_positives,
        order=rows,
        matched=best_truth,
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
