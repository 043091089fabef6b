"""Fills a report with VOC results of one model, or of several side by side."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf import drawing
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import report_same_frames, voc_analysis, voc_tables
from fgfi_tf.evaluation.comparison import ALONE, Comparison
from fgfi_tf.evaluation.report_data import (
    GOOD,
    NEUTRAL,
    SERIES_COLORS,
    Bars,
    Curves,
    Figure,
    Gallery,
    Line,
    Picture,
    ReportData,
    Row,
    Section,
    Table,
)
from fgfi_tf.evaluation.report_kitti_pictures import ImageFolder
from fgfi_tf.evaluation.voc import METRICS, Evaluation
from fgfi_tf.evaluation.voc_types import Detections, Truths

KIND_COLORS = dict(zip(voc_analysis.KINDS, (GOOD, "#e0a030", "#7b62b8", "#4d9db8", NEUTRAL), strict=True))
N_IMAGES = 6
_FOUND, _MISSED, _RIGHT, _WRONG = (245, 245, 245), (255, 176, 32), (87, 224, 132), (255, 96, 88)
_METRIC_TITLES = {"11point": "11 points (VOC 2007)", "area": "Area under the curve (VOC 2010 on)"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluated model: its name, detections, results, rows of the published table beside it."""

    name: str
    detections: Detections
    evaluation: Evaluation
    published: tuple[str, ...] = ()


def build(
    runs: list[Run],
    truths: Truths,
    images: Path | None = None,
    title: str = "",
    comparison: Comparison = ALONE,
    min_score: float = 0.3,
) -> ReportData:
    """The report on one or more models evaluated on the same images.

    Args:
        runs: several are shown with what they gain over a baseline.
        truths: the objects.
        images: folder of ``<image>.jpg``; without it there are no pictures.
        title: instead of one made from the names.
        comparison: of several, the baseline and the teacher.
        min_score: of several, the lowest score drawn in the images shown of all.

    Raises:
        UserError: an unknown published row; the image folder is absent or holds no image of these.
    """
    for row in itertools.chain(*(run.published for run in runs)):
        if row not in voc_tables.PUBLISHED_MEAN:
            known = ", ".join(voc_tables.PUBLISHED_MEAN)
            raise UserError(f"{row!r} is no published row: choose of {known}")
    folder = ImageFolder.of(images, truths.image_ids) if images else None
    analyses = {run.name: voc_analysis.analyse(run.detections, truths, run.evaluation) for run in runs}
    sections = [
        _ap_section(runs, comparison),
        Section("Precision and recall", (_precision_figure(runs),)),
        _analysis_section(runs, analyses),
    ]
    if folder and len(runs) > 1:
        sections.insert(1, _same_frames_section(runs, truths, folder, min_score))
    if folder:
        sections.append(_picture_section(runs[-1], analyses[runs[-1].name], truths, folder))
    names = ", ".join(run.name for run in runs)
    return ReportData(
        title=title or f"PASCAL VOC detection: {names}",
        subtitle="Average precision of every class; what the detections get wrong; what is missed.",
        facts=(
            ("Images", f"{len(truths.image_ids):,}"),
            (
                "Objects",
                f"{int(np.sum(~truths.difficult)):,} and {int(np.sum(truths.difficult)):,} difficult",
            ),
            ("Detections", " / ".join(f"{len(run.detections.scores):,}" for run in runs)),
            ("Match", _match_text(runs[0].evaluation)),
        ),
        sections=tuple(sections),
        numbers={run.name: _numbers(run, analyses[run.name]) for run in runs},
    )


def _match_text(evaluation: Evaluation) -> str:
    rule = "of at least" if evaluation.protocol == "official" else "above"
    return f"IoU {rule} {evaluation.iou_threshold:g} ({evaluation.protocol} protocol)"


_AP_TEXT = (
    "Percent. An en dash: the class has no objects that count. Difficult objects are neither found nor "
    f"missed. Published: {voc_tables.PUBLISHED_SOURCE}."
)


def _numbers(run: Run, analyses: dict[str, voc_analysis.Analysis]) -> dict[str, Any]:
    return {
        "images": run.evaluation.n_images,
        "results": run.evaluation.to_json(),
        "analysis": {name: part.counts() for name, part in analyses.items()},
        "published": {row: voc_tables.PUBLISHED.get(row, {}) for row in run.published},
    }


# --- average precision ------------------------------------------------------------------------


def _ap_section(runs: list[Run], comparison: Comparison) -> Section:
    means = {run.name: {"mean AP": run.evaluation.mean_ap("11point", present_only=True)} for run in runs}
    text = " ".join([*comparison.sentences(means), _AP_TEXT])
    return Section(
        "Average precision", tuple(_ap_table(runs, metric, comparison) for metric in METRICS), text
    )


def _ap_table(runs: list[Run], metric: str, comparison: Comparison) -> Table:
    """A row per class; a column per model, per gain, per published row and difference to it."""
    columns: list[tuple[str, dict[str, float | None]]] = [(run.name, _percent(run, metric)) for run in runs]
    percent = dict(columns)
    for base, name in comparison.pairs(percent):
        columns.append((f"gain of {name} over {base}", _difference(percent[name], percent[base])))
    for run in runs if metric == "11point" else ():
        for row in run.published:
            theirs = {**voc_tables.PUBLISHED.get(row, {}), "mean": voc_tables.PUBLISHED_MEAN[row]}
            columns.append((f"published {row}", theirs))
            columns.append(
                (f"{run.name} \N{MINUS SIGN} published {row}", _difference(_percent(run, metric), theirs))
            )
    names = [*runs[0].evaluation.results, "mean"]
    if not all(result.positives for _, result in runs[0].evaluation):
        names.append("mean of classes with objects")
    rows = tuple(
        Row(
            name, tuple(values.get(name) for _, values in columns), "total" if name.startswith("mean") else ""
        )
        for name in names
    )
    return Table(_METRIC_TITLES[metric], tuple(name for name, _ in columns), rows)


def _percent(run: Run, metric: str) -> dict[str, float | None]:
    values: dict[str, float | None] = {
        name: 100 * result.ap(metric) if result.positives else None for name, result in run.evaluation
    }
    mean = run.evaluation.mean_ap(metric)
    values["mean"] = None if np.isnan(mean) else 100 * mean
    values["mean of classes with objects"] = 100 * run.evaluation.mean_ap(metric, present_only=True)
    return values


def _difference(values: dict[str, float | None], base: dict[str, float | None]) -> dict[str, float | None]:
    shared = [n for n in values if values[n] is not None and base.get(n) is not None]
    return {name: values[name] - base[name] for name in shared}


def _precision_figure(runs: list[Run]) -> Figure:
    panels = []
    for name, first in runs[0].evaluation:
        if not first.positives:
            continue
        lines = []
        for number, run in enumerate(runs):
            result = run.evaluation.results[name]
            envelope = np.maximum.accumulate(result.precision[::-1])[::-1]
            # from the first axis, and down to the second where the detections end
            start, last = np.zeros(len(result.recall[:1])), result.recall[-1:]
            x = np.concatenate([start, result.recall, last])
            y = np.concatenate([envelope[:1], envelope, np.zeros(len(last))])
            lines.append(Line(run.name, x, y, SERIES_COLORS[number % len(SERIES_COLORS)]))
        panels.append(Curves(name, tuple(lines), "recall", "precision"))
    return Figure(
        "precision_recall", "", tuple(panels), "The best precision at each recall or above.", columns=4
    )


def _same_frames_section(runs: list[Run], truths: Truths, folder: ImageFolder, min_score: float) -> Section:
    """The same images: labelled objects, and every model's detections."""
    index = {name: number for number, name in enumerate(truths.image_ids)}
    objects = np.bincount(truths.image, minlength=len(index))
    at_hand = np.array([name in folder.paths for name in truths.image_ids])
    shown = [truths.image_ids[i] for i in report_same_frames.frames_to_show(objects, at_hand)]

    def drawn(boxes: Truths | Detections) -> Callable[[str], report_same_frames.Drawn]:
        def of_image(name: str) -> report_same_frames.Drawn:
            rows = np.flatnonzero(boxes.image == index[name])
            names = [boxes.class_names[c] for c in boxes.classes[rows]]
            scores = boxes.scores[rows] if isinstance(boxes, Detections) else None
            return report_same_frames.Drawn(boxes.boxes[rows] - 1, names, scores)

        return of_image

    models = {run.name: drawn(run.detections.of_images(truths)) for run in runs}
    return report_same_frames.section(shown, folder.read, drawn(truths), models, min_score)


# --- analysis ---------------------------------------------------------------------------------


def _analysis_section(runs: list[Run], analyses: dict[str, dict[str, voc_analysis.Analysis]]) -> Section:
    panels, tables = [], []
    for run in runs:
        parts = {name: part for name, part in analyses[run.name].items() if part.positives}
        series = tuple(
            (kind, KIND_COLORS[kind], tuple(p.counts()[kind] / p.positives for p in parts.values()))
            for kind in voc_analysis.KINDS
        )
        panels.append(Bars(run.name, tuple(parts), series, "share of the objects"))
        rows = tuple(Row(name, (p.positives, *p.counts().values())) for name, p in parts.items())
        tables.append(Table(f"Counts, {run.name}", ("objects", *voc_analysis.KINDS, "missed"), rows))
    text = (
        "The n highest-scored detections of each class, n being the number of objects that count: a perfect "
        "detector has only correct ones. Localisation: on an object of the class, with an IoU above 0.1 that "
        "does not suffice. Classification: on an object of another class. Repeated: on an object that a "
        "better one already has. Background: none of these. Missed: objects without a correct detection."
    )
    caption = "Bars shorter than 100 %: there are fewer detections than objects."
    figure = Figure("analysis", "", tuple(panels), caption, columns=2)
    return Section("What the detections are", (figure, *tables), text)


def _picture_section(
    run: Run, analyses: dict[str, voc_analysis.Analysis], truths: Truths, folder: ImageFolder
) -> Section:
    detections = run.detections.of_images(truths)
    errors = voc_analysis.errors_per_image(analyses, detections, truths)
    errors *= np.array([name in folder.paths for name in truths.image_ids])
    worst = [i for i in np.argsort(-errors, kind="stable")[:N_IMAGES] if errors[i]]
    pictures = []
    for image in worst:
        name = truths.image_ids[image]
        drawn = _draw(folder.read(name), int(image), detections, analyses, truths)
        pictures.append(Picture(f"image_{name}", f"{name}: {errors[image]} errors", drawn))
    text = (
        "Most wrong detections and missed objects together, at the operating point above. White: object that "
        "counts, found. Amber: missed. Green: correct detection. Red: wrong one, with its score."
    )
    return Section("Worst images", (Gallery(run.name, tuple(pictures), columns=2),), text)


def _draw(
    image: np.ndarray,
    index: int,
    detections: Detections,
    analyses: dict[str, voc_analysis.Analysis],
    truths: Truths,
) -> np.ndarray:
    """Objects that count, then detections of the operating point, over one image."""
    missed = np.concatenate([part.missed for part in analyses.values()])
    rows = np.flatnonzero((truths.image == index) & ~truths.difficult)
    lost = np.isin(rows, missed)
    names = [
        f"missed {truths.class_names[truths.classes[r]]}" if m else ""
        for r, m in zip(rows, lost, strict=True)
    ]
    colors = [_MISSED if m else _FOUND for m in lost]
    boxes = truths.boxes[rows]
    rows = np.concatenate([part.rows for part in analyses.values()])
    right = np.concatenate([part.kinds for part in analyses.values()]) == voc_analysis.CORRECT
    here = detections.image[rows] == index
    rows, right = rows[here], right[here]
    names += [
        "" if r else f"{detections.class_names[detections.classes[d]]} {detections.scores[d]:.2f}"
        for d, r in zip(rows, right, strict=True)
    ]
    colors += [_RIGHT if r else _WRONG for r in right]
    boxes = np.concatenate([boxes, detections.boxes[rows]]) - 1
    return drawing.draw_boxes(image, boxes, labels=names, colors=colors)
