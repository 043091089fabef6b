"""The figures of a report: precision and recall, kinds of errors, and which objects are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fgfi_tf.evaluation import analysis
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.protocol import Protocol, Setting
from fgfi_tf.evaluation.report.data import (
    BAD,
    GOOD,
    NEUTRAL,
    SERIES_COLORS,
    Bars,
    Curves,
    Figure,
    Line,
    Row,
    Section,
    Table,
)
from fgfi_tf.evaluation.report.tables import Run

KIND_COLORS = dict(
    zip(analysis.KINDS, (GOOD, "#e0a030", "#7b62b8", "#4d9db8", NEUTRAL), strict=True), missed=BAD
)
_STYLES = ("-", "--", ":")
_FEW_CLASSES = 4  # so many have a line or a panel each
_MOST_PANELS = 24
_HEIGHTS = (0, 25, 40, 60, 100, 160, np.inf)  # pixels
_BORDERS = (0, 1, 10, 40, 100, np.inf)  # pixels
_OCCLUSIONS = ("visible", "partly", "largely", "unknown")
_FEWEST = 5  # objects in a range for which a recall is drawn

Analyses = Mapping[str, Sequence[analysis.Analysis]]  # by model


def main_settings(protocol: Protocol, settings: Sequence[Setting]) -> list[Setting]:
    """Of each class the setting that stands for all."""
    found: dict[str, Setting] = {}
    for setting in settings:
        if setting.class_name not in found or setting.name == protocol.main_setting:
            found[setting.class_name] = setting
    return list(found.values())


def _color(index: int) -> str:
    return SERIES_COLORS[index % len(SERIES_COLORS)]


def precision_section(runs: Sequence[Run], main: Sequence[Setting]) -> Section | None:
    """The curves of each class, of one model in every setting; None where the protocol has none."""
    curves = {run.name: run.result.curves() for run in runs}
    names = list(dict.fromkeys(name for own in curves.values() for name, _ in own))
    if not names:
        return None
    objects = {setting.class_name: int(setting.counted.sum()) for setting in main}
    shown = sorted(names, key=lambda name: -objects.get(name, 0))[:_MOST_PANELS]
    setting_of = {setting.class_name: setting.name for setting in main}
    panels = []
    for name in (name for name in names if name in shown):
        lines = []
        for index, run in enumerate(runs):
            own = {key: xy for (of, key), xy in curves[run.name].items() if of == name}
            if len(runs) > 1 and setting_of.get(name) in own:
                own = {setting_of[name]: own[setting_of[name]]}
            for style, (key, (x, y)) in zip(_STYLES, own.items(), strict=False):
                label = key if len(runs) == 1 and key else run.name
                lines.append(Line(label, x, y, _color(index), style if len(runs) == 1 else "-"))
        panels.append(Curves(name, tuple(lines), "recall", "precision"))
    which = next(iter(setting_of.values()), "")
    caption = "The best precision at each recall or above."
    caption += f" {which.capitalize()} objects." if len(runs) > 1 and which else ""
    if len(shown) < len(names):
        caption += f" The {len(shown)} classes with most objects of {len(names)}."
    columns = 3 if len(panels) <= 6 else 4
    figure = Figure("precision_recall", "", tuple(panels), caption, columns)
    return Section("Precision and recall", (figure,))


# --- analysis ---------------------------------------------------------------------------------

_KINDS_TEXT = (
    "The n highest-scored detections of each class, n being the number of objects that count: a perfect "
    "detector has only correct ones. Localisation: on an object of the class, with an IoU above 0.1 that "
    "does not suffice. Classification: on an object of another class. Repeated: on an object that a "
    "better one already has. Background: none of these. Missed: objects without a correct detection."
)
_COUNT_COLUMNS = ("objects", *analysis.KINDS, "missed")


def analysis_section(protocol: Protocol, analyses: Analyses) -> Section:
    """Bars and counts: a panel for each of a few classes with several settings, else for each model."""
    parts = {name: [part for part in own if part.n_gt or len(part.rows)] for name, own in analyses.items()}
    first = next(iter(analyses.values()))
    names = list(dict.fromkeys(part.setting.class_name for part in first))
    settings = [[part.setting for part in own] for own in analyses.values()]
    main = {id(setting) for own in settings for setting in main_settings(protocol, own)}
    one, several = len(analyses) == 1, any(part.setting.name for part in first)
    caption = "Bars shorter than 100 %: there are fewer detections than objects."
    panels, tables = [], []
    if several and len(names) <= _FEW_CLASSES:
        rows: list[Row] = []
        for name in names:
            bars = [
                (part.setting.name if one else model, part)
                for model, own in analyses.items()
                for part in own
                if part.setting.class_name == name and (one or id(part.setting) in main)
            ]
            panels.append(_bars(name, bars))
            rows += [_counts(f"{name}, {label}", part) for label, part in bars]
        which = "" if one else f" ({protocol.main_setting})"
        tables.append(Table(f"Counts{which}", _COUNT_COLUMNS, tuple(rows)))
    else:
        for model, own in parts.items():
            bars = [(part.setting.class_name, part) for part in own if id(part.setting) in main]
            panels.append(_bars(model, bars))
            rows = [_counts(label, part) for label, part in bars]
            tables.append(Table(f"Counts, {model}", _COUNT_COLUMNS, tuple(rows)))
    columns = 3 if several and len(names) <= _FEW_CLASSES else 2
    figure = Figure("analysis", "", tuple(panels), caption, columns)
    return Section("What the detections are", (figure, *tables), _KINDS_TEXT)


def _bars(title: str, bars: Sequence[tuple[str, analysis.Analysis]]) -> Bars:
    series = tuple(
        (kind, KIND_COLORS[kind], tuple(part.counts()[kind] / max(part.n_gt, 1) for _, part in bars))
        for kind in analysis.KINDS
    )
    return Bars(title, tuple(label for label, _ in bars), series, "share of the objects")


def _counts(label: str, part: analysis.Analysis) -> Row:
    return Row(label, (part.n_gt, *part.counts().values()))


# --- recall -----------------------------------------------------------------------------------


def _range_names(edges: tuple[float, ...]) -> tuple[str, ...]:
    names = [f"{low}\N{EN DASH}{high}" for low, high in zip(edges[:-2], edges[1:-1], strict=True)]
    return (f"< {edges[1]}", *names[1:], f"\N{GREATER-THAN OR EQUAL TO} {edges[-2]}")


_AXES = {
    "height": ("By object height", "height in pixels", _range_names(_HEIGHTS), _HEIGHTS),
    "occlusion": ("By occlusion", "occlusion", _OCCLUSIONS, (0, 1, 2, 3, 4)),
    "border": ("By border distance", "pixels to the nearest border", _range_names(_BORDERS), _BORDERS),
}


def binned_recall(found: np.ndarray, values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """Share of ``found`` [N] in each range of ``values`` [N], NaN where it holds too few objects."""
    place = np.digitize(values, edges) - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    total = np.bincount(place[inside], minlength=len(edges) - 1)
    hits = np.bincount(place[inside], found[inside], minlength=len(edges) - 1)
    return np.where(total >= _FEWEST, hits / np.maximum(total, 1), np.nan)


def recall_section(
    protocol: Protocol,
    runs: Sequence[Run],
    main: Mapping[str, Sequence[Setting]],
    ground_truth: Boxes,
    sizes: np.ndarray | None,
) -> Section:
    """Recall against height, occlusion and border distance, for each of a few classes or for all together.

    ``main``: by model, the settings that stand for all. ``sizes``: (height, width) of each image, NaN where
    not known.
    """
    assumed, caption = protocol.usual_image_size, f"Ranges with fewer than {_FEWEST} objects are left out."
    if sizes is None and assumed:
        sizes = np.tile(np.array(assumed, np.float64), (len(ground_truth.image_ids), 1))
        caption += f" Image sizes are not known without the images: {assumed[1]} x {assumed[0]} is assumed."
    held = {"occlusion": "occlusion" in ground_truth.columns, "border": sizes is not None}
    axes = {key: axis for key, axis in _AXES.items() if held.get(key, True)}
    records: dict[str, dict[str, analysis.ObjectRecords]] = {}
    for run in runs:
        tables = protocol.rule(), run.detections, ground_truth, sizes
        records[run.name] = {one.class_name: analysis.object_records(one, *tables) for one in main[run.name]}
    names = list(next(iter(records.values())))
    few = len(names) <= _FEW_CLASSES

    def line(name: str, of: Sequence[analysis.ObjectRecords], key: str, color: str) -> Line:
        found = np.concatenate([one.found for one in of])
        values = np.concatenate([getattr(one, key) for one in of])
        known = ~np.isnan(values)
        recall = binned_recall(found[known], values[known], axes[key][3])
        return Line(name, np.arange(len(recall)), recall, color, "-", "o")

    panels = []
    for class_name in names if few and len(runs) > 1 else ("",):
        for key, (title, x_label, ticks, _) in axes.items():
            if few and len(runs) == 1:
                chosen = {name: [one] for own in records.values() for name, one in own.items()}
            elif class_name:
                chosen = {model: [own[class_name]] for model, own in records.items()}
                title = f"{class_name}: {title[0].lower()}{title[1:]}"
            else:
                chosen = {model: list(own.values()) for model, own in records.items()}
            lines = [line(name, of, key, _color(i)) for i, (name, of) in enumerate(chosen.items())]
            if any(np.isfinite(found.y).any() for found in lines):
                panels.append(Curves(title, tuple(lines), x_label, "recall", ticks))
    text = (
        "All labelled objects of a class, also those that do not count, against its highest-scored "
        "detections, as many as there are objects."
    )
    if not panels:
        return Section("Which objects are found", (), f"Every range holds fewer than {_FEWEST} objects.")
    return Section("Which objects are found", (Figure("recall", "", tuple(panels), caption),), text)
