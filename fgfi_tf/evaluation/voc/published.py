"""Published average precisions of VOC, in percent, and the table of a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from fgfi_tf.data.readers.voc import CLASS_NAMES
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.protocol import MEAN, percent
from fgfi_tf.evaluation.voc.ap import METRICS, PRESENT, Evaluation

SOURCE = "Wang et al., CVPR 2019 (VOC 2007 test, trained on VOC 2007 trainval, 11 points)"


def _columns(text: str) -> dict[str, float]:
    return dict(zip(CLASS_NAMES, map(float, text.split()), strict=True))


# row -> class -> AP in percent, classes in alphabetical order as everywhere
_CLASSES: dict[str, dict[str, float]] = {
    "VGG11": _columns(
        "67.3 71.4 56.6 44.3 39.3 68.8 78.4 66.6 37.7 63.2 51.6 58.3 76.4 70.0 71.9 32.2 58.1 57.8 62.9 60.0"
    ),
    "VGG11-I": _columns(
        "72.5 73.8 62.8 53.1 49.2 80.5 82.7 76.8 44.8 73.5 64.3 72.6 81.1 75.3 76.3 40.2 66.3 61.8 73.4 70.6"
    ),
}
# The teacher's classes are not published. 70.4 is the paper's; the code's page gives 70.1.
_MEANS = {"VGG16": 70.4, "VGG11": 59.6, "VGG11-I": 67.6}
#: row -> (class, "") -> percent.
ROWS: dict[str, dict[tuple[str, str], float]] = {
    row: {(name, ""): value for name, value in _CLASSES.get(row, {}).items()} | {MEAN: mean}
    for row, mean in _MEANS.items()
}
#: The rows that have every class.
WHOLE_ROWS = tuple(_CLASSES)


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
        published: rows of ``ROWS`` to show beside them.
        metric: ``"11point"`` or ``"area"``.

    Raises:
        UserError: an unknown published row.
    """
    if isinstance(evaluations, Evaluation):
        evaluations = {"AP": evaluations}
    for row in published:
        if row not in ROWS:
            raise UserError(f"{row!r} is no published row: choose of {', '.join(ROWS)}")
    place = list(METRICS).index(metric)
    columns = {name: one.measures()[place].values for name, one in evaluations.items()}
    theirs = {
        f"{row} (published)": {key: value / 100 for key, value in ROWS[row].items()} for row in published
    }
    widths = [max(8, len(column) + 2) for column in (*columns, *theirs)]

    def line(name: str, cells: list[str]) -> str:
        return f"{name:<14}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    lines = [line("", [*columns, *theirs])]
    for key in dict.fromkeys(key for values in columns.values() for key in values):
        name = "of present" if key == PRESENT else key[0] or key[1]
        cells = [percent(values.get(key)) for values in columns.values()]
        beside = ["" if key == PRESENT else percent(values.get(key)) for values in theirs.values()]
        lines.append(line(name, cells + beside))
    return "\n".join(lines)
