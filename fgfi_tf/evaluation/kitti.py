"""KITTI 2D object evaluation: average precision of three classes at three difficulties.

Two protocols: ``official``, the present development kit, and ``reference``, the evaluator of the 2019
reference, which is an older copy of it. The present kit ignores detections below the minimum height
(since April 2017), and ground truths of exactly the minimum height, which count for the older one. Both
with 11 (AP11) and 40 (AP40, KITTI's measure since October 2019) recall positions.

Source: the KITTI object development kit (``evaluate_object.cpp``); A. Geiger, P. Lenz, R. Urtasun,
"Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite", CVPR 2012, section 2.4;
A. Simonelli et al., "Disentangling Monocular 3D Object Detection", ICCV 2019, section 6.1 (AP40).
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import kitti_matching as matching
from fgfi_tf.evaluation.kitti_types import (
    CLASS_NAMES,
    DONT_CARE,
    NO_ALPHA,
    PERSON_SITTING,
    TYPE_INDEX,
    VAN,
    Detections,
    Labels,
)

PROTOCOLS = ("official", "reference")
N_RECALL = 41  # recall positions 0, 1/40 ... 1 at which precision is taken
# an overlap counts only if greater; for DontCare the same limit on the detection's covered share
MIN_OVERLAP = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
# ground truths that may take a detection of the class without being found or missed
NEIGHBOUR = {"Car": VAN, "Pedestrian": PERSON_SITTING, "Cyclist": None}
_LOWEST_SCORE = -1e7  # the kit's "no detection": scores down to here are never collected


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
class Result:
    """One class at one difficulty. Fractions, full precision.

    Attributes:
        evaluated: False where no detection of the class exists at all; the development kit then
            writes nothing, and the numbers here are 0.
        ap11: mean of precision at recall 0, 0.1 ... 1.
        ap40: mean of precision at recall 1/40 ... 1.
        n_gt: ground truths that count.
        precision: float64 [41], after the maximum filter, 0 beyond the last threshold.
        thresholds: float64 [T], T <= 41, scores at which precision was taken, descending.
        tp, fp, fn: int64 [T], counts at each threshold.
        similarity: float64 [41] or None, orientation similarity like ``precision``.
        aos11, aos40: its means, or None.
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
class Evaluation:
    """All nine results: ``results[class name][difficulty]``."""

    protocol: str
    n_frames: int
    results: dict[str, dict[str, Result]]

    def __getitem__(self, class_name: str) -> dict[str, Result]:
        return self.results[class_name]

    def __iter__(self) -> Iterator[tuple[str, str, Result]]:
        """(class name, difficulty, result), in the order of the tables."""
        for class_name, by_difficulty in self.results.items():
            for difficulty, result in by_difficulty.items():
                yield class_name, difficulty, result

    def mean_ap(self, positions: int = 11) -> float:
        """Mean of the nine APs, a fraction; ``positions`` is 11 or 40."""
        return float(np.mean([result.ap11 if positions == 11 else result.ap40 for _, _, result in self]))

    def to_json(self) -> dict[str, Any]:
        """{class: {difficulty: {"AP11", "AP40", "precision41", ...}}}."""
        return {name: {key: r.to_json() for key, r in rows.items()} for name, rows in self.results.items()}


def evaluate(
    detections: Detections,
    labels: Labels,
    protocol: str = "official",
    frames: Iterable[str] | None = None,
    orientation: bool | None = None,
) -> Evaluation:
    """Average precision of each class at each difficulty.

    Args:
        detections: must hold every evaluated frame, if only as one without detections.
        labels: ground truths with their DontCare areas.
        protocol: ``official`` or ``reference`` (module docstring).
        frames: ids of the frames to evaluate; by default those of ``labels``.
        orientation: whether to compute orientation similarity. By default it is computed where
            every detection has an observation angle, as in the development kit, and not all angles
            are 0, which is what result files without angles hold.

    Raises:
        UserError: unknown protocol, a frame without labels or detections or named twice,
            orientation asked for where angles are missing.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    labels = labels.select(labels.frame_ids if frames is None else frames)
    detections = detections.select(labels.frame_ids)
    has_alpha = len(detections) > 0 and not (detections.alpha == NO_ALPHA).any()
    if orientation and not has_alpha:
        raise UserError("orientation similarity needs an observation angle (alpha) for every detection")
    if orientation is None:
        orientation = has_alpha and bool((detections.alpha != 0).any())
    results = {}
    for class_name in CLASS_NAMES:
        scene = _ClassScene.of(class_name, detections, labels, protocol)
        results[class_name] = {
            name: _evaluate_difficulty(scene, difficulty, protocol, orientation)
            for name, difficulty in DIFFICULTIES.items()
        }
    return Evaluation(protocol, len(labels.frame_ids), results)


def countable(
    labels: Labels, class_index: int, difficulty: Difficulty, protocol: str = "official"
) -> np.ndarray:
    """bool [N]: the ground truths of the class that count at the difficulty."""
    high_enough = np.greater if protocol == "official" else np.greater_equal
    return (
        (labels.type == class_index)
        & high_enough(labels.heights, difficulty.min_height)
        & (labels.occlusion <= difficulty.max_occlusion)
        & (labels.truncation <= difficulty.max_truncation)
    )


def recall_thresholds(scores: np.ndarray, n_gt: int) -> np.ndarray:
    """Scores of true positives [S] to the at most 41 scores nearest to recall 0, 1/40 ... 1.

    Score i (descending, from 0) is passed over where the recall after the next one is nearer to
    the wanted recall; the last one never is. The wanted recall is summed up in doubles, and the
    condition, once false, stays false for greater i: the next taken score is found by bisection.
    """
    scores = np.sort(scores)[::-1]
    thresholds: list[float] = []
    index, recall, last = 0, 0.0, len(scores) - 1
    while index <= last and len(thresholds) < N_RECALL:
        taken = bisect.bisect_left(
            range(index, last),
            True,
            key=lambda i: not ((i + 2) / n_gt - recall < recall - (i + 1) / n_gt),  # noqa: B023
        )
        index += taken
        thresholds.append(scores[index])
        recall += 1.0 / (N_RECALL - 1)
        index += 1
    return np.array(thresholds, np.float64)


@dataclasses.dataclass(frozen=True)
class _ClassScene:
    """What matters for one class: ground truths that may be matched, detections, their pairs."""

    labels: Labels  # of the class and its neighbour
    class_index: int
    detections: Detections  # of the class; official: also all that may be too low
    stuff: np.ndarray  # bool [D], mostly inside a DontCare area
    pairs: matching.Candidates  # indices into the two above

    @classmethod
    def of(cls, class_name: str, detections: Detections, labels: Labels, protocol: str) -> _ClassScene:
        class_index = TYPE_INDEX[class_name.lower()]
        neighbour = NEIGHBOUR[class_name]
        areas = labels.take(labels.type == DONT_CARE)
        labels = labels.take(
            (labels.type == class_index) | (labels.type == (-1 if neighbour is None else neighbour))
        )
        of_class = detections.type == class_index
        if protocol == "official":
            lowest = max(difficulty.min_height for difficulty in DIFFICULTIES.values())
            of_class |= detections.heights < lowest
        detections = detections.take(of_class)
        overlap = MIN_OVERLAP[class_name]
        share = matching.covered_shares(detections.frame, detections.boxes, areas.frame, areas.boxes)
        pairs = matching.overlapping_pairs(
            labels.frame, labels.boxes, detections.frame, detections.boxes, overlap
        )
        return cls(labels, class_index, detections, share > overlap, matching.Candidates.of(*pairs))


def _evaluate_difficulty(
    scene: _ClassScene, difficulty: Difficulty, protocol: str, orientation: bool
) -> Result:
    detections = scene.detections
    counts = countable(scene.labels, scene.class_index, difficulty, protocol)  # [G]; others are ignored
    n_gt = int(counts.sum())
    of_class = detections.type == scene.class_index
    # the kit cuts the height to a whole number first, which changes nothing against whole limits
    low = (detections.heights < difficulty.min_height) & (protocol == "official")  # [D]
    pairs = scene.pairs.take((of_class | low)[scene.pairs.detection])
    thresholds = recall_thresholds(_collected_scores(pairs, detections.scores, counts, low), n_gt)

    score = detections.scores[pairs.detection]  # [P]
    pair_counts, pair_low = counts[pairs.truth], low[pairs.detection]
    valid = of_class & ~low & ~scene.stuff  # detections that are false positives where left over
    hit = pair_counts & ~pair_low  # matches of these pairs are true positives
    weights = [hit, valid[pairs.detection], pair_counts]
    if orientation:
        angle = scene.labels.alpha[pairs.truth] - detections.alpha[pairs.detection]
        weights.append(np.where(hit, (1 + np.cos(angle)) / 2, 0.0))
    preference = (pair_low, np.where(pair_low, 0.0, -pairs.overlap))
    sums = _matched_sums(pairs, preference, score, np.array(weights, np.float64), thresholds)
    tp, valid_matched, found = np.rint(sums[:3]).astype(np.int64)
    fp = _count_at_least(detections.scores[valid], thresholds) - valid_matched

    precision = _filtered(tp, tp + fp)
    result = Result(
        evaluated=bool(of_class.any()),
        ap11=float(precision[::4].mean()),
        ap40=float(precision[1:].mean()),
        n_gt=n_gt,
        precision=precision,
        thresholds=thresholds,
        tp=tp,
        fp=fp,
        fn=n_gt - found,
    )
    if not orientation:
        return result
    similarity = _filtered(sums[3], tp + fp)
    return dataclasses.replace(
        result,
        similarity=similarity,
        aos11=float(similarity[::4].mean()),
        aos40=float(similarity[1:].mean()),
    )


def _collected_scores(
    pairs: matching.Candidates, scores: np.ndarray, counts: np.ndarray, low: np.ndarray
) -> np.ndarray:
    """Scores of the true positives where each ground truth takes its highest-scored candidate."""
    pairs = pairs.take(scores[pairs.detection] > _LOWEST_SCORE)
    chosen = [np.flatnonzero(pairs.isolated)]
    contested = np.flatnonzero(~pairs.isolated)
    rest = pairs.take(contested)
    score = scores[rest.detection]
    for _, matched in matching.greedy_matches(rest, (-score,), score, np.array([-np.inf])):
        chosen.append(contested[matched[:, 0]])
    rows = np.concatenate(chosen)
    truth, detection = pairs.truth[rows], pairs.detection[rows]
    return scores[detection[counts[truth] & ~low[detection]]]


def _matched_sums(
    pairs: matching.Candidates,
    preference: tuple[np.ndarray, ...],
    score: np.ndarray,
    weights: np.ndarray,
    thresholds: np.ndarray,
) -> np.ndarray:
    """Sums [W, T] of weights [W, P] over the pairs matched at each threshold."""
    alone = np.flatnonzero(pairs.isolated)
    alone = alone[np.argsort(-score[alone], kind="stable")]
    running = np.pad(np.cumsum(weights[:, alone], axis=1), ((0, 0), (1, 0)))  # W x (isolated + 1)
    sums = running[:, _count_at_least(score[alone], thresholds)]
    contested = np.flatnonzero(~pairs.isolated)
    keys = tuple(key[contested] for key in preference)
    rest = pairs.take(contested)
    for block, matched in matching.greedy_matches(rest, keys, score[contested], thresholds):
        # einsum, not a matrix product: BLAS would start threads for it
        sums[:, block] += np.einsum("wp,pt->wt", weights[:, contested], matched)
    return sums


def _count_at_least(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """int64 [T]: how many scores are not below each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def _filtered(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The ratio at each threshold, 0 beyond the last, made non-increasing from the right: [41].

    Where nothing counts at a threshold (0 / 0, the kit's "not a number") the ratio is 0.
    """
    ratio = np.zeros(N_RECALL)
    ratio[: len(numerator)] = numerator / np.maximum(denominator, 1)
    return np.maximum.accumulate(ratio[::-1])[::-1].copy()
