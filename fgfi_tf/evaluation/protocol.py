"""What every evaluation protocol gives to the scripts. Imports no TensorFlow.

A protocol's own types of truths, detections and results are its own business: they go from one of its
methods to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.comparison import ALONE, Comparison
from fgfi_tf.evaluation.report_data import ReportData

Frame = Mapping[str, np.ndarray]
VARIANTS = ("official", "reference")


class Protocol:
    """Base class. A new protocol is one subclass and one entry in ``fgfi_tf.evaluation.registry``.

    Args:
        variant: ``official``, the benchmark's own rule; ``reference``, that of the 2019 code.

    Attributes:
        published_rows: rows of the published table that can be shown beside a result.
    """

    published_rows: tuple[str, ...] = ()

    def __init__(self, variant: str = "official"):
        self.variant = variant

    def truths(self, frames: Iterable[Mapping[str, Any]], class_names: Sequence[str]) -> Any:
        """From ``PreparedDataset.labels()``."""
        raise NotImplementedError("a subclass defines truths")

    def detections(self, frames: Mapping[str, Frame], class_names: Sequence[str]) -> Any:
        """From image id -> ``boxes`` [n,4] (0-based), ``scores`` [n], ``classes`` [n]."""
        raise NotImplementedError("a subclass defines detections")

    def evaluate(self, detections: Any, truths: Any) -> Any:
        """The result, which has ``to_json()``."""
        raise NotImplementedError("a subclass defines evaluate")

    def table(self, results: Mapping[str, Any], published: str = "", split: str = "") -> str:
        """Results by name as text, beside a published row where one is named, or belongs to the split."""
        raise NotImplementedError("a subclass defines table")

    def figures(self, result: Any) -> dict[str, float]:
        """Named fractions for TensorBoard and the log of a run; the first one ranks checkpoints."""
        raise NotImplementedError("a subclass defines figures")

    def read_truths(self, labels: str, split: str) -> Any:
        """From a folder of label files; ``split`` is a list of images, or empty."""
        raise NotImplementedError("a subclass defines read_truths")

    def read_detections(self, folder: str, truths: Any, split: str, allow_missing: bool) -> Any:
        """From a folder of result files, for the images of ``truths``."""
        raise NotImplementedError("a subclass defines read_detections")

    def result_files(self, detections: Any, split: str) -> dict[str, str]:
        """Name -> text of the result files; ``split`` is the name of the split, or empty.

        The texts of a file for different images, one after the other, are its text for all of them.
        """
        raise NotImplementedError("a subclass defines result_files")

    def report(
        self,
        detections: Mapping[str, Any],
        results: Mapping[str, Any],
        truths: Any,
        images: Path | None,
        published: Mapping[str, tuple[str, ...]],
        comparison: Comparison = ALONE,
        min_score: float = 0.3,
    ) -> ReportData:
        """The report of models by name.

        ``published``: the rows to show beside some of them; ``comparison``: of several, which are baseline
        and teacher; ``min_score``: of several, the lowest score drawn in the frames shown of all.
        """
        raise NotImplementedError("a subclass defines report")

    def rows_beside(self, row: str, split: str) -> tuple[str, ...]:
        """The published rows to show beside a result: the one named, or those that belong to the split."""
        return (row,) if row else ()

    def check_published(self, row: str) -> None:
        """Raises UserError for a row that is not published."""
        if row not in ("", *self.published_rows):
            raise UserError(f"--published={row} is not one of {', '.join(self.published_rows)}")
