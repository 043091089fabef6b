"""Fills a report with KITTI results of one model, or of several side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.evaluation import analysis, published
from fgfi_tf.evaluation.comparison import ALONE, Comparison
from fgfi_tf.evaluation.kitti import DIFFICULTIES, MIN_OVERLAP, N_RECALL
from fgfi_tf.evaluation.kitti_types import CLASS_NAMES, Labels
from fgfi_tf.evaluation.report_data import (
    BAD,
    GOOD,
    NEUTRAL,
    SERIES_COLORS,
    Bars,
    Curves,
    Figure,
    Line,
    ReportData,
    Row,
    Section,
    Table,
)
from fgfi_tf.evaluation.report_kitti_ap import Run, ap_section
from fgfi_tf.evaluation.report_kitti_pictures import ImageFolder, picture_section, same_frames_section

CLASS_COLORS = dict(zip(CLASS_NAMES, SERIES_COLORS, strict=False))
KIND_COLORS = dict(
    zip(analysis.KINDS, (GOOD, "#e0a030", "#7b62b8", "#4d9db8", NEUTRAL), strict=True), missed=BAD
)
_DIFFICULTY_STYLES = dict(zip(DIFFICULTIES, ("-", "--", ":"), strict=True))
_HEIGHTS = (0, 25, 40, 60, 100, 160, np.inf)  # pixels
_BORDERS = (0, 1, 10, 40, 100, np.inf)  # pixels
_OCCLUSIONS = ("visible", "partly", "largely", "unknown")
_FEWEST = 5  # objects in a range for which a recall is drawn


def build(
    runs: list[Run],
    labels: Labels,
    images: Path | None = None,
    title: str = "",
    comparison: Comparison = ALONE,
    min_score: float = 0.3,
) -> ReportData:
    """The report on one or more models evaluated on the same frames, in one protocol.

    Args:
        runs: several are shown with what they gain over a baseline.
        labels: of the evaluated frames.
        images: folder of ``<frame id>.png`` or ``.jpg``; without it there are no pictures and
            border distances assume KITTI's commonest image size.
        title: instead of one made from the names.
        comparison: of several, the baseline and the teacher.
        min_score: of several, the lowest score drawn in the frames shown of all.

    Raises:
        UserError: the image folder is absent or holds no image of these frames.
    """
    folder = ImageFolder.of(images, labels.frame_ids) if images else None
    runs = [dataclasses.replace(run, detections=run.detections.select(labels.frame_ids)) for run in runs]
    protocol = runs[0].evaluation.protocol
    analyses = {run.name: analysis.analyse(run.detections, labels, protocol) for run in runs}
    records = {
        run.name: {
            name: analysis.object_records(name, run.detections, labels, folder.sizes() if folder else None)
            for name in CLASS_NAMES
        }
        for run in runs
    }
    sections = [
        ap_section(runs, comparison),
        Section("Precision and recall", (_precision_figure(runs),)),
        _analysis_section(runs, analyses),
        _recall_section(runs, records, folder is not None),
    ]
    if folder and len(runs) > 1:
        found = {run.name: run.detections for run in runs}
        sections.insert(1, same_frames_section(found, labels, folder, min_score))
    if folder:
        sections.append(picture_section({run.name: run.detections for run in runs}, analyses, labels, folder))
    names = ", ".join(run.name for run in runs)
    return ReportData(
        title=title or f"KITTI 2D detection: {names}",
        subtitle="Average precision over recall positions; what the detections get wrong; what is missed.",
        facts=_facts(runs, labels),
        sections=tuple(sections),
        numbers={run.name: _numbers(run, analyses[run.name]) for run in runs},
    )


def _facts(runs: list[Run], labels: Labels) -> tuple[tuple[str, str], ...]:
    overlaps = ", ".join(f"{name} {overlap:g}" for name, overlap in MIN_OVERLAP.items())
    objects = sum(int((labels.type == index).sum()) for index in range(len(CLASS_NAMES)))
    return (
        ("Protocol", runs[0].evaluation.protocol),
        ("Frames", f"{len(labels.frame_ids):,}"),
        ("Objects", f"{objects:,}"),
        ("Detections", " / ".join(f"{len(run.detections):,}" for run in runs)),
        ("Minimum overlap", overlaps),
    )


def _numbers(run: Run, analyses: dict[str, dict[str, analysis.Analysis]]) -> dict[str, Any]:
    return {
        "protocol": run.evaluation.protocol,
        "frames": run.evaluation.n_frames,
        "mean_AP11": run.evaluation.mean_ap(11),
        "mean_AP40": run.evaluation.mean_ap(40),
        "results": run.evaluation.to_json(),
        "analysis": {n: {d: a.counts() for d, a in rows.items()} for n, rows in analyses.items()},
        "published": {run.published: published.SHUFFLEDET[run.published]} if run.published else {},
    }


def _precision_figure(runs: list[Run]) -> Figure:
    recall = np.arange(N_RECALL) / (N_RECALL - 1)

    def line(name: str, run: Run, class_name: str, difficulty: str, color: str, style: str) -> Line:
        result = run.evaluation[class_name][difficulty]
        count = len(result.thresholds)
        # down to the axis where the detections end
        x = np.append(recall[:count], recall[max(count - 1, 0)])
        return Line(name, x, np.append(result.precision[:count], 0.0), color, style)

    panels = []
    for class_name in CLASS_NAMES:
        if len(runs) == 1:
            lines = [
                line(name, runs[0], class_name, name, SERIES_COLORS[0], style)
                for name, style in _DIFFICULTY_STYLES.items()
            ]
        else:
            lines = [
                line(run.name, run, class_name, "moderate", color, "-")
                for run, color in zip(runs, _run_colors(runs), strict=True)
            ]
        panels.append(Curves(class_name, tuple(lines), "recall", "precision"))
    which = "" if len(runs) == 1 else " Moderate objects."
    caption = f"Precision after the maximum filter, at the 41 recall positions.{which}"
    return Figure("precision_recall", "", tuple(panels), caption)


def _run_colors(runs: list[Run]) -> list[str]:
    return [SERIES_COLORS[index % len(SERIES_COLORS)] for index in range(len(runs))]


# --- analysis ---------------------------------------------------------------------------------


def _analysis_section(
    runs: list[Run], analyses: dict[str, dict[str, dict[str, analysis.Analysis]]]
) -> Section:
    columns = ("objects", *analysis.KINDS, "missed")
    rows, panels = [], []
    for class_name in CLASS_NAMES:
        categories, shares = [], []
        for run in runs:
            for difficulty in DIFFICULTIES if len(runs) == 1 else ("moderate",):
                part = analyses[run.name][class_name][difficulty]
                counts = part.counts()
                name = difficulty if len(runs) == 1 else run.name
                rows.append(Row(f"{class_name}, {name}", (part.n_gt, *counts.values())))
                categories.append(name)
                shares.append([counts[kind] / max(part.n_gt, 1) for kind in analysis.KINDS])
        series = tuple(
            (kind, KIND_COLORS[kind], tuple(column))
            for kind, column in zip(analysis.KINDS, zip(*shares, strict=True), strict=True)
        )
        panels.append(Bars(class_name, tuple(categories), series, "share of the objects"))
    text = (
        "The n highest-scored detections of each class, n being the number of objects that count: a perfect "
        "detector has only correct ones. Localisation: on an object of the class, with an IoU above 0.1 that "
        "does not suffice. Classification: on an object of another type. Repeated: on an object that a "
        "better one already has. Background: none of these. Missed: objects without a correct detection."
    )
    caption = "Bars shorter than 100 %: there are fewer detections than objects."
    which = "" if len(runs) == 1 else " (moderate)"
    return Section(
        "What the detections are",
        (Figure("analysis", "", tuple(panels), caption), Table(f"Counts{which}", columns, tuple(rows))),
        text,
    )


# --- recall -----------------------------------------------------------------------------------


def _range_names(edges: tuple[float, ...]) -> tuple[str, ...]:
    names = [f"{low}\N{EN DASH}{high}" for low, high in zip(edges[:-2], edges[1:-1], strict=True)]
    return (f"< {edges[1]}", *names[1:], f"\N{GREATER-THAN OR EQUAL TO} {edges[-2]}")


_AXES = {
    "height": ("By object height", "height in pixels", _range_names(_HEIGHTS), _HEIGHTS),
    "occlusion": ("By occlusion", "occlusion", _OCCLUSIONS, (0, 1, 2, 3, 4)),
    "border": (
        "By border distance",
        "pixels to the nearest border",
        _range_names(_BORDERS),
        _BORDERS,
    ),
}


def binned_recall(found: np.ndarray, values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """Share of ``found`` [N] in each range of ``values`` [N], NaN where it holds too few objects."""
    place = np.digitize(values, edges) - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    total = np.bincount(place[inside], minlength=len(edges) - 1)
    hits = np.bincount(place[inside], found[inside], minlength=len(edges) - 1)
    return np.where(total >= _FEWEST, hits / np.maximum(total, 1), np.nan)


def _recall_section(
    runs: list[Run], records: dict[str, dict[str, analysis.ObjectRecords]], sizes_known: bool
) -> Section:
    def line(name: str, record: analysis.ObjectRecords, key: str, color: str) -> Line:
        recall = binned_recall(record.found, getattr(record, key), _AXES[key][3])
        return Line(name, np.arange(len(recall)), recall, color, "-", "o")

    panels = []
    for class_name in CLASS_NAMES if len(runs) > 1 else ("",):
        for key, (title, x_label, ticks, _) in _AXES.items():
            if len(runs) == 1:
                of_class = records[runs[0].name]
                lines = [line(name, of_class[name], key, CLASS_COLORS[name]) for name in CLASS_NAMES]
            else:
                colors = zip(runs, _run_colors(runs), strict=True)
                lines = [line(run.name, records[run.name][class_name], key, color) for run, color in colors]
                title = f"{class_name}: {title[0].lower()}{title[1:]}"
            panels.append(Curves(title, tuple(lines), x_label, "recall", ticks))
    size = "" if sizes_known else " Image sizes are not known without the images: 1242 x 375 is assumed."
    caption = f"Ranges with fewer than {_FEWEST} objects are left out.{size}"
    text = (
        "All labelled objects of a class, also those that count at no difficulty, against its highest-scored "
        "detections, as many as there are objects."
    )
    return Section("Which objects are found", (Figure("recall", "", tuple(panels), caption),), text)
