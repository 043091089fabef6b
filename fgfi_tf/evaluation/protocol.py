"""The protocol contract (4): each protocol defines its matching and AP over one shared table of boxes.

A protocol has to define ``Protocol.evaluate`` alone; the base class provides the printed table, the metrics,
the analysis of errors, the report and the result files, each of which it can refine. Imports no TensorFlow.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import results as result_files
from fgfi_tf.evaluation.boxes import PIXELS, Boxes, Corners, Frame
from fgfi_tf.evaluation.comparison import text_table

#: Where a measure's mean stands.
MEAN = ("", "mean")


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measure of a result as tables show it; ``published``: the published rows are of it.

    ``values`` are (class, setting) to a fraction, None where there is nothing to say; either may be "".
    """

    title: str
    values: Mapping[tuple[str, str], float | None]
    published: bool = False


class Result:
    """What ``Protocol.evaluate`` gives; a subclass has ``metrics`` and refines the rest.

    Attributes:
        metrics: named fractions for TensorBoard and the log of a run; the first one ranks checkpoints.
    """

    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values in full precision for ``json.dump``."""
        return {"metrics": dict(self.metrics)}

    def measures(self) -> tuple[Measure, ...]:
        """What tables show, the most important first."""
        return (Measure("Metrics", {("", name): value for name, value in self.metrics.items()}),)

    def curves(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        """(class, setting) to recall and the best precision at it or above; none without such curves."""
        return {}


@dataclasses.dataclass(frozen=True)
class Metrics(Result):
    """A result of nothing but named fractions."""

    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What counts of one class, for the analysis of errors. Masks over the rows of the two tables.

    Attributes:
        class_name: the class.
        name: of several settings of a class (difficulties), which; else "".
        own: bool [G], labelled objects of the class, counted or not.
        counted: bool [G], those that have to be found.
        looked_at: bool [D], the detections of the class that count.
        overlap: the IoU of a match.
        neighbours: bool [G], objects of other classes that may take a detection, which then does not count.
        regions: bool [G], areas in which a detection does not count.
    """

    class_name: str
    name: str
    own: np.ndarray
    counted: np.ndarray
    looked_at: np.ndarray
    overlap: float
    neighbours: np.ndarray
    regions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a protocol takes a detection and an object for a pair.

    Attributes:
        at_least: an IoU equal to the limit suffices.
        best_only: a detection looks at the object of its class that it overlaps most, taken or not.
        side: 1 where the width of a box is xmax - xmin + 1 in the protocol's corners.
    """

    at_least: bool = True
    best_only: bool = False
    side: float = 1.0

    def suffices(self, iou: np.ndarray, limit: float) -> np.ndarray:
        """bool: whether these overlaps make a pair."""
        return iou >= limit if self.at_least else iou > limit


class Protocol(abc.ABC):
    """Base class. A new protocol is one subclass, and ``fgfi_tf.evaluation.registry.register(name, it)``.

    Args:
        variant: one of ``variants``; empty: the first.
        min_overlap: class -> IoU of a match where the user named one.
        class_names: of files whose classes are not the benchmark's own; empty: those of the benchmark.

    Attributes:
        title: heads the report.
        files: what ``--labels`` and ``--detections`` are, for ``--help``; empty: CSV files of the table.
        variants: name -> what it does, for ``--help``.
        published: row -> (class, setting) -> percent, of the measure that is ``published``.
        published_source: where the rows are from.
        corners: how the protocol counts the corners of boxes.
        results: the format of the result files, a name of ``fgfi_tf.evaluation.results``.
        json_mark: what tells the JSON file of its results from other files.
        fixed_overlap: whether the rules fix the IoU of a match, so that ``min_overlap`` is none of theirs.
        main_setting: the setting that stands for all where several models are compared.
        usual_image_size: (height, width) that the report assumes where it is not known.
    """

    title: ClassVar[str] = "Detection"
    files: ClassVar[str] = ""
    variants: ClassVar[Mapping[str, str]] = {"official": "the protocol's own rule"}
    published: ClassVar[Mapping[str, Mapping[tuple[str, str], float]]] = {}
    published_source: ClassVar[str] = ""
    corners: ClassVar[Corners] = PIXELS
    results: ClassVar[str] = "csv"
    json_mark: ClassVar[str] = '"metrics":'
    fixed_overlap: ClassVar[bool] = False
    main_setting: ClassVar[str] = ""
    usual_image_size: ClassVar[tuple[int, int] | None] = None

    def __init__(
        self,
        variant: str = "",
        min_overlap: Mapping[str, float] | None = None,
        class_names: Sequence[str] = (),
    ):
        self.variant = variant or next(iter(self.variants))
        self.class_names = tuple(class_names)
        self.min_overlap = dict(min_overlap or {})
        if self.variant not in self.variants:
            raise UserError(f"--protocol={variant} is not one of {', '.join(self.variants)}")

    @abc.abstractmethod
    def evaluate(self, detections: Boxes, ground_truth: Boxes) -> Result:
        """The result. Both tables are in the protocol's ``corners``; detections may be of fewer classes.

        They may be none: before a run's first step that is asked for, for what is wrong with the rules.
        """

    def check_ready(self) -> None:  # noqa: B027  most protocols need nothing
        """Before any work: raises UserError where :meth:`evaluate` lacks what it needs, such as a package."""

    # --- tables in ------------------------------------------------------------------------------

    def ground_truth(self, frames: Iterable[Frame], class_names: Sequence[str]) -> Boxes:
        """From ``PreparedDataset.labels()``."""
        return Boxes.of_ground_truth(frames, class_names).to(self.corners)

    def detections(self, frames: Mapping[str, Frame], class_names: Sequence[str]) -> Boxes:
        """From image id -> ``boxes`` [n,4] (0-based), ``scores`` [n], ``classes`` [n]."""
        return Boxes.of_detections(frames, class_names).to(self.corners)

    def read_ground_truth(self, labels: str, split: str = "") -> Boxes:
        """From label files; ``split`` is a list of images, or empty."""
        return result_files.read_csv(labels, split).to(self.corners)

    def read_detections(
        self, path: str, ground_truth: Boxes, split: str = "", allow_missing: bool = False
    ) -> Boxes:
        """From result files, for the images of ``ground_truth``."""
        found = result_files.read_csv(path, scored=True).select(ground_truth.image_ids, allow_missing=True)
        return found.to(self.corners)

    def evaluated_classes(self, detections: Boxes) -> tuple[str, ...]:
        """Of the classes of detections those that are evaluated."""
        return detections.class_names

    # --- what is shown --------------------------------------------------------------------------

    def heading(self, result: Result) -> str:
        """The first line of :meth:`table`."""
        return f"{self.title}, {result.measures()[0].title}, percent"

    def table(self, results: Mapping[str, Result], published: str = "", split: str = "") -> str:
        """The first measure of results by name as text, a column for each.

        Then one for each published row that :meth:`rows_beside` gives. Raises UserError for an unknown one.
        """
        rows = self.rows_beside(published, split)
        self.check_published(*rows)
        columns = {name or "AP": one.measures()[0].values for name, one in results.items()}
        keys = list(dict.fromkeys(key for values in columns.values() for key in values))
        for row in rows:
            columns[f"{row} (published)"] = {key: value / 100 for key, value in self.published[row].items()}
        table = [["", *columns]]
        for key in keys:
            cells = [percent(values.get(key)) for values in columns.values()]
            table.append([" ".join(filter(None, key)), *cells])
        return f"{self.heading(next(iter(results.values())))}\n{text_table(table, first=13)}"

    def facts(self, result: Result, ground_truth: Boxes) -> tuple[tuple[str, str], ...]:
        """(name, value) that the report says first, beside the numbers of images and boxes."""
        return (("Protocol", self.variant),) if len(self.variants) > 1 else ()

    def note(self, result: Result) -> str:
        """A sentence on the AP tables of the report, or ""."""
        return ""

    def rule(self) -> Rule:
        """For the analysis of errors: when a detection and an object are a pair."""
        return Rule()

    def settings(self, detections: Boxes, ground_truth: Boxes) -> list[Setting]:
        """For the analysis of errors: what counts, for each class and setting.

        By default the objects of the detections' classes that are not marked ``difficult``, ``crowd`` or
        ``ignore``; with an IoU of 0.5 or what the user named.
        """
        ignored = ignored_rows(ground_truth)
        crowd, nothing = ground_truth.flag("crowd"), np.zeros(len(ground_truth), bool)
        found = []
        for name in detections.class_names:
            own, looked_at = ground_truth.of_class(name), detections.of_class(name)
            overlap = self.min_overlap.get(name, 0.5)
            found.append(Setting(name, "", own, own & ~ignored, looked_at, overlap, nothing, own & crowd))
        return found

    def result_files(self, detections: Boxes, split: str = "") -> dict[str, str]:
        """Name -> text of the result files; ``split`` is the name of the split, or empty."""
        return result_files.FORMATS[self.results].write(detections, split)

    # --- published rows -------------------------------------------------------------------------

    def rows_beside(self, row: str, split: str) -> tuple[str, ...]:
        """The published rows to show beside a result: the one named, or those that belong to the split."""
        return (row,) if row else ()

    def check_published(self, *rows: str) -> None:
        """Raises UserError for a row that is not published."""
        for row in rows:
            if row not in ("", *self.published):
                known = ", ".join(self.published) or "none: the protocol has no published rows"
                raise UserError(f"--published={row} is not one of {known}")


def ignored_rows(ground_truth: Boxes) -> np.ndarray:
    """bool [G]: objects that need not be found: difficult ones and crowds, or those that training ignores."""
    if {"difficult", "crowd"} & set(ground_truth.columns):
        return ground_truth.flag("difficult") | ground_truth.flag("crowd")
    return ground_truth.flag("ignore")


def percent(value: float | None) -> str:
    """A fraction as percent for a terminal, "-" where there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.1f}"
