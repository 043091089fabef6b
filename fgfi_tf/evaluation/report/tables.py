"""The AP tables of a report: every model, what each gains, and the published rows, for any protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.comparison import Comparison
from fgfi_tf.evaluation.protocol import Measure, Protocol, Result
from fgfi_tf.evaluation.report.data import Row, Section, Table

Key = tuple[str, str]  # class, setting
Values = Mapping[Key, float | None]  # percent

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
        known = comparison if {comparison.baseline, comparison.teacher} <= {"", *values} else Comparison()
        beside = {run.name: run.published for run in runs if measure.published and run.published}
        rows = {row: protocol.published[row] for own in beside.values() for row in own}
        if len(keys) > _MOST_COLUMNS:
            tables.append(_tall(title, keys, values, known, beside, rows))
        else:
            tables += _wide(title, keys, values, known, beside, rows)
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


def _wide(
    title: str,
    keys: Sequence[Key],
    models: Mapping[str, Values],
    comparison: Comparison,
    beside: Mapping[str, tuple[str, ...]],
    published: Mapping[str, Values],
) -> list[Table]:
    """A row for each model and gain; published rows in a table of their own."""
    groups: list[tuple[str, int]] = []
    for name, _ in keys:
        if groups and groups[-1][0] == name:
            groups[-1] = (name, groups[-1][1] + 1)
        else:
            groups.append((name, 1))
    shown = tuple(groups) if any(setting for name, setting in keys if name) else ()
    columns = tuple(setting or name for name, setting in keys)

    def row(label: str, values: Values, style: str) -> Row:
        return Row(label, tuple(values.get(key) for key in keys), style)

    rows = [row(name, values, "total") for name, values in models.items()]
    for base, name in comparison.pairs(models):
        rows.append(row(f"gain of {name} over {base}", _difference(models[name], models[base]), "difference"))
    tables = [Table(title, columns, tuple(rows), shown)]
    compared = []
    for name, wanted in beside.items():
        compared.append(row(name, models[name], "total"))
        for key in wanted:
            compared.append(row(f"published {key}", published[key], "muted"))
            compared.append(row("difference", _difference(models[name], published[key]), "difference"))
    if compared:
        table = Table(f"Beside the published rows: {title}", columns, tuple(compared), shown)
        # of one model it holds all that the first table does
        tables = [table] if len(models) == 1 else [*tables, table]
    return tables


def _tall(
    title: str,
    keys: Sequence[Key],
    models: Mapping[str, Values],
    comparison: Comparison,
    beside: Mapping[str, tuple[str, ...]],
    published: Mapping[str, Values],
) -> Table:
    """A row for each class; a column for each model, gain, published row and difference to it."""
    columns: list[tuple[str, Values]] = list(models.items())
    for base, name in comparison.pairs(models):
        columns.append((f"gain of {name} over {base}", _difference(models[name], models[base])))
    for name, wanted in beside.items():
        for key in wanted:
            difference = _difference(models[name], published[key])
            columns.append((f"published {key}", published[key]))
            columns.append((f"{name} \N{MINUS SIGN} published {key}", difference))
    settings = list(dict.fromkeys(setting for name, setting in keys if name)) or [""]
    rows = []
    for label in dict.fromkeys(name or setting for name, setting in keys):
        whole = label not in {name for name, _ in keys}
        places = [("", label)] + [None] * (len(settings) - 1) if whole else [(label, s) for s in settings]
        values = [own.get(place) for _, own in columns for place in places]
        rows.append(Row(label, tuple(values), "total" if whole else ""))
    if settings == [""]:
        return Table(title, tuple(name for name, _ in columns), tuple(rows))
    names = tuple(setting for _ in columns for setting in settings)
    return Table(title, names, tuple(rows), tuple((name, len(settings)) for name, _ in columns))
