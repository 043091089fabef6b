"""The AP tables of a report: every model, what each gains, and the published rows, for any protocol."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.comparison import ALONE, Comparison
from fgfi_tf.evaluation.protocol import Measure, Protocol, Result
from fgfi_tf.evaluation.report.data import Row, Section, Table

Key = tuple[str, str]  # class, setting
Values = Mapping[Key, float | None]  # percent
Series = tuple[str, Values, str]  # label, percent, style of its row
_MOST_COLUMNS = 13  # with more numbers a model is a column and not a row


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluated model: its name, detections, result, rows of the published table to show beside it."""

    name: str
    detections: Boxes
    result: Result
    published: tuple[str, ...] = ()


def ap_section(protocol: Protocol, runs: Sequence[Run], comparison: Comparison) -> Section:
    """The section of all AP tables; its text says what each model gains."""
    by_run = {run.name: {one.title: one for one in run.result.measures()} for run in runs}
    measures = {title: one for found in by_run.values() for title, one in found.items()}
    tables: list[Table] = []
    for title, measure in measures.items():
        values = {name: _percent(found[title]) for name, found in by_run.items() if title in found}
        keys = list(dict.fromkeys(key for own in values.values() for key in own))
        known = comparison if {comparison.baseline, comparison.teacher} <= {"", *values} else ALONE
        series: list[Series] = [(name, own, "total") for name, own in values.items()]
        for base, name in known.pairs(values):
            gain = _difference(values[name], values[base])
            series.append((f"gain of {name} over {base}", gain, "difference"))
        beside = {run.name: run.published for run in runs if measure.published and run.published}
        tall = len(keys) > _MOST_COLUMNS
        compared: list[Series] = []
        for name, rows in beside.items():
            compared += [] if tall else [(name, values[name], "total")]
            for row in rows:
                of = f"{name} \N{MINUS SIGN} published {row}" if tall else "difference"
                difference = _difference(values[name], protocol.published[row])
                compared.append((f"published {row}", protocol.published[row], "muted"))
                compared.append((of, difference, "difference"))
        if tall:
            tables.append(_tall(title, keys, series + compared))
            continue
        if len(values) > 1 or not compared:  # of one model the other table holds all that this one does
            tables.append(_wide(title, keys, series))
        if compared:
            tables.append(_wide(f"Beside the published rows: {title}", keys, compared))
    texts = comparison.sentences({run.name: dict(list(run.result.metrics.items())[:1]) for run in runs})
    texts += ["Percent.", protocol.note(runs[0].result)]
    if any(run.published for run in runs):
        texts.append(f"Published: {protocol.published_source}.")
    return Section("Average precision", tuple(tables), " ".join(filter(None, texts)))


def _percent(measure: Measure) -> dict[Key, float | None]:
    return {key: None if value is None else 100 * value for key, value in measure.values.items()}


def _difference(values: Values, base: Values) -> dict[Key, float | None]:
    shared = [key for key in values if values[key] is not None and base.get(key) is not None]
    return {key: values[key] - base[key] for key in shared}


def _wide(title: str, keys: Sequence[Key], series: Sequence[Series]) -> Table:
    """A row for each of the series, a column for each number."""
    groups = [(name, len(list(of))) for name, of in itertools.groupby(name for name, _ in keys)]
    shown = tuple(groups) if any(setting for name, setting in keys if name) else ()
    rows = [Row(label, tuple(map(values.get, keys)), style) for label, values, style in series]
    return Table(title, tuple(setting or name for name, setting in keys), tuple(rows), shown)


def _tall(title: str, keys: Sequence[Key], series: Sequence[Series]) -> Table:
    """A row for each class, a column for each of the series, or one for each setting of it."""
    classes = {name for name, _ in keys}
    settings = list(dict.fromkeys(setting for name, setting in keys if name)) or [""]
    rows = []
    for label in dict.fromkeys(name or setting for name, setting in keys):
        whole = label not in classes
        places = [("", label)] + [None] * (len(settings) - 1) if whole else [(label, s) for s in settings]
        values = [own.get(place) for _, own, _ in series for place in places]
        rows.append(Row(label, tuple(values), "total" if whole else ""))
    names = tuple(label for label, _, _ in series)
    if settings == [""]:
        return Table(title, names, tuple(rows))
    return Table(
        title, tuple(settings) * len(names), tuple(rows), tuple((name, len(settings)) for name in names)
    )
