"""What a run leaves as text: ``train.log``, the lines it showed, and ``metrics.csv``, a row a summary.

A run that goes on from step s has lost what came after s: its lines and rows of later steps are dropped when
the files are opened, so that each step is there once.
"""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from absl import logging

from fgfi_tf.errors import UserError
from fgfi_tf.paths import replace_text

LOG_FILE = "train.log"
METRICS_FILE = "metrics.csv"
_STEP = re.compile(r"step (\d+)/")
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}


class RunLog:
    """Prints lines, and adds them to a file; none on the workers that write none, whose lines nobody sees."""

    def __init__(self, path: Path | None):
        self._path = path
        if path is not None:
            self._append(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(sys.argv)}")

    def __call__(self, text: str, *, show: bool = True) -> None:
        """Adds a line, or several; ``show=False`` keeps it from the terminal."""
        if self._path is None:
            return
        if show:
            print(text, flush=True)  # at once, also into a file
        self._append(text)

    def warn(self, text: str) -> None:
        """A warning, on standard error; nothing for an empty text."""
        if self._path is not None and text:
            logging.warning("%s", text)
            self._append(f"WARNING: {text}")

    def go_on_from(self, step: int) -> None:
        """Drops the lines of later steps."""
        if self._path is None or not self._path.is_file():
            return
        lines = self._path.read_text(**_TEXT).splitlines(keepends=True)
        kept = [line for line in lines if not (match := _STEP.match(line)) or int(match[1]) <= step]
        if len(kept) < len(lines):
            replace_text(self._path, "".join(kept), errors=_TEXT["errors"])

    def _append(self, text: str) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            _cannot_write(self._path, error)


class MetricsTable:
    """``metrics.csv``: a row of named values at each summary, of a run that goes on from step ``start``."""

    def __init__(self, path: Path, start: int):
        self._path, self._columns, self._rows = path, ["step"], []
        if path.is_file():
            self._columns, rows = read_metrics(path)
            self._rows = [row for row in rows if int(row["step"]) <= start]
            self._write()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row; a name that is new becomes a column."""
        row = {"step": step, **{name: f"{value:.7g}" for name, value in values.items()}}
        new = [name for name in row if name not in self._columns]
        self._rows.append(row)
        if new or not self._path.is_file():
            self._columns += new
            self._write()
            return
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
        except OSError as error:
            _cannot_write(self._path, error)

    def _write(self) -> None:
        scratch = self._path.with_suffix(".new")
        try:
            with scratch.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self._rows)
            scratch.replace(self._path)
        except OSError as error:
            _cannot_write(self._path, error)


def read_metrics(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and whole rows of ``metrics.csv``; a kill may have left half a row. Raises UserError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if (row.get("step") or "").isdecimal() and None not in row.values()]
            return list(reader.fieldnames or ["step"]), rows
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path} is malformed: {error}; move it away") from error


def _cannot_write(path: Path, error: OSError) -> None:
    """A full disk costs lines, not the run."""
    logging.log_first_n(logging.WARNING, "%s cannot be written: %s", 1, path, error.strerror)
