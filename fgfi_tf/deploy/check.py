"""An exported detector against its source: detections, AP, size, speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from fgfi_tf.geometry.suppression import overlaps

#: Detections below this score are compared by AP alone.
MIN_SCORE = 0.1
#: A detection is found again where one of its class overlaps it by so much.
SAME = 0.5

Detections = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two detectors on the same pictures.

    Attributes:
        images: their number.
        detections: of the source, with a score of ``MIN_SCORE`` or more.
        matched: how many of them the other has too (see ``SAME``).
        box: largest difference of a matched corner, pixels of the picture.
        box_mean: the mean of the largest of each detection.
        score: largest difference of matched scores.
    """

    images: int
    detections: int
    matched: int
    box: float
    box_mean: float
    score: float


def compare(source: Iterable[Detections], other: Iterable[Detections]) -> Difference:
    """Of the detections of each picture, boxes [n, 4], scores and classes, best first."""
    boxes: list[float] = []
    scores: list[float] = []
    images = detections = 0
    for ours, theirs in zip(source, other, strict=True):
        images += 1
        free = np.ones(len(theirs["scores"]), bool)
        for place in np.flatnonzero(ours["scores"] >= MIN_SCORE):
            detections += 1
            alike = free & (theirs["classes"] == ours["classes"][place])
            shared = np.where(alike, overlaps(ours["boxes"][place], theirs["boxes"]), 0.0)
            if not len(shared) or shared.max() < SAME:
                continue
            best = int(shared.argmax())
            free[best] = False
            boxes.append(float(np.abs(ours["boxes"][place] - theirs["boxes"][best]).max()))
            scores.append(float(abs(ours["scores"][place] - theirs["scores"][best])))
    largest = max(boxes, default=0.0), max(scores, default=0.0)
    mean = float(np.mean(boxes)) if boxes else 0.0
    return Difference(images, detections, len(boxes), largest[0], mean, largest[1])


@dataclasses.dataclass
class Row:
    """A line of the table: the source, or a file made of it.

    Attributes:
        name: what it is called in the table.
        size: bytes on disk, 0 where it is no file of its own.
        multiply_adds: of one image; None where not known.
        difference: from the source; None of the source itself, or without pictures.
        metrics: AP by name, in 0..1; empty without labels.
        latency_ms: by number of threads ("all": as many as TensorFlow takes), of the network alone in files
            and with resizing and suppression where these are in the graph.
    """

    name: str
    size: int = 0
    multiply_adds: int | None = None
    difference: Difference | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    latency_ms: dict[str, float] = dataclasses.field(default_factory=dict)


def as_json(rows: Sequence[Row], pictures: str) -> dict:
    """Plain values: the rows, and where the pictures were from."""
    return {"pictures": pictures, "rows": [dataclasses.asdict(row) for row in rows]}


def table(rows: Sequence[Row]) -> str:
    """The rows side by side, columns of which nothing is known left out."""
    metric = next((name for row in rows for name in row.metrics), "")
    threads = list(dict.fromkeys(key for row in rows for key in row.latency_ms))
    columns = {
        "": [row.name for row in rows],
        "MB": [f"{row.size / 1e6:.2f}" if row.size else "" for row in rows],
        "G mult-adds": [f"{row.multiply_adds / 1e9:.3f}" if row.multiply_adds else "" for row in rows],
        "found again": [
            f"{row.difference.matched} of {row.difference.detections}" if row.difference else ""
            for row in rows
        ],
        "box, px": [f"{row.difference.box:.2f}" if row.difference else "" for row in rows],
        "score": [f"{row.difference.score:.4f}" if row.difference else "" for row in rows],
    }
    if metric:
        columns[metric] = [f"{100 * row.metrics[metric]:.2f}" if row.metrics else "" for row in rows]
        columns["change"] = [""] + [
            f"{100 * (row.metrics[metric] - rows[0].metrics[metric]):+.2f}" if row.metrics else ""
            for row in rows[1:]
        ]
    for key in threads:
        title = f"ms, {key} thread{'' if key == '1' else 's'}"
        columns[title] = [f"{row.latency_ms[key]:.2f}" if key in row.latency_ms else "" for row in rows]
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    widths = {title: max(len(title), *map(len, cells)) for title, cells in shown.items()}
    lines = [list(shown), *([cells[i] for cells in shown.values()] for i in range(len(rows)))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths.values(), strict=True))
        ).rstrip()
        for line in lines
    )
