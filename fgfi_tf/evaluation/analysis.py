"""What becomes of the detections: correct, or wrong in which way; and which objects are missed.

Operating point: for each class and difficulty the n_gt highest-scored detections, as many as there
are objects that count. A perfect detector has n_gt correct ones there, and every wrong one
stands for an object it could have found. Detections that the protocol does not count (on ignored
objects, in DontCare areas; official: too low) are left out before.

Each of these detections, best score first, is exactly one of

* ``correct``: overlaps a counted object of its class by more than the class's minimum overlap, and
  no earlier detection took the object; where several objects are free, it takes the best overlap.
* ``repeated``: overlaps counted objects of its class that much, but earlier ones took them all.
* ``classification``: overlaps an object of another type by more than the minimum overlap (any type
  but DontCare and the class's neighbour, e.g. Van for Car, which the protocol ignores).
* ``localisation``: overlaps an object of its class, counted or not, by more than 0.1 and by at most
  the minimum overlap.
* ``background``: the rest.

``missed`` are the counted objects that no correct detection of the n_gt belongs to.

The kinds are those of D. Hoiem et al., "Diagnosing Error in Object Detectors", ECCV 2012, as the
2019 reference counted them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fgfi_tf.evaluation import kitti_matching as matching
from fgfi_tf.evaluation.kitti import DIFFICULTIES, MIN_OVERLAP, NEIGHBOUR, Difficulty, countable
from fgfi_tf.evaluation.kitti_types import CLASS_NAMES, DONT_CARE, TYPE_INDEX, Detections, Labels

KINDS = ("correct", "localisation", "classification", "repeated", "background")
CORRECT, LOCALISATION, CLASSIFICATION, REPEATED, BACKGROUND = range(len(KINDS))
NOT_COUNTED = -1
LOCALISATION_OVERLAP = 0.1
# KITTI's commonest image; label files do not hold the size
DEFAULT_IMAGE_SIZE = (375, 1242)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One class at one difficulty.

    Attributes:
        counted: int64 [n_gt], the objects that count, rows of the labels.
        rows: int64 [K], K <= n_gt, the detections of the operating point, best score first, as
            rows of the detections that were analysed.
        kinds: int64 [K], index into ``KINDS``.
        missed: int64 [M], rows of the labels.
    """

    counted: np.ndarray
    rows: np.ndarray
    kinds: np.ndarray
    missed: np.ndarray

    @property
    def n_gt(self) -> int:
        """How many objects count."""
        return len(self.counted)

    def rows_of(self, kind: str) -> np.ndarray:
        """Rows of the detections of a kind; of the labels for ``missed``."""
        return self.missed if kind == "missed" else self.rows[self.kinds == KINDS.index(kind)]

    def counts(self) -> dict[str, int]:
        """How many of each kind, and ``missed``."""
        number = np.bincount(self.kinds, minlength=len(KINDS)).tolist()
        return dict(zip(KINDS, number, strict=True)) | {"missed": len(self.missed)}


def analyse(
    detections: Detections, labels: Labels, protocol: str = "official"
) -> dict[str, dict[str, Analysis]]:
    """The analysis of every class at every difficulty; both of the same frames, in one order."""
    return {
        class_name: {
            name: _analyse(class_name, difficulty, detections, labels, protocol)
            for name, difficulty in DIFFICULTIES.items()
        }
        for class_name in CLASS_NAMES
    }


def _analyse(
    class_name: str, difficulty: Difficulty, detections: Detections, labels: Labels, protocol: str
) -> Analysis:
    class_index, overlap = TYPE_INDEX[class_name.lower()], MIN_OVERLAP[class_name]
    rows = _by_score(detections, class_index, difficulty.min_height if protocol == "official" else 0.0)
    found = detections.take(np.sort(rows))  # frame order, which finding pairs needs
    counts = countable(labels, class_index, difficulty, protocol)
    truth, row, iou = matching.overlapping_pairs(
        labels.frame, labels.boxes, found.frame, found.boxes, LOCALISATION_OVERLAP
    )
    rank_of_place = np.argsort(rows)  # places count in frame order, ranks by score
    place_of_rank = np.argsort(rank_of_place)
    rank_of_pair = rank_of_place[row]

    near = iou > overlap
    kind = labels.type[truth]  # of each pair's object
    own, counted = kind == class_index, counts[truth]
    neighbour = kind == (-1 if NEIGHBOUR[class_name] is None else NEIGHBOUR[class_name])
    other = ~own & ~neighbour & (kind != DONT_CARE)

    def marks(pairs: np.ndarray) -> np.ndarray:
        return np.bincount(rank_of_pair[pairs], minlength=len(rows)) > 0  # [N], by rank

    kinds = np.full(len(rows), BACKGROUND)
    kinds[marks(own)] = LOCALISATION
    kinds[marks(other & near)] = CLASSIFICATION
    usable = near & own & counted
    kinds[marks(usable)] = REPEATED
    stuff = _in_stuff(found, labels, overlap)[place_of_rank]
    kinds[marks(near & ((own & ~counted) | neighbour)) | stuff] = NOT_COUNTED
    taken_rank, taken_truth = _assign(rank_of_pair[usable], truth[usable], iou[usable])
    kinds[taken_rank] = CORRECT

    n_gt = int(counts.sum())
    top = np.flatnonzero(kinds != NOT_COUNTED)[:n_gt]  # ranks
    hit = np.zeros(len(labels), bool)
    hit[taken_truth[np.isin(taken_rank, top)]] = True
    return Analysis(np.flatnonzero(counts), rows[top], kinds[top], np.flatnonzero(counts & ~hit))


def _by_score(detections: Detections, class_index: int, min_height: float) -> np.ndarray:
    """Rows of the class's detections that are high enough, best score first, file order among equals."""
    rows = np.flatnonzero((detections.type == class_index) & (detections.heights >= min_height))
    return rows[np.argsort(-detections.scores[rows], kind="stable")]


def _in_stuff(found: Detections, labels: Labels, overlap: float) -> np.ndarray:
    areas = labels.take(labels.type == DONT_CARE)
    return matching.covered_shares(found.frame, found.boxes, areas.frame, areas.boxes) > overlap


def _assign(rank: np.ndarray, truth: np.ndarray, iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Detections in order of rank, each taking its best free object: (rank [M], object [M])."""
    order = np.lexsort((truth, rank))
    # the greedy matching with the roles exchanged: detections choose, objects are chosen
    pairs = matching.Candidates.of(rank[order], truth[order], iou[order])
    everything = np.array([-np.inf])
    chosen = np.zeros(len(pairs), bool)
    for _, matched in matching.greedy_matches(pairs, (-pairs.overlap,), np.zeros(len(pairs)), everything):
        chosen = matched[:, 0]
    return pairs.truth[chosen], pairs.detection[chosen]


@dataclasses.dataclass(frozen=True)
class ObjectRecords:
    """Every labelled object of one class, countable or not, and whether it was found.

    Attributes:
        found: bool [N].
        height: float64 [N], pixels.
        occlusion: int64 [N], 0 to 3.
        border: float64 [N], distance in pixels to the nearest image border, 0 where it is cut.
    """

    found: np.ndarray
    height: np.ndarray
    occlusion: np.ndarray
    border: np.ndarray


def object_records(
    class_name: str,
    detections: Detections,
    labels: Labels,
    image_sizes: dict[str, tuple[int, int]] | None = None,
) -> ObjectRecords:
    """Which objects of a class were found, for recall against what makes them hard.

    The detections are the highest-scored ones of the class, as many as it has objects; each, best
    first, takes the free object of greatest overlap above the class's minimum.

    Args:
        class_name: one of ``CLASS_NAMES``.
        detections: of the same frames as ``labels``, in the same order.
        labels: the objects.
        image_sizes: frame id -> (height, width) where known, else ``DEFAULT_IMAGE_SIZE``.
    """
    class_index = TYPE_INDEX[class_name.lower()]
    objects = labels.take(labels.type == class_index)
    rows = _by_score(detections, class_index, 0.0)[: len(objects)]
    found = detections.take(np.sort(rows))
    truth, row, iou = matching.overlapping_pairs(
        objects.frame, objects.boxes, found.frame, found.boxes, MIN_OVERLAP[class_name]
    )
    _, taken = _assign(np.argsort(rows)[row], truth, iou)
    hit = np.zeros(len(objects), bool)
    hit[taken] = True
    sizes = image_sizes or {}
    size = np.array([sizes.get(name, DEFAULT_IMAGE_SIZE) for name in objects.frame_ids]).reshape(-1, 2)
    height, width = size[objects.frame].T
    x1, y1, x2, y2 = objects.boxes.T
    border = np.minimum.reduce([x1, y1, width - 1 - x2, height - 1 - y2]).clip(min=0.0)
    return ObjectRecords(hit, objects.heights, objects.occlusion.astype(np.int64), border)


def errors_per_frame(
    analyses: dict[str, dict[str, Analysis]],
    detections: Detections,
    labels: Labels,
    difficulty: str = "moderate",
) -> np.ndarray:
    """Wrong detections plus missed objects of all classes: int64 [frames]."""
    errors = np.zeros(len(labels.frame_ids), np.int64)
    for by_difficulty in analyses.values():
        part = by_difficulty[difficulty]
        wrong = part.rows[part.kinds != CORRECT]
        errors += np.bincount(detections.frame[wrong], minlength=len(errors))
        errors += np.bincount(labels.frame[part.missed], minlength=len(errors))
    return errors


def worst_frames(errors: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most ``count`` frames with errors, most first, in order of index among equals."""
    order = np.argsort(-errors, kind="stable")
    return order[errors[order] > 0][:count]
