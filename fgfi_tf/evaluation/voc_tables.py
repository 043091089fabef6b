"""The VOC table as text, beside published columns."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fgfi_tf.data.readers.voc import CLASS_NAMES
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.voc import Evaluation

PUBLISHED_SOURCE = "Wang et al., CVPR 2019 (VOC 2007 test, trained on VOC 2007 trainval, 11 points)"


def _columns(text: str) -> dict[str, float]:
    return dict(zip(CLASS_NAMES, map(float, text.split()), strict=True))


# row -> class -> AP in percent, classes in alphabetical order as everywhere
PUBLISHED: dict[str, dict[str, float]] = {
    "VGG11": _columns(
        "67.3 71.4 56.6 44.3 39.3 68.8 78.4 66.6 37.7 63.2 51.6 58.3 76.4 70.0 71.9 32.2 58.1 57.8 62.9 60.0"
    ),
    "VGG11-I": _columns(
        "72.5 73.8 62.8 53.1 49.2 80.5 82.7 76.8 44.8 73.5 64.3 72.6 81.1 75.3 76.3 40.2 66.3 61.8 73.4 70.6"
    ),
}
# The teacher's classes are not published. 70.4 is the paper's; the code's page gives 70.1.
PUBLISHED_MEAN: dict[str, float] = {"VGG16": 70.4, "VGG11": 59.6, "VGG11-I": 67.6}


def ap_table(
    evaluations: Mapping[str, Evaluation] | Evaluation,
    published: tuple[str, ...] = (),
    metric: str = "11point",
) -> str:
    """Per-class AP in percent, one column per evaluation, then one per published row.

    A class without positives shows ``-``. The last lines are the mean over all classes and, where some class
    has no positives, over the others.

    Args:
        evaluations: by name, or one.
        published: rows of ``PUBLISHED_MEAN`` to show beside them.
        metric: ``"11point"`` or ``"area"``.

    Raises:
        UserError: an unknown published row.
    """
    if isinstance(evaluations, Evaluation):
        evaluations = {"AP": evaluations}
    for row in published:
        if row not in PUBLISHED_MEAN:
            raise UserError(f"{row!r} is no published row: choose of {', '.join(PUBLISHED_MEAN)}")
    names = list(next(iter(evaluations.values())).results)
    columns = [*evaluations, *(f"{row} (published)" for row in published)]
    widths = [max(8, len(column) + 2) for column in columns]

    def line(name: str, cells: list[str]) -> str:
        return f"{name:<14}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    lines = [line("", columns)]
    for name in names:
        cells = [_cell(e.results[name].ap(metric), e.results[name].positives) for e in evaluations.values()]
        lines.append(line(name, cells + [_published(row, name) for row in published]))
    means = [_cell(e.mean_ap(metric)) for e in evaluations.values()]
    lines.append(line("mean", means + [f"{PUBLISHED_MEAN[row]:.1f}" for row in published]))
    if any(r.positives == 0 for e in evaluations.values() for r in e.results.values()):
        present = [_cell(e.mean_ap(metric, present_only=True)) for e in evaluations.values()]
        lines.append(line("of present", present + [""] * len(published)))
    return "\n".join(lines)


def _cell(value: float, positives: int = 1) -> str:
    return "-" if not positives or math.isnan(value) else f"{100 * value:.1f}"


def _published(row: str, class_name: str) -> str:
    return f"{PUBLISHED[row][class_name]:.1f}" if row in PUBLISHED and class_name in PUBLISHED[row] else "-"
