"""What becomes of VOC detections: correct, or wrong in which way; and which objects are missed.

Operating point: for each class the n highest-scored detections that count, n being the number of its
positives. A perfect detector has n correct ones there. The kinds are those of D. Hoiem et al., "Diagnosing
Error in Object Detectors", ECCV 2012, as in the analysis of KITTI results:

* ``correct``: a true positive.
* ``repeated``: matches an object that a better detection has found.
* ``classification``: overlaps an object of another class by the IoU that a match needs.
* ``localisation``: overlaps an object of its class by more than 0.1, and not enough.
* ``background``: the rest.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fgfi_tf.evaluation import voc
from fgfi_tf.evaluation.voc_types import Detections, Truths

KINDS = ("correct", "localisation", "classification", "repeated", "background")
CORRECT, LOCALISATION, CLASSIFICATION, REPEATED, BACKGROUND = range(len(KINDS))
LOCALISATION_OVERLAP = 0.1


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One class.

    Attributes:
        positives: how many objects count.
        rows: int64 [K], K <= positives, the detections of the operating point, best score first.
        kinds: int64 [K], index into ``KINDS``.
        missed: int64 [M], rows of the truths that count and that no correct one of these belongs to.
    """

    positives: int
    rows: np.ndarray
    kinds: np.ndarray
    missed: np.ndarray

    def counts(self) -> dict[str, int]:
        """How many of each kind, and ``missed``."""
        number = np.bincount(self.kinds, minlength=len(KINDS)).tolist()
        return dict(zip(KINDS, number, strict=True)) | {"missed": len(self.missed)}


def analyse(detections: Detections, truths: Truths, evaluation: voc.Evaluation) -> dict[str, Analysis]:
    """The analysis of every class.

    Args:
        detections: what was evaluated.
        truths: the objects it was compared with.
        evaluation: the result of ``voc.evaluate`` on the two.
    """
    detections = detections.of_images(truths)
    own_iou, _ = voc.best_truths(detections, truths)
    other_iou, _ = voc.best_truths(detections, truths, other_classes=True)
    return {
        name: _of_class(result, index, own_iou, evaluation.suffices(other_iou), truths)
        for index, (name, result) in enumerate(evaluation)
    }


def _of_class(
    result: voc.ClassResult,
    class_index: int,
    own_iou: np.ndarray,
    on_other: np.ndarray,
    truths: Truths,
) -> Analysis:
    counted = np.flatnonzero(result.true_positives | result.false_positives)[: result.positives]
    rows = result.order[counted]
    kinds = np.full(len(rows), BACKGROUND)
    kinds[own_iou[rows] > LOCALISATION_OVERLAP] = LOCALISATION
    kinds[on_other[rows]] = CLASSIFICATION
    kinds[result.matched[counted] >= 0] = REPEATED
    correct = result.true_positives[counted]
    kinds[correct] = CORRECT
    missed = (truths.classes == class_index) & ~truths.difficult
    missed[result.matched[counted][correct]] = False
    return Analysis(result.positives, rows, kinds, np.flatnonzero(missed))


def errors_per_image(analyses: dict[str, Analysis], detections: Detections, truths: Truths) -> np.ndarray:
    """Wrong detections plus missed objects of all classes: int64 [images]."""
    image = detections.of_images(truths).image
    errors = np.zeros(len(truths.image_ids), np.int64)
    for part in analyses.values():
        errors += np.bincount(image[part.rows[part.kinds != CORRECT]], minlength=len(errors))
        errors += np.bincount(truths.image[part.missed], minlength=len(errors))
    return errors
