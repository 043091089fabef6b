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
from collections.abc import Mapping

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import matching
from fgfi_tf.evaluation.boxes import NO_ALPHA, Boxes
from fgfi_tf.evaluation.kitti.result import (
    DIFFICULTIES,
    DONT_CARE,
    MIN_OVERLAP,
    N_RECALL,
    NEIGHBOUR,
    VARIANTS,
    Difficulty,
    DifficultyResult,
    Evaluation,
)

_LOWEST_SCORE = -1e7  # the kit's "no detection": scores down to here are never collected


def evaluate(
    detections: Boxes,
    labels: Boxes,
    variant: str = "official",
    min_overlap: Mapping[str, float] = MIN_OVERLAP,
) -> Evaluation:
    """Average precision of each class at each difficulty, over the frames of the ground truths.

    Orientation similarity is computed where every detection has an observation angle and not all are 0, which
    is what result files without angles hold.

    Args:
        detections: of every frame; column ``alpha``.
        labels: ground truths with their DontCare areas; columns ``truncation``, ``occlusion``, ``alpha``.
        variant: ``official`` or ``reference`` (module docstring).
        min_overlap: the classes to evaluate, and the IoU that a detection of each has to exceed.

    Raises UserError for an unknown variant, or a frame without detections.
    """
    if variant not in VARIANTS:
        raise UserError(f"protocol {variant!r} is not one of {', '.join(VARIANTS)}")
    labels = labels.by_image()
    detections = detections.select(labels.image_ids).by_image()
    alpha = detections.column("alpha", NO_ALPHA)
    orientation = not (alpha == NO_ALPHA).any() and bool((alpha != 0).any())
    results = {}
    for class_name, overlap in min_overlap.items():
        scene = _ClassScene.of(class_name, overlap, detections, labels, variant)
        results[class_name] = {
            name: _evaluate_difficulty(scene, difficulty, variant, orientation)
            for name, difficulty in DIFFICULTIES.items()
        }
    return Evaluation(variant, len(labels.image_ids), results, dict(min_overlap))


def countable(
    labels: Boxes, class_name: str, difficulty: Difficulty, variant: str = "official"
) -> np.ndarray:
    """bool [N]: the ground truths of the class that count at the difficulty, and are not marked difficult."""
    high_enough = np.greater if variant == "official" else np.greater_equal
    return (
        labels.of_class(class_name)
        & high_enough(labels.heights, difficulty.min_height)
        & (labels.column("occlusion") <= difficulty.max_occlusion)
        & (labels.column("truncation") <= difficulty.max_truncation)
        & ~labels.flag("difficult")
        & ~labels.flag("crowd")
    )


def neighbours(labels: Boxes, class_name: str) -> np.ndarray:
    """bool [N]: the ground truths that may take a detection of the class without being found or missed."""
    return labels.of_class(NEIGHBOUR.get(class_name, ""))


def areas(labels: Boxes) -> np.ndarray:
    """bool [N]: areas in which a detection counts for nothing; of other data sets the crowds."""
    return labels.of_class(DONT_CARE) | labels.flag("crowd")


def recall_thresholds(scores: np.ndarray, n_gt: int) -> np.ndarray:
    """Scores of true positives [S] to the at most 41 scores nearest to recall 0, 1/40 ... 1.

    Score i (descending, from 0) is skipped where the recall after the next one is nearer to
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

    labels: Boxes  # of the class and its neighbour
    class_name: str
    detections: Boxes  # of the class; official: also all that may be too low
    of_class: np.ndarray  # bool [D]
    stuff: np.ndarray  # bool [D], mostly inside a DontCare area
    pairs: matching.Candidates  # indices into the two above

    @classmethod
    def of(
        cls, class_name: str, overlap: float, detections: Boxes, labels: Boxes, variant: str
    ) -> _ClassScene:
        regions = labels.take(areas(labels))
        labels = labels.take(labels.of_class(class_name) | neighbours(labels, class_name))
        wanted = detections.of_class(class_name)
        if variant == "official":
            lowest = max(difficulty.min_height for difficulty in DIFFICULTIES.values())
            wanted = wanted | (detections.heights < lowest)
        detections = detections.take(wanted)
        found = detections.image, detections.boxes
        stuff = matching.covered_shares(*found, regions.image, regions.boxes) > overlap
        pairs = matching.overlapping_pairs(labels.image, labels.boxes, *found, overlap)
        of_class = detections.of_class(class_name)
        return cls(labels, class_name, detections, of_class, stuff, matching.Candidates.of(*pairs))


def _evaluate_difficulty(
    scene: _ClassScene, difficulty: Difficulty, variant: str, orientation: bool
) -> DifficultyResult:
    detections, of_class = scene.detections, scene.of_class
    counts = countable(scene.labels, scene.class_name, difficulty, variant)  # [G]; others are ignored
    n_gt = int(counts.sum())
    # the kit cuts the height to a whole number first, which changes nothing against whole limits
    low = (detections.heights < difficulty.min_height) & (variant == "official")  # [D]
    pairs = scene.pairs.take((of_class | low)[scene.pairs.detection])
    thresholds = recall_thresholds(_collected_scores(pairs, detections.scores, counts, low), n_gt)

    score = detections.scores[pairs.detection]  # [P]
    pair_counts, pair_low = counts[pairs.truth], low[pairs.detection]
    valid = of_class & ~low & ~scene.stuff  # detections that are false positives where left over
    hit = pair_counts & ~pair_low  # matches of these pairs are true positives
    weights = [hit, valid[pairs.detection], pair_counts]
    if orientation:
        angle = scene.labels.column("alpha", NO_ALPHA)[pairs.truth]
        angle = angle - detections.column("alpha", NO_ALPHA)[pairs.detection]
        weights.append(np.where(hit, (1 + np.cos(angle)) / 2, 0.0))
    preference = (pair_low, np.where(pair_low, 0.0, -pairs.overlap))
    sums = _matched_sums(pairs, preference, score, np.array(weights, np.float64), thresholds)
    tp, valid_matched, found = np.rint(sums[:3]).astype(np.int64)
    fp = _count_at_least(detections.scores[valid], thresholds) - valid_matched

    precision = _filtered(tp, tp + fp)
    result = DifficultyResult(
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
        result, similarity=similarity, aos11=float(similarity[::4].mean()), aos40=float(similarity[1:].mean())
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
