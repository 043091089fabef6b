"""TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from absl import logging

from fgfi_tf.errors import first_line


class EventFile:
    """Summaries in a folder; a disk that is full, or a folder that is gone, costs them and not the run.

    The file is made by the first of them: a start that comes to none leaves nothing in the run folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: tf.summary.SummaryWriter | None = None
        self._failed = False

    def write(self, step: int, summarise: Callable[[], None]) -> None:
        """Writes what ``summarise`` gives ``tf.summary`` for a step, to the disk."""
        try:
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self._folder))
            with self._writer.as_default(step=step):
                summarise()
            self._writer.flush()
        except tf.errors.OpError as error:
            if not self._failed:
                logging.warning("TensorBoard's summaries in %s are lost: %s", self._folder, first_line(error))
            self._failed = True

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Writes each value as ``group/name``."""

        def summarise() -> None:
            for name, value in values.items():
                tf.summary.scalar(f"{group}/{name}", value)

        self.write(step, summarise)
