"""What KITTI's evaluation gives, its classes and difficulties, and the AP table of a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fgfi_tf.evaluation.protocol import MEAN, Measure, Result

VARIANTS = ("official", "reference")
CLASS_NAMES = ("Car", "Pedestrian", "Cyclist")
DONT_CARE = "DontCare"
N_RECALL = 41  # recall positions 0, 1/40 ... 1 at which precision is taken
# an overlap counts only if greater; for DontCare the same limit on the detection's covered share
MIN_OVERLAP = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
OTHER_OVERLAP = 0.5  # of classes that are not KITTI's own
# ground truths that may take a detection of the class without being found or missed
NEIGHBOUR = {"Car": "Van", "Pedestrian": "Person_sitting"}


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """Limits of a difficulty. A ground truth at the limit of occlusion or truncation counts; one of the
    minimum height, in pixels, counts for ``reference`` and not for ``official``.
    """

    min_height: float
    max_occlusion: int
    max_truncation: float


DIFFICULTIES = {
    "easy": Difficulty(40, 0, 0.15),
    "moderate": Difficulty(25, 1, 0.30),
    "hard": Difficulty(25, 2, 0.50),
}


@dataclasses.dataclass(frozen=True)
class DifficultyResult:
    """One class at one difficulty. Fractions, full precision.

    Attributes:
        evaluated: False where no detection of the class exists at all; the development kit then
            writes nothing, and the numbers here are 0.
        ap11, ap40: means of precision at recall 0, 0.1 ... 1, and at recall 1/40 ... 1.
        n_gt: ground truths that count.
        precision: float64 [41], after the maximum filter, 0 beyond the last threshold.
        thresholds: float64 [T], T <= 41, scores at which precision was taken, descending.
        tp, fp, fn: int64 [T], counts at each threshold.
        similarity, aos11, aos40: orientation similarity [41] like ``precision``, and its means, or None.
    """

    evaluated: bool
    ap11: float
    ap40: float
    n_gt: int
    precision: np.ndarray
    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    similarity: np.ndarray | None = None
    aos11: float | None = None
    aos40: float | None = None

    @property
    def meaningful(self) -> bool:
        """Whether there are detections of the class, and objects that they could find."""
        return self.evaluated and self.n_gt > 0

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, ready for ``json.dump``."""
        values = {
            "AP11": self.ap11,
            "AP40": self.ap40,
            "precision41": self.precision.tolist(),
            "evaluated": self.evaluated,
            "n_gt": self.n_gt,
            "n_thresholds": len(self.thresholds),
            "thresholds": self.thresholds.tolist(),
            "tp_fp_fn": np.stack([self.tp, self.fp, self.fn], axis=1).tolist(),
        }
        if self.similarity is not None:
            values |= {"AOS11": self.aos11, "AOS40": self.aos40, "similarity41": self.similarity.tolist()}
        return values


@dataclasses.dataclass(frozen=True)
class Evaluation(Result):
    """``results[class name][difficulty]``: nine of KITTI's classes."""

    variant: str
    n_frames: int
    results: dict[str, dict[str, DifficultyResult]]
    min_overlap: Mapping[str, float]

    def __getitem__(self, class_name: str) -> dict[str, DifficultyResult]:
        return self.results[class_name]

    def __iter__(self) -> Iterator[tuple[str, str, DifficultyResult]]:
        """(class name, difficulty, result), in the order of the tables."""
        for class_name, by_difficulty in self.results.items():
            for difficulty, result in by_difficulty.items():
                yield class_name, difficulty, result

    @property
    def metrics(self) -> dict[str, float]:
        """The means of nine, then AP11 of each class and difficulty."""
        nine = {f"{name}_{difficulty}": one.ap11 for name, difficulty, one in self}
        return {"mAP11": self.mean_ap(11), "mAP40": self.mean_ap(40), **nine}

    def measures(self) -> tuple[Measure, ...]:
        """AP at 11 and 40 recall positions, and orientation similarity where it was computed."""
        found = []
        for key, title in _MEASURES.items():
            values = {(name, difficulty): getattr(one, key) for name, difficulty, one in self}
            if None in values.values():
                continue
            mean = float(np.mean(list(values.values())))
            shown = {
                (name, difficulty): values[name, difficulty] if one.meaningful else None
                for name, difficulty, one in self
            }
            found.append(Measure(title, {**shown, MEAN: mean}, published=key == "ap11"))
        return tuple(found)

    def curves(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """Precision after the maximum filter, down to the axis where the detections end."""
        recall = np.arange(N_RECALL) / (N_RECALL - 1)
        found = {}
        for name, difficulty, one in self:
            count = len(one.thresholds)
            x = np.append(recall[:count], recall[max(count - 1, 0)])
            found[name, difficulty] = x, np.append(one.precision[:count], 0.0)
        return found

    def mean_ap(self, positions: int = 11) -> float:
        """Mean of the APs, a fraction; ``positions`` is 11 or 40."""
        return float(np.mean([result.ap11 if positions == 11 else result.ap40 for _, _, result in self]))

    def to_json(self) -> dict[str, Any]:
        """{class: {difficulty: {"AP11", "AP40", "precision41", ...}}}."""
        return {name: {key: r.to_json() for key, r in rows.items()} for name, rows in self.results.items()}


_MEASURES = {
    "ap11": "11 recall positions (AP11)",
    "ap40": "40 recall positions (AP40)",
    "aos11": "Orientation similarity, 11 recall positions",
}
_NAME, _CELL = 12, 10


def ap_table(evaluation: Evaluation, title: str = "") -> str:
    """AP11 and AP40 (and orientation similarity where computed) in percent, one line a class.

    A class without any detection shows ``-``: the development kit writes no result for it. So does one
    without an object that counts, of which no detection could be right; the kit writes 0.
    """
    measures = ["AP11", "AP40"]
    if any(result.similarity is not None for _, _, result in evaluation):
        measures += ["AOS11", "AOS40"]
    heading = f"KITTI 2D, {evaluation.variant} protocol, {evaluation.n_frames} frames, percent"
    lines = [f"{title}: {heading}" if title else heading]
    block = _CELL * len(DIFFICULTIES)
    lines.append(" " * _NAME + "".join(f"{name:>{block}}" for name in measures))
    lines.append(" " * _NAME + "".join(f"{name:>{_CELL}}" for _ in measures for name in DIFFICULTIES))
    for class_name, by_difficulty in evaluation.results.items():
        cells = [_percent(result, name) for name in measures for result in by_difficulty.values()]
        lines.append(f"{class_name:<{_NAME}}" + "".join(f"{cell:>{_CELL}}" for cell in cells))
    mean = "mean of nine" if len(evaluation.results) == len(CLASS_NAMES) else "mean"
    means = [f"{100 * evaluation.mean_ap(positions):.2f}" for positions in (11, 40)]
    lines.append(f"{mean:<{_NAME}}" + "".join(f"{cell:>{block}}" for cell in means))
    return "\n".join(lines)


def _percent(result: DifficultyResult, measure: str) -> str:
    value = getattr(result, measure.lower())
    return f"{100 * value:.2f}" if result.meaningful and value is not None else "-"
