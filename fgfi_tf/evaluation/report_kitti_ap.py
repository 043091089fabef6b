"""The AP tables of a KITTI report: every model, what each gains, and the published rows."""

from __future__ import annotations

import dataclasses

import numpy as np

from fgfi_tf.evaluation import published
from fgfi_tf.evaluation.comparison import ALONE, Comparison
from fgfi_tf.evaluation.kitti import DIFFICULTIES, Evaluation
from fgfi_tf.evaluation.kitti_types import CLASS_NAMES, Detections
from fgfi_tf.evaluation.report_data import Row, Section, Table

GROUPS = (*((name, len(DIFFICULTIES)) for name in CLASS_NAMES), ("", 1))
COLUMNS = (*(name for _ in CLASS_NAMES for name in DIFFICULTIES), "mean")
PUBLISHED_NOTE = f"Published: {published.SHUFFLEDET_SOURCE}."


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluated model: its name, detections (every frame), results, row of the published table."""

    name: str
    detections: Detections
    evaluation: Evaluation
    published: str = ""


def _ap_values(evaluation: Evaluation, measure: str) -> tuple[float | None, ...]:
    """Nine percentages and their mean, None where a class was not evaluated."""
    values = [getattr(result, measure) for _, _, result in evaluation]
    mean = 100 * float(np.mean(values))
    shown = [100 * v if r.evaluated else None for v, (_, _, r) in zip(values, evaluation, strict=True)]
    return (*shown, mean)


def _published_values(row: str) -> tuple[float, ...]:
    by_class = published.SHUFFLEDET[row]
    return (*(v for name in CLASS_NAMES for v in by_class[name]), published.SHUFFLEDET_MEAN[row])


def _differences(values: tuple, base: tuple) -> tuple[float | None, ...]:
    return tuple(None if a is None or b is None else a - b for a, b in zip(values, base, strict=True))


def _ap_rows(runs: list[Run], measure: str, comparison: Comparison) -> tuple[Row, ...]:
    values = {run.name: _ap_values(run.evaluation, measure) for run in runs}
    rows = [Row(name, own, "total") for name, own in values.items()]
    for base, name in comparison.pairs(values):
        gain = _differences(values[name], values[base])
        rows.append(Row(f"gain of {name} over {base}", gain, "difference"))
    return tuple(rows)


def _published_rows(runs: list[Run]) -> tuple[Row, ...]:
    rows = []
    for run in runs:
        if run.published:
            ours, theirs = _ap_values(run.evaluation, "ap11"), _published_values(run.published)
            rows.append(Row(run.name, ours, "total"))
            rows.append(Row(f"published {run.published}", theirs, "muted"))
            rows.append(Row("difference", _differences(ours, theirs), "difference"))
    return tuple(rows)


def ap_section(runs: list[Run], comparison: Comparison) -> Section:
    """The section of all AP tables; its text says what each model gains."""
    tables = [
        Table("11 recall positions (AP11)", COLUMNS, _ap_rows(runs, "ap11", comparison), GROUPS),
        Table("40 recall positions (AP40)", COLUMNS, _ap_rows(runs, "ap40", comparison), GROUPS),
    ]
    if rows := _published_rows(runs):
        beside = Table("Beside the published rows (AP11)", COLUMNS, rows, GROUPS, PUBLISHED_NOTE)
        # of one model it holds all that the first table does
        tables = [beside, tables[1]] if len(runs) == 1 else [tables[0], beside, tables[1]]
    oriented = [run for run in runs if run.evaluation["Car"]["easy"].aos11 is not None]
    if oriented:
        rows = _ap_rows(oriented, "aos11", comparison if len(oriented) == len(runs) else ALONE)
        tables.append(Table("Orientation similarity, 11 recall positions", COLUMNS, rows, GROUPS))
    text = "Percent. An en dash: no detection of the class at all, which counts as 0 in the mean."
    means = {run.name: {"mean AP11": run.evaluation.mean_ap(11)} for run in runs}
    return Section("Average precision", tuple(tables), " ".join([*comparison.sentences(means), text]))
