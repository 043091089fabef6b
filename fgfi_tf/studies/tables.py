"""What a study found: tables, plots and text, as a report and as files beside the plan."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.evaluation.comparison import is_gain, points, rounded_percent
from fgfi_tf.evaluation.report import plots
from fgfi_tf.evaluation.report import write as report
from fgfi_tf.evaluation.report.data import (
    NEUTRAL,
    SERIES_COLORS,
    Curves,
    Figure,
    Line,
    Points,
    ReportData,
    Row,
    Section,
    Table,
    Trend,
    Trends,
)
from fgfi_tf.studies.plan import Arm, Axis, Plan
from fgfi_tf.studies.results import RunResult, read_again
from fgfi_tf.studies.statistics import CONFIDENCE, FEW, Pairs, Summary, compare, summarise

Results = Mapping[tuple[str, int], RunResult]


@dataclasses.dataclass(frozen=True)
class Compared:
    """An arm's pairs with another one.

    ``gap_share``: the share of the other's gap to the teacher that the pairs close, None without one. The
    ``teacher`` is the arm's own where it has one among the arms, the plan's else.
    """

    other: Arm
    pairs: Pairs
    gap_share: float | None
    teacher: Arm | None


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """An arm: seed -> fraction of the metric that counts, their summary, and what it is compared with."""

    arm: Arm
    values: dict[int, float]
    summary: Summary
    compared: tuple[Compared, ...]


def analyse(plan: Plan, results: Results, metric: str) -> list[ArmResult]:
    """Each arm that has results, in the plan's order; it is compared with arms that have a seed of its."""
    values = {
        arm.name: {seed: one.metrics[metric] for seed, one in sorted(_of(arm, results).items())}
        for arm in plan.arms
    }

    def compared(arm: Arm, other: str) -> Compared:
        pairs, share = compare(values[arm.name], values[other]), None
        teacher = (arm.teacher or plan.teacher) if plan.teacher else ""
        reached = list(values[teacher].values()) if teacher else []
        ceiling = summarise(reached).mean if reached else math.nan
        if not math.isnan(ceiling):
            gap = ceiling - float(np.mean([values[other][seed] for seed in pairs.seeds]))
            share = pairs.difference.mean / gap if gap > 0 else None
        return Compared(plan.arm(other), pairs, share, plan.arm(teacher) if teacher else None)

    found = []
    for arm in plan.arms:
        if own := values[arm.name]:
            others = tuple(compared(arm, other) for other in arm.against if own.keys() & values[other].keys())
            found.append(ArmResult(arm, own, summarise(list(own.values())), others))
    return found


def _of(arm: Arm, results: Results) -> dict[int, RunResult]:
    return {seed: one for (name, seed), one in results.items() if name == arm.name}


def metric_of(plan: Plan, results: Results) -> str:
    """The metric that counts: the plan's, or the first that the runs have."""
    return plan.metric or next(iter(next(iter(results.values())).metrics))


def build(plan: Plan, results: Results) -> ReportData:
    """The report of a study with at least one result."""
    metric = metric_of(plan, results)
    found = analyse(plan, results, metric)
    sections = [
        Section(metric, (_table(plan, found), _main_figure(plan, found, metric)), _sentences(plan, found)),
        Section("Every metric", (_metrics_table(plan, results),), "Means over the seeds, percent."),
    ]
    if curves := _curves_figure(plan, results, metric):
        sections.append(Section("Against steps", (curves,)))
    one = next(iter(results.values()))
    return ReportData(
        title=plan.title,
        subtitle=plan.text
        or "Runs paired by seed: the same initial weights, order of data and augmentation.",
        facts=(
            ("Runs", f"{len(results)} of {sum(len(arm.seeds) for arm in plan.arms)}"),
            ("Training time", f"{sum(r.seconds for r in results.values()) / 3600:.1f} h"),
            ("Machine", "; ".join(sorted({_machine(result.machine) for result in results.values()}))),
            ("TensorFlow", one.versions.get("tensorflow", "")),
            ("Commits", ", ".join(sorted({result.commit for result in results.values()} - {""}))),
            *_again(plan, metric),
        ),
        sections=tuple(sections),
        numbers={"metric": metric, "arms": {one.arm.name: _numbers(one) for one in found}},
    )


def _again(plan: Plan, metric: str) -> list[tuple[str, str]]:
    """A line on runs that were trained again, where there are any."""
    runs = [
        f"{plan.arm(one.arm).title}, seed {one.seed}: {100 * one.metrics[metric]:.1f}"
        for one in read_again(plan)
    ]
    what = "Trained again, for runs that start from it where its checkpoint was missing"
    return [(what, "; ".join(runs))] if runs else []


def _machine(machine: Mapping[str, Any]) -> str:
    parts = [machine.get("processor", ""), f"{machine.get('cores', '')} cores", *machine.get("gpus", ())]
    return ", ".join(parts + ([f"{jobs} runs at once"] if (jobs := machine.get("at_once")) else []))


def write(plan: Plan, results: Results, report_dir: str | Path = "") -> list[Path]:
    """Writes ``NAME.md`` and ``NAME.png`` beside the plan, and the whole report where a folder is named."""
    data = build(plan, results)
    figure = next(part for part in data.sections[0].parts if isinstance(part, Figure))
    picture, text = plan.path.with_suffix(".png"), plan.path.with_suffix(".md")
    picture.write_bytes(plots.render(figure))
    # The other figures are in the report alone.
    beside = dataclasses.replace(data, sections=data.sections[:2])
    lines = report.to_markdown(beside).replace(f"figures/{figure.name}.png", picture.name)
    text.write_text(
        f"<!-- written by scripts/study.py from {plan.path.with_suffix('.jsonl').name} -->\n{lines}\n"
    )
    written = [text, picture]
    if report_dir:
        written.append(report.write(data, report_dir))
    return written


def terminal_table(plan: Plan, results: Results) -> str:
    """The main table as text, and a sentence for each arm."""
    found = analyse(plan, results, metric_of(plan, results))
    table = _table(plan, found)
    rows = [["", *table.columns], *([row.label, *map(_text, row.values)] for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for label, *cells in rows
    ]
    return "\n".join([*lines, "", _sentences(plan, found)]).rstrip()


def _table(plan: Plan, found: list[ArmResult]) -> Table:
    names = ("seeds", "mean", "deviation", "95 % of the mean", "difference", "95 % of it", "p", "of the gap")
    rows = []
    for one in found:
        deviation = one.summary.deviation
        own = (
            len(one.values),
            100 * one.summary.mean,
            None if math.isnan(deviation) else 100 * deviation,
            _interval(one.summary),
        )
        others = {part.other.name: part for part in one.compared}
        with_baseline = others.pop(plan.baseline, None)
        values = (*own, *(_difference(with_baseline) if with_baseline else [None] * 4))
        rows.append(Row(one.arm.title, values, "total" if one.arm.name == plan.baseline else ""))
        for part in others.values():
            label = f"{one.arm.title}, against {part.other.title}"
            rows.append(Row(label, (*[None] * 4, *_difference(part))))
    note = f"Percent. Intervals: BCa bootstrap, {CONFIDENCE:.0%}."
    if any(one.summary.interval and len(one.values) < FEW for one in found):
        note += f" Of fewer than {FEW} seeds they are about the lowest to the highest value, and too narrow."
    if plan.baseline:
        note += (
            f" Differences are paired by seed, against {plan.arm(plan.baseline).title}. p: two-sided "
            "sign-flip test, which with n pairs cannot fall below 2 / 2^n."
        )
    return Table("", names, tuple(rows), note=note)


def _difference(part: Compared) -> tuple[str | None, ...]:
    """Cells: the difference, its interval, p, the share of the gap."""
    pairs, share = part.pairs, part.gap_share
    return (
        f"{rounded_percent(pairs.difference.mean):+.1f}",
        _interval(pairs.difference),
        None if pairs.p_value is None else f"{pairs.p_value:.3f}" if pairs.p_value >= 0.001 else "< 0.001",
        None if share is None else f"{100 * share:.0f} %",
    )


def _sentences(plan: Plan, found: list[ArmResult]) -> str:
    lines = []
    for arm, part in ((one.arm, part) for one in found for part in one.compared):
        gain = part.pairs.difference.mean
        higher = sum(difference > 0 for difference in part.pairs.difference.values)
        line = (
            f"{arm.title} {points(gain, part.other.title)}, above it in "
            f"{higher} of {len(part.pairs.seeds)} seeds"
        )
        if part.gap_share is not None and is_gain(gain):
            line += f": {100 * part.gap_share:.0f} % of the gap to {part.teacher.title}"
        lines.append(line + ".")
    return " ".join(lines)


def _main_figure(plan: Plan, found: list[ArmResult], metric: str) -> Figure:
    if plan.axis is not None and any(one.arm.at is not None for one in found):
        return _trends_figure(plan, plan.axis, found, metric)
    panel = Points(
        "",
        tuple(one.arm.title for one in found),
        tuple(one.values for one in found),
        tuple(SERIES_COLORS[i % len(SERIES_COLORS)] for i in range(len(found))),
        tuple(one.summary.interval for one in found),
        metric,
    )
    caption = "A point for each seed, lines join the runs of a seed; bar: the mean and its 95 % interval."
    return Figure("arms", "", (panel,), caption, columns=1)


def _trends_figure(plan: Plan, axis: Axis, found: list[ArmResult], metric: str) -> Figure:
    """Arms with a place on the x axis in lines, the others as levels; beside them what was published."""
    lines: dict[str, list[ArmResult]] = {}
    for one in found:
        if one.arm.at is not None:
            lines.setdefault(one.arm.line, []).append(one)
    colors = itertools.cycle(SERIES_COLORS)
    trends = []
    for name, arms in lines.items():
        arms = sorted(arms, key=lambda one: one.arm.at)
        places = tuple(one.arm.at for one in arms)
        values, intervals = tuple(one.values for one in arms), tuple(one.summary.interval for one in arms)
        trends.append(Trend(name or "mean", places, values, intervals, next(colors)))
    levels = tuple(
        (f"{one.arm.title} {100 * one.summary.mean:.1f}", one.summary.mean, next(colors))
        for one in found
        if one.arm.at is None
    )
    panels = [Trends("", tuple(trends), levels, axis.label, metric, axis.logarithmic)]
    caption = (
        "A point for each seed; thin bar: 95 % interval of the mean. Dashed: what has no place on the axis."
    )
    if axis.published:
        x, y = zip(*axis.published, strict=True)
        published = Trend("published", x, tuple({0: value} for value in y), (None,) * len(x), NEUTRAL)
        panels.append(Trends(axis.published_title, (published,), (), axis.label, "", axis.logarithmic))
    return Figure("arms", "", tuple(panels), caption, columns=len(panels))


def _curves_figure(plan: Plan, results: Results, metric: str) -> Figure | None:
    lines = []
    for number, arm in enumerate(plan.arms):
        curves = [one.curve for one in _of(arm, results).values()]
        steps = sorted(set.intersection(*(set(curve) for curve in curves)), key=int) if curves else []
        if len(steps) < 2:
            continue
        mean = [float(np.mean([curve[step][metric] for curve in curves])) for step in steps]
        x, color = np.array([int(step) for step in steps]), SERIES_COLORS[number % len(SERIES_COLORS)]
        lines.append(Line(arm.title, x, np.array(mean), color, marker="o"))
    if not lines:
        return None
    panel = Curves("", tuple(lines), "steps", metric, x_from_zero_to_one=False)
    return Figure("steps", "", (panel,), "Means over the seeds.", columns=1)


def _metrics_table(plan: Plan, results: Results) -> Table:
    metrics = list(dict.fromkeys(name for one in results.values() for name in one.metrics))
    rows = []
    for arm in plan.arms:
        if own := _of(arm, results).values():
            columns = ([one.metrics[name] for one in own if name in one.metrics] for name in metrics)
            rows.append(Row(arm.title, tuple(100 * float(np.mean(c)) if c else None for c in columns)))
    return Table("", tuple(metrics), tuple(rows))


def _numbers(one: ArmResult) -> dict:
    return {
        "values": {str(seed): value for seed, value in one.values.items()},
        "mean": one.summary.mean,
        "deviation": None if math.isnan(one.summary.deviation) else one.summary.deviation,
        "interval": one.summary.interval,
        "against": {
            part.other.name: {
                "difference": part.pairs.difference.mean,
                "interval": part.pairs.difference.interval,
                "p_value": part.pairs.p_value,
                "gap_share": part.gap_share,
            }
            for part in one.compared
        },
    }


def _interval(summary: Summary) -> str | None:
    if summary.interval is None:
        return None
    low, high = map(rounded_percent, summary.interval)
    return f"{low:.1f} to {high:.1f}"


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
