"""Overlaps and greedy matching over a whole data set by array operations, of protocols and analysis.

KITTI's protocol matches greedily: frame by frame the ground truths in file order, each taking the best
detection that is still free. Two ground truths influence each other only where they compete for a
detection, so

* a ground truth and a detection that overlap nobody else are an *isolated* pair: it is matched at
  every threshold that the score reaches, and counting such pairs is a sort;
* the others are put into *rounds*: a ground truth comes in the round after the last earlier ground
  truth that shares a candidate with it. Within a round nobody competes; each takes its first free
  candidate in order of preference, for all thresholds at once.

The result is that of the plain loop, pair for pair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

_PAIR_BLOCK = 1 << 18  # pairs of one frame looked at together when overlaps are computed
_CELL_BLOCK = 1 << 22  # pairs x thresholds looked at together


def frame_pairs(frame_a: np.ndarray, frame_b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of all index pairs (a, b) of the same frame, in order of a, then b.

    ``frame_a`` is int64 [A], ``frame_b`` [B], never decreasing. A block has at most about ``_PAIR_BLOCK``
    pairs: memory does not grow with the number of frames.
    """
    start = np.searchsorted(frame_b, frame_a, side="left")
    counts = np.searchsorted(frame_b, frame_a, side="right") - start  # [A]
    ends = np.cumsum(counts)
    first = 0
    while first < len(frame_a):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + _PAIR_BLOCK, side="right")), first + 1)
        block = counts[first:last]
        a = np.repeat(np.arange(first, last), block)  # [P]
        b = np.arange(len(a)) + np.repeat(start[first:last] - (np.cumsum(block) - block), block)
        yield a, b
        first = last


def intersections(boxes_a: np.ndarray, boxes_b: np.ndarray, side: float = 0.0) -> np.ndarray:
    """Intersection areas [P] of boxes [P, 4] taken in pairs; 0 where they do not overlap."""
    width = np.minimum(boxes_a[:, 2], boxes_b[:, 2]) - np.maximum(boxes_a[:, 0], boxes_b[:, 0]) + side
    height = np.minimum(boxes_a[:, 3], boxes_b[:, 3]) - np.maximum(boxes_a[:, 1], boxes_b[:, 1]) + side
    return np.where((width > 0) & (height > 0), width * height, 0.0)


def areas(boxes: np.ndarray, side: float = 0.0) -> np.ndarray:
    """Areas [N] of boxes [N, 4]; ``side`` is 1 where the width of a box is xmax - xmin + 1."""
    return (boxes[:, 2] - boxes[:, 0] + side) * (boxes[:, 3] - boxes[:, 1] + side)


def overlapping_pairs(
    frame_a: np.ndarray,
    boxes_a: np.ndarray,
    frame_b: np.ndarray,
    boxes_b: np.ndarray,
    above: float,
    side: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices into a and b [P] of all pairs of one image with an IoU greater than ``above``, and the IoU [P].

    In order of a, then b. The IoU is computed in the development kit's order of operations, so that an
    overlap at a limit falls on the same side.
    """
    area_a, area_b = areas(boxes_a, side), areas(boxes_b, side)
    left_a, right_a = boxes_a[:, 0].copy(), boxes_a[:, 2] + side
    left_b, right_b = boxes_b[:, 0].copy(), boxes_b[:, 2] + side
    found = []
    for a, b in frame_pairs(frame_a, frame_b):
        beside = (left_b[b] < right_a[a]) & (left_a[a] < right_b[b])  # most pairs of a crowd are not
        a, b = a[beside], b[beside]
        shared = intersections(boxes_a[a], boxes_b[b], side)
        touching = np.flatnonzero(shared > 0)
        a, b, shared = a[touching], b[touching], shared[touching]
        iou = shared / (area_b[b] + area_a[a] - shared)
        keep = iou > above
        found.append((a[keep], b[keep], iou[keep]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def best_overlaps(
    group: np.ndarray, boxes: np.ndarray, group_of: np.ndarray, of: np.ndarray, side: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The highest IoU [N] of each box with those ``of`` [M] its group, and the row in ``of``, first on a tie.

    0 and -1 where a box overlaps none. Groups are whole numbers in any order, such as an image.
    """
    rows_of = np.argsort(group_of, kind="stable")
    a, b, iou = overlapping_pairs(group, boxes, group_of[rows_of], of[rows_of], 0.0, side)
    best, first = np.zeros(len(boxes)), np.full(len(boxes), -1)
    if len(a):
        starts = np.flatnonzero(np.diff(a, prepend=-1))  # the pairs of a box follow one another
        highest = np.maximum.reduceat(iou, starts)
        ties = iou == np.repeat(highest, np.diff(starts, append=len(a)))
        best[a[starts]] = highest
        first[a[starts]] = np.minimum.reduceat(np.where(ties, rows_of[b], len(of)), starts)
    return best, first


def covered_shares(
    frame: np.ndarray, boxes: np.ndarray, frame_area: np.ndarray, area_boxes: np.ndarray, side: float = 0.0
) -> np.ndarray:
    """The greatest share [N] of each box's own area that lies inside one area [M] of its image."""
    share = np.zeros(len(boxes))
    size = areas(boxes, side)
    for box, area in frame_pairs(frame, frame_area):
        shared = intersections(boxes[box], area_boxes[area], side)
        touching = np.flatnonzero(shared > 0)
        box = box[touching]
        np.maximum.at(share, box, shared[touching] / size[box])
    return share


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Pairs of a ground truth and a detection that overlap enough to be matched.

    Attributes:
        truth: int64 [P], index of the ground truth, never decreasing (file order).
        detection: int64 [P], index of the detection, rising within a ground truth (file order).
        overlap: float64 [P], IoU.
        round: int64 [P], of the ground truth; isolated: bool [P]: see the module.
    """

    truth: np.ndarray
    detection: np.ndarray
    overlap: np.ndarray
    round: np.ndarray
    isolated: np.ndarray

    @classmethod
    def of(cls, truth: np.ndarray, detection: np.ndarray, overlap: np.ndarray) -> Candidates:
        """From pairs in order of ground truth, then detection."""
        if not len(truth):
            nothing = np.zeros(0, np.int64)
            return cls(truth, detection, overlap, nothing, nothing.astype(bool))
        segment = np.cumsum(np.diff(truth, prepend=truth[0]) != 0)  # [P], 0 .. number of ground truths - 1
        starts = np.flatnonzero(np.diff(segment, prepend=-1))
        alone = (np.bincount(segment)[segment] == 1) & (np.bincount(detection)[detection] == 1)
        by_detection = np.argsort(detection, kind="stable")
        again = np.flatnonzero(np.diff(detection[by_detection]) == 0)
        later, earlier = by_detection[again + 1], by_detection[again]  # pairs of one detection
        rounds = np.zeros(len(starts), np.int64)
        while True:
            wanted = np.zeros(len(truth), np.int64)
            wanted[later] = rounds[segment[earlier]] + 1
            wanted = np.maximum.reduceat(wanted, starts)
            if np.array_equal(wanted, rounds):
                return cls(truth, detection, overlap, rounds[segment], alone)
            rounds = wanted

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: np.ndarray) -> Candidates:
        """Some of the pairs. Rounds stay as they were: later than needed is never wrong."""
        return Candidates(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def greedy_matches(
    pairs: Candidates, preference: tuple[np.ndarray, ...], scores: np.ndarray, thresholds: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Greedy matching at every threshold: yields slices of them and the pairs matched there, bool [P, slice].

    Args:
        pairs: candidates, usually without the isolated ones.
        preference: sort keys [P], most important first, smallest first; a ground truth takes its
            first free candidate in this order, and the first in file order among equals.
        scores: float64 [P], of the pair's detection, which takes part where that is not below the threshold.
        thresholds: float64 [T].
    """
    if not len(pairs):
        return
    by_truth = np.lexsort((*preference[::-1], pairs.truth))
    starts = np.flatnonzero(np.diff(pairs.truth[by_truth], prepend=-1))
    choice = np.empty(len(pairs), np.int64)  # of the pair's ground truth: 0 its first one
    choice[by_truth] = np.arange(len(pairs)) - np.repeat(starts, np.diff(starts, append=len(pairs)))
    # All first choices of a round at once, then all second ones: no two share a ground truth or a detection.
    order = np.lexsort((choice, pairs.round))
    new_group = (np.diff(pairs.round[order]) != 0) | (np.diff(choice[order]) != 0)
    groups = np.split(order, np.flatnonzero(new_group) + 1)
    _, truth = np.unique(pairs.truth, return_inverse=True)
    _, detection = np.unique(pairs.detection, return_inverse=True)
    size = max(1, _CELL_BLOCK // len(pairs))
    for begin in range(0, len(thresholds), size):
        block = slice(begin, min(begin + size, len(thresholds)))
        limits = thresholds[block]
        seeking = np.ones((truth.max() + 1, len(limits)), bool)  # ground truths x T
        free = np.ones((detection.max() + 1, len(limits)), bool)  # detections x T
        matched = np.empty((len(pairs), len(limits)), bool)  # P x T
        for rows in groups:
            takes = (scores[rows, None] >= limits) & seeking[truth[rows]] & free[detection[rows]]
            seeking[truth[rows]] ^= takes
            free[detection[rows]] ^= takes
            matched[rows] = takes
        yield block, matched
