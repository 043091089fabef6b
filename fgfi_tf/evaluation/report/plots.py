"""Figures of a report as PNG, drawn with matplotlib off screen."""

from __future__ import annotations

import io
import math
import textwrap
import warnings

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fgfi_tf.evaluation.report.data import Bars, Curves, Figure, Points, Trends

_INK, _SOFT, _GRID = "#24292f", "#6e7681", "#e4e7eb"
_PANEL = (3.7, 2.7)  # inches
_COLUMN, _LETTERS = 1.05, 15  # inches of a column of points, and letters of its name that fit there
_LEGEND = 0.5  # inches below the panels
_DPI = 200  # sharp at twice the width it is shown with


def render(figure: Figure) -> bytes:
    """The PNG file of a figure. The legend is shared by its panels; a ``$`` in its texts is a dollar."""
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        # a letter that the font lacks is a box in the picture, and right in the tables
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        return _render(figure)


def _render(figure: Figure) -> bytes:
    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    heights = [0.9 + 0.32 * len(p.categories) if isinstance(p, Bars) else _PANEL[1] for p in figure.panels]
    height = sum(max(heights[row * columns : (row + 1) * columns]) for row in range(rows)) + _LEGEND
    named = max((len(p.categories) for p in figure.panels if isinstance(p, Points)), default=0)
    width = max(_PANEL[0] * max(columns, 2), _COLUMN * named * columns)
    canvas = Canvas(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    canvas.get_layout_engine().set(
        rect=(0, _LEGEND / height, 1, 1 - _LEGEND / height), wspace=0.06, hspace=0.06
    )
    grid = canvas.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, panel in zip(grid, figure.panels, strict=False):
        _DRAW[type(panel)](axes, panel)
    for axes in grid[len(figure.panels) :]:
        axes.remove()
    _legend(canvas, grid[: len(figure.panels)])
    out = io.BytesIO()
    canvas.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
    return out.getvalue()


def _style(axes: Axes, panel: Curves | Bars | Points | Trends, grid: str = "both") -> None:
    axes.grid(axis=grid, color=_GRID, linewidth=0.7)
    axes.set_title(panel.title, fontsize=10.5, color=_INK, loc="left", fontweight="bold", pad=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(colors=_SOFT, labelsize=8, length=0)
    axes.xaxis.label.set(color=_SOFT, fontsize=8.5)
    axes.yaxis.label.set(color=_SOFT, fontsize=8.5)
    axes.set_axisbelow(True)


def _draw_curves(axes: Axes, panel: Curves) -> None:
    for line in panel.lines:
        look = {"color": line.color, "marker": line.marker or None, "markersize": 4, "linewidth": 1.6}
        axes.plot(line.x, line.y, line.style, label=_label(line.name), clip_on=False, **look)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if panel.ticks:
        axes.set_xlim(-0.3, len(panel.ticks) - 0.7)
        axes.set_xticks(np.arange(len(panel.ticks)), panel.ticks)
    elif panel.x_from_zero_to_one:
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    _style(axes, panel)


def _draw_bars(axes: Axes, panel: Bars) -> None:
    place = np.arange(len(panel.categories))
    left = np.zeros(len(place))
    for name, color, values in panel.series:
        axes.barh(place, values, left=left, height=0.66, color=color, label=_label(name), linewidth=0)
        for at, start, value in zip(place, left, values, strict=True):
            if value >= 0.07:  # room for the number
                place_of = {"ha": "center", "va": "center"}
                axes.text(
                    start + value / 2, at, f"{100 * value:.0f}", color="white", fontsize=7.5, **place_of
                )
        left += values
    axes.set_yticks(place, panel.categories)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(panel.x_label)
    _style(axes, panel, "x")


def _draw_points(axes: Axes, panel: Points) -> None:
    for key in sorted({key for values in panel.values for key in values}):
        places = [place for place, values in enumerate(panel.values) if key in values and len(values) > 1]
        heights = [panel.values[place][key] for place in places]
        axes.plot(places, heights, color=_GRID, linewidth=1, zorder=1)
    for place, (values, color, interval) in enumerate(
        zip(panel.values, panel.colors, panel.intervals, strict=True)
    ):
        axes.scatter([place] * len(values), list(values.values()), s=18, color=color, zorder=3, linewidth=0)
        mean = float(np.mean(list(values.values())))
        axes.plot([place - 0.22, place + 0.22], [mean, mean], color=color, linewidth=2.2, zorder=2)
        if interval:
            axes.plot([place + 0.3] * 2, interval, color=color, linewidth=1.6, zorder=2)
        axes.text(place + 0.34, mean, f"{100 * mean:.1f}", va="center", fontsize=8.5, color=_INK)
    axes.set_xlim(-0.5, len(panel.categories) - 0.2)
    room = axes.figure.get_figwidth() / axes.get_gridspec().ncols / len(panel.categories)
    letters = int(_LETTERS * room / _COLUMN)
    names = [textwrap.fill(name, letters, break_long_words=False) for name in panel.categories]
    axes.set_xticks(np.arange(len(names)), names)
    _fractions_from_zero(axes, panel.y_label)
    _style(axes, panel, "y")


def _draw_trends(axes: Axes, panel: Trends) -> None:
    if panel.logarithmic:
        axes.set_xscale("log")
    for trend in panel.trends:
        means = [float(np.mean(list(values.values()))) for values in trend.values]
        look = {
            "color": trend.color,
            "label": _label(trend.name),
            "marker": "_",
            "markersize": 11,
            "linewidth": 1.6,
        }
        axes.plot(trend.x, means, markeredgewidth=2.2, zorder=2, **look)
        for x, mean, values, interval in zip(trend.x, means, trend.values, trend.intervals, strict=True):
            if len(values) > 1:
                axes.scatter([x] * len(values), list(values.values()), s=12, color=trend.color, linewidth=0)
            if interval:
                axes.plot([x] * 2, interval, color=trend.color, linewidth=1.1, zorder=2)
            above = {"xytext": (0, 5), "textcoords": "offset points", "fontsize": 8, "color": trend.color}
            top = max([*values.values(), *(interval or ())])
            text = axes.annotate(f"{100 * mean:.1f}", (x, top), ha="center", zorder=4, **above)
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    for name, level, color in panel.levels:
        axes.axhline(level, color=color, linewidth=1.2, linestyle="--", zorder=1, label=_label(name))
    places = sorted({x for trend in panel.trends for x in trend.x})
    axes.set_xticks(places, [f"{x:,g}" for x in places])
    axes.minorticks_off()
    axes.margins(x=0.1, y=0.12)
    axes.set_xlabel(panel.x_label)
    _fractions_from_zero(axes, panel.y_label)
    _style(axes, panel, "y")


def _fractions_from_zero(axes: Axes, label: str) -> None:
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # steps of 2.5 would be told as 2 and 3
    few = axes.get_ylim()[1] < 0.05
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None if few else 0))
    axes.set_ylabel(label)


_DRAW = {Curves: _draw_curves, Bars: _draw_bars, Points: _draw_points, Trends: _draw_trends}


def _label(name: str) -> str:
    """A name as the legend's: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def _legend(canvas: Canvas, grid: np.ndarray) -> None:
    entries = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) > 1:
        look = {"frameon": False, "fontsize": 8.5, "labelcolor": _INK}
        columns = min(len(entries), 6)
        canvas.legend(entries.values(), entries.keys(), loc="lower center", ncols=columns, **look)
