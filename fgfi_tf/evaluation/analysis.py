"""What becomes of the detections: correct, or wrong in which way; and which objects are missed.

The same for every protocol: it sees what counts (``Setting``) and when two boxes are a pair (``Rule``).

Operating point: for each class and setting the n_gt highest-scored detections, as many as there
are objects that count. A perfect detector has n_gt correct ones there, and every wrong one
stands for an object it could have found. Detections that the protocol does not count (on ignored
objects, in areas left out, too low for it) are left out before.

Each of these detections, best score first, is exactly one of

* ``correct``: a pair with a counted object of its class that no earlier detection took; where several
  objects are free, it takes the best overlap (``Rule.best_only``: it looks at its best object alone).
* ``repeated``: a pair with counted objects of its class, but earlier ones took them all.
* ``classification``: would be a pair with an object of another class (not of a neighbour that the protocol
  ignores, as KITTI does a Van for Car).
* ``localisation``: overlaps an object of its class, counted or not, by an IoU above 0.1 that does not
  suffice.
* ``background``: the rest.

``missed`` are the counted objects that no correct detection of the n_gt belongs to.

The kinds are those of D. Hoiem et al., "Diagnosing Error in Object Detectors", ECCV 2012, as the
2019 reference counted them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from fgfi_tf.evaluation import matching
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.protocol import Rule, Setting

KINDS = ("correct", "localisation", "classification", "repeated", "background")
CORRECT, LOCALISATION, CLASSIFICATION, REPEATED, BACKGROUND = range(len(KINDS))
NOT_COUNTED = -1
LOCALISATION_OVERLAP = 0.1


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One class in one setting.

    Attributes:
        counted: int64 [n_gt], the objects that count, rows of the ground truth; ``missed`` [M] those missed.
        rows: int64 [K], K <= n_gt, the detections of the operating point, best score first, as
            rows of the detections that were analysed.
        kinds: int64 [K], index into ``KINDS``.
    """

    setting: Setting
    counted: np.ndarray
    rows: np.ndarray
    kinds: np.ndarray
    missed: np.ndarray

    @property
    def n_gt(self) -> int:
        """How many objects count."""
        return len(self.counted)

    def rows_of(self, kind: str) -> np.ndarray:
        """Rows of the detections of a kind; of the ground truth for ``missed``."""
        return self.missed if kind == "missed" else self.rows[self.kinds == KINDS.index(kind)]

    def counts(self) -> dict[str, int]:
        """How many of each kind, and ``missed``."""
        number = np.bincount(self.kinds, minlength=len(KINDS)).tolist()
        return dict(zip(KINDS, number, strict=True)) | {"missed": len(self.missed)}


def analyse(
    detections: Boxes, ground_truth: Boxes, settings: Sequence[Setting], rule: Rule
) -> list[Analysis]:
    """The analysis of every setting. Both tables are of the same images in one order, rows by image."""
    pairs = _pairs(ground_truth, detections, rule)
    return [_analyse(setting, rule, detections, ground_truth, *pairs) for setting in settings]


def _pairs(objects: Boxes, found: Boxes, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tables = objects.image, objects.boxes, found.image, found.boxes
    return matching.overlapping_pairs(*tables, LOCALISATION_OVERLAP, rule.side)


def _analyse(
    setting: Setting,
    rule: Rule,
    detections: Boxes,
    ground_truth: Boxes,
    truth: np.ndarray,
    row: np.ndarray,
    iou: np.ndarray,
) -> Analysis:
    rows = detections.by_score(setting.looked_at)
    rank_of_row = np.full(len(detections), -1)
    rank_of_row[rows] = np.arange(len(rows))
    mine = rank_of_row[row] >= 0
    truth, rank, iou = truth[mine], rank_of_row[row[mine]], iou[mine]  # [P]

    near = rule.suffices(iou, setting.overlap)
    own, counted, neighbour = setting.own[truth], setting.counted[truth], setting.neighbours[truth]
    region = setting.regions[truth] & ~counted
    other = ~own & ~neighbour & ~region & (ground_truth.classes[truth] >= 0)
    close = near & ~_second_choice(rank, iou, own & ~region) if rule.best_only else near

    def marks(pairs: np.ndarray) -> np.ndarray:
        return np.bincount(rank[pairs], minlength=len(rows)) > 0  # [N], by rank

    kinds = np.full(len(rows), BACKGROUND)
    kinds[marks(own & ~region)] = LOCALISATION
    kinds[marks(other & near)] = CLASSIFICATION
    usable = close & own & counted
    kinds[marks(usable)] = REPEATED
    left_out = close & ((own & ~counted & ~region) | neighbour)
    kinds[marks(left_out) | _inside(setting, rule, detections, ground_truth, rows)] = NOT_COUNTED
    taken_rank, taken_truth = _assign(rank[usable], truth[usable], iou[usable])
    kinds[taken_rank] = CORRECT

    n_gt = int(setting.counted.sum())
    top = np.flatnonzero(kinds != NOT_COUNTED)[:n_gt]  # ranks
    hit = np.zeros(len(ground_truth), bool)
    hit[taken_truth[np.isin(taken_rank, top)]] = True
    missed = np.flatnonzero(setting.counted & ~hit)
    return Analysis(setting, np.flatnonzero(setting.counted), rows[top], kinds[top], missed)


def _second_choice(rank: np.ndarray, iou: np.ndarray, own: np.ndarray) -> np.ndarray:
    """bool [P]: pairs with an own object that is not the one the detection overlaps most (first on a tie)."""
    pairs = np.flatnonzero(own)
    order = pairs[np.lexsort((-iou[pairs], rank[pairs]))]
    later = np.zeros(len(rank), bool)
    later[order[1:]] = rank[order[1:]] == rank[order[:-1]]
    return later


def _inside(
    setting: Setting, rule: Rule, detections: Boxes, ground_truth: Boxes, rows: np.ndarray
) -> np.ndarray:
    """bool [N]: of ``rows``, those that lie in a region by the minimum overlap of their own area."""
    areas = ground_truth.take(setting.regions)
    share = np.zeros(len(detections))
    if len(areas):
        found = np.sort(rows)  # image order, which finding pairs needs
        share[found] = matching.covered_shares(
            detections.image[found], detections.boxes[found], areas.image, areas.boxes, rule.side
        )
    return rule.suffices(share[rows], setting.overlap)


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
    """Every labelled object of one class, countable or not, and whether it was found: arrays of N rows.

    Heights are in pixels, occlusion is 0 to 3, 0 where the data does not say. ``border`` is the distance in
    pixels to the nearest image border, 0 where it is cut, NaN where the image's size is not known.
    """

    found: np.ndarray
    height: np.ndarray
    occlusion: np.ndarray
    border: np.ndarray


def object_records(
    setting: Setting,
    rule: Rule,
    detections: Boxes,
    ground_truth: Boxes,
    image_sizes: np.ndarray | None = None,
) -> ObjectRecords:
    """Which objects of a class were found, for recall against what makes them hard.

    The detections are the highest-scored ones of the class, as many as it has objects; each, best
    first, takes the free object of greatest overlap that makes a pair. Both tables are of the same images in
    one order; ``image_sizes`` [images, 2] are (height, width), NaN where not known.
    """
    objects = ground_truth.take(setting.own & ~(setting.regions & ~setting.counted))
    rows = detections.by_score(detections.of_class(setting.class_name))[: len(objects)]
    found = detections.take(np.sort(rows))
    truth, row, iou = _pairs(objects, found, rule)
    near = rule.suffices(iou, setting.overlap)
    _, taken = _assign(np.argsort(rows)[row[near]], truth[near], iou[near])
    hit = np.zeros(len(objects), bool)
    hit[taken] = True
    size = np.full((len(objects.image_ids), 2), np.nan) if image_sizes is None else image_sizes
    height, width = size[objects.image].T
    x1, y1, x2, y2 = (objects.boxes - np.repeat(objects.corners, 2)).T
    border = np.minimum.reduce([x1, y1, width - 1 - x2, height - 1 - y2]).clip(min=0.0)
    return ObjectRecords(hit, objects.heights, objects.column("occlusion"), border)


def errors_per_image(analyses: Iterable[Analysis], detections: Boxes, ground_truth: Boxes) -> np.ndarray:
    """Wrong detections plus missed objects of these analyses: int64 [images]."""
    errors = np.zeros(len(ground_truth.image_ids), np.int64)
    for part in analyses:
        wrong = part.rows[part.kinds != CORRECT]
        errors += np.bincount(detections.image[wrong], minlength=len(errors))
        errors += np.bincount(ground_truth.image[part.missed], minlength=len(errors))
    return errors


def worst_images(errors: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most ``count`` images with errors, most first, in order of index among equals."""
    order = np.argsort(-errors, kind="stable")
    return order[errors[order] > 0][:count]
