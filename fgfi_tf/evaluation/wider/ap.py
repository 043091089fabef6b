"""Average precision on WIDER FACE, easy / medium / hard (pure functions on arrays, no TensorFlow).

The rules are those of the official MATLAB kit and of the Python evaluator in common use; they give the same
numbers. What is particular to them:

* Scores are scaled to 0..1 by the smallest and largest score of the whole set, once.
* IoU has + 1 on every width and height, and x2 = x + w.
* A setting counts some faces of an image; all its others are ignored, not removed.
* A detection looks at its best face only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fgfi_tf.data.wider_mat import SETTINGS
from fgfi_tf.evaluation import matching
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.protocol import Measure, Result, ignored_rows

IOU_THRESHOLD = 0.5
N_THRESHOLDS = 1000


@dataclasses.dataclass(frozen=True)
class SettingResult:
    """One setting.

    Attributes:
        ap: average precision, a fraction.
        faces: how many count.
        proposals, recalled: int64 [1000], at the thresholds 0.999, 0.998 ... 0: detections that
            count, and faces found.
    """

    ap: float
    faces: int
    proposals: np.ndarray
    recalled: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """float64 [1000]; 0 where there is no proposal."""
        return self.recalled / np.maximum(self.proposals, 1)

    @property
    def recall(self) -> np.ndarray:
        """float64 [1000]; 0 where no face counts."""
        return self.recalled / max(self.faces, 1)


@dataclasses.dataclass(frozen=True)
class Evaluation(Result):
    """Setting -> result."""

    settings: Mapping[str, SettingResult]

    def __getitem__(self, setting: str) -> SettingResult:
        return self.settings[setting]

    @property
    def metrics(self) -> dict[str, float]:
        """AP of each setting."""
        return {name: one.ap for name, one in self.settings.items()}

    def measures(self) -> tuple[Measure, ...]:
        """AP of each setting."""
        values = {("", name): one.ap if one.faces else None for name, one in self.settings.items()}
        return (Measure("AP at IoU 0.5", values, published=True),)

    def curves(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """At the thousand thresholds."""
        return {
            ("face", name): (one.recall, np.maximum.accumulate(one.precision[::-1])[::-1])
            for name, one in self.settings.items()
            if one.faces
        }

    def to_json(self) -> dict[str, Any]:
        """AP of each setting as a fraction, and the faces that count."""
        return {**self.metrics, "faces": {name: one.faces for name, one in self.settings.items()}}


def counted_faces(faces: Boxes) -> dict[str, np.ndarray]:
    """Setting -> bool [F]. Ground truth without WIDER's settings has one, of all faces that must be found."""
    if set(SETTINGS) <= set(faces.columns):
        return {name: faces.flag(name) for name in SETTINGS}
    return {"all": ~(ignored_rows(faces) | faces.flag("ignore", "invalid"))}


def evaluate(detections: Boxes, faces: Boxes) -> Evaluation:
    """Evaluates every setting.

    An image without any labelled face is left out with its detections, as the evaluators do that this
    follows; one whose faces do not count in a setting is not: its unmatched detections are false there.

    Args:
        detections: of the images of ``faces``; within an image the order of the file, which the rules need
            to fall by score. Corners are edges of pixels.
        faces: columns ``easy``, ``medium``, ``hard``: whether a face counts; the others are ignored there.
    """
    detections, faces = detections.select(faces.image_ids, allow_missing=True).by_image(), faces.by_image()
    steps = _threshold_of_each(detections)
    iou, best = matching.best_overlaps(detections.image, detections.boxes, faces.image, faces.boxes, side=1.0)
    labelled = np.isin(detections.image, faces.image)  # [D], in an image with faces
    results = {}
    for setting, counts in counted_faces(faces).items():
        hit = iou >= IOU_THRESHOLD
        on_ignored = np.zeros(len(hit), bool)
        on_ignored[hit] = ~counts[best[hit]]
        proposals = np.bincount(steps[labelled & ~on_ignored], minlength=N_THRESHOLDS + 1)
        rows = np.flatnonzero(hit & ~on_ignored)
        _, first = np.unique(best[rows], return_index=True)  # the first detection of each found face
        recalled = np.bincount(steps[rows[first]], minlength=N_THRESHOLDS + 1)
        results[setting] = _result(
            int(counts.sum()), np.cumsum(proposals)[:N_THRESHOLDS], np.cumsum(recalled)[:N_THRESHOLDS]
        )
    return Evaluation(results)


def _threshold_of_each(detections: Boxes) -> np.ndarray:
    """int64 [D]: the first threshold at which a detection is taken; ``N_THRESHOLDS`` where none takes it.

    An image's detections are cut behind the last one that reaches the threshold, so a detection is taken as
    soon as it or one behind it reaches it.
    """
    scores = np.asarray(detections.scores, np.float64)
    if not len(scores):
        return np.zeros(0, np.int64)
    low, high = scores.min(), scores.max()
    scaled = (scores - low) / (high - low) if high > low else np.ones_like(scores)
    thresholds = 1.0 - (np.arange(N_THRESHOLDS) + 1.0) / N_THRESHOLDS  # falling
    reached = np.empty_like(scaled)
    for start, end in _runs(detections.image):
        reached[start:end] = np.maximum.accumulate(scaled[start:end][::-1])[::-1]
    # The first of the falling thresholds that is not above the score.
    return N_THRESHOLDS - np.searchsorted(thresholds[::-1], reached, side="right")


def _runs(image: np.ndarray) -> Iterator[tuple[int, int]]:
    """(start, end) of each image's rows; ``image`` never decreases."""
    if len(image):
        edges = np.flatnonzero(np.diff(image)) + 1
        yield from zip([0, *edges.tolist()], [*edges.tolist(), len(image)], strict=True)


def _result(faces: int, proposals: np.ndarray, recalled: np.ndarray) -> SettingResult:
    """The area below the precision's running maximum from the right, over the changes of recall."""
    result = SettingResult(0.0, faces, proposals, recalled)
    recall = np.concatenate([[0.0], result.recall, [1.0]])
    precision = np.concatenate([[0.0], result.precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return dataclasses.replace(result, ap=float(np.sum(np.diff(recall) * envelope[1:])))
