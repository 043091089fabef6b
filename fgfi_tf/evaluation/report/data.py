"""What a report says, apart from how it looks: sections of tables, figures and pictures.

A protocol (KITTI, VOC ...) fills these; ``fgfi_tf.evaluation.report`` writes them as HTML,
Markdown, JSON and PNG. Nothing here knows a data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Value = float | int | str | None

# One colour per role, used in every plot and table: distinct for colour-blind readers as well.
SERIES_COLORS = ("#3465a4", "#d97a1f", "#2f8f6b", "#a8447c", "#6b6fc4", "#8a7a2e", "#4d9db8", "#b0503c")
GOOD, BAD, NEUTRAL = "#2f8f6b", "#b4432f", "#8a8f98"


@dataclasses.dataclass(frozen=True)
class Row:
    """A table row. ``style``: "" plain, "muted" for context, "difference" (signed, coloured), "total"."""

    label: str
    values: tuple[Value, ...]
    style: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Numbers in columns; ``groups`` is a header above the columns: (text, number of columns)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, int], ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve through (x, y); ``x`` are numbers, or places 0, 1 ... of the panel's ``ticks``."""

    name: str
    x: np.ndarray
    y: np.ndarray
    color: str
    style: str = "-"
    marker: str = ""


@dataclasses.dataclass(frozen=True)
class Curves:
    """A panel of curves with y from 0 to 1.

    ``ticks`` names the places of a categorical x axis; a numerical one goes from 0 to 1, or as far as the
    lines do.
    """

    title: str
    lines: tuple[Line, ...]
    x_label: str
    y_label: str
    ticks: tuple[str, ...] = ()
    x_from_zero_to_one: bool = True


@dataclasses.dataclass(frozen=True)
class Points:
    """A panel of single values in columns (``categories``), those of the same key joined by lines.

    A column of one value is of no key's pair (a teacher of all), and no line leads to it.
    Of each column: ``values``, key (a seed) -> fraction, its colour, and (low, high) around the mean.
    """

    title: str
    categories: tuple[str, ...]
    values: tuple[Mapping[int, float], ...]
    colors: tuple[str, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    y_label: str


@dataclasses.dataclass(frozen=True)
class Trend:
    """Fractions along a number: of each place in ``x`` its ``values``, key (a seed) -> fraction.

    ``intervals``: of each place (low, high) around the mean, None where there is none.
    """

    name: str
    x: tuple[float, ...]
    values: tuple[Mapping[int, float], ...]
    intervals: tuple[tuple[float, float] | None, ...]
    color: str


@dataclasses.dataclass(frozen=True)
class Trends:
    """A panel of means against a number, joined, with the single values beside them.

    ``levels``: (name, fraction, colour) of level lines, for what has no place on the x axis; ``logarithmic``:
    whether that axis is.
    """

    title: str
    trends: tuple[Trend, ...]
    levels: tuple[tuple[str, float, str], ...]
    x_label: str
    y_label: str
    logarithmic: bool = False


@dataclasses.dataclass(frozen=True)
class Bars:
    """A panel of stacked horizontal bars: ``series`` holds (name, colour, one number per category)."""

    title: str
    categories: tuple[str, ...]
    series: tuple[tuple[str, str, tuple[float, ...]], ...]
    x_label: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """Panels side by side, ``columns`` in a row; ``name`` is its file name without suffix."""

    name: str
    title: str
    panels: tuple[Curves | Bars | Points | Trends, ...]
    caption: str = ""
    columns: int = 3


@dataclasses.dataclass(frozen=True)
class Picture:
    """RGB uint8 [H, W, 3] with a caption; ``name`` is its file name without suffix.

    ``few_colors``: written as a PNG of 256 colours and not as a JPEG, for drawings with thin lines.
    """

    name: str
    caption: str
    image: np.ndarray
    few_colors: bool = False

    @property
    def path(self) -> str:
        """Its path in the report's folder."""
        return f"pictures/{self.name}.{'png' if self.few_colors else 'jpg'}"


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures in a grid of ``columns``."""

    title: str
    pictures: tuple[Picture, ...]
    note: str = ""
    columns: int = 1


@dataclasses.dataclass(frozen=True)
class Section:
    """A titled part of the report."""

    title: str
    parts: tuple[Table | Figure | Gallery, ...]
    text: str = ""


@dataclasses.dataclass(frozen=True)
class ReportData:
    """A whole report: ``facts`` are shown at the top, ``numbers`` (all that was measured) in the JSON."""

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    numbers: dict[str, Any]


def format_value(value: Value, signed: bool = False) -> str:
    """A table cell as text: whole numbers as they are, others with one decimal, None as a dash."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not signed:
        return f"{value:d}"
    return format(value, f"{'+' if signed else ''}.1f").replace("-", "\N{MINUS SIGN}")
