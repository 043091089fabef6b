"""What a training run shows: TensorBoard scalars and pictures, a line or a bar on the terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.training.callbacks import StepCallback

# Columns of Keras's bar without values, for up to 99,999 steps and 9 hours, and of " - name: 1.2345e-06".
BAR_WIDTH, VALUE_WIDTH = 60, 15


class Summaries(StepCallback):
    """TensorBoard scalars: every loss, averaged since the last summary, learning rate and images/s.

    Resets the model's metrics after each summary, so the progress bar shows recent values too.

    Args:
        start: steps done before.
        folder: for the event files; None on the workers that write none.
        every: steps between summaries.
        learning_rate: step to rate.
        batch_size: global, for images/s.
        log: called with one line a summary (None: nothing is printed).
        total: steps of the whole run, for the line.
    """

    def __init__(
        self,
        start: int,
        folder: Path | None,
        every: int,
        learning_rate: Callable[[int], float],
        batch_size: int,
        log: Callable[[str], None] | None = None,
        total: int = 0,
    ):
        super().__init__(start)
        self._writer = tf.summary.create_file_writer(str(folder)) if folder else None
        self._every, self._learning_rate, self._batch_size = every, learning_rate, batch_size
        self._log, self._total = log, total
        self._seconds, self._timed_steps = 0.0, 0
        self._begin: float | None = None

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        """Starts the clock: what callbacks do between steps is not timed."""
        self._begin = time.monotonic()

    def on_step(self, previous: int, step: int, logs: dict[str, float]) -> None:
        """Writes the scalars where they are due."""
        if previous > self._start:  # the first step traces the graph
            self._seconds += time.monotonic() - self._begin
            self._timed_steps += step - previous
        if not self.due(previous, step, self._every):
            return
        values = {name: float(value) for name, value in logs.items()}
        values["learning_rate"] = self._learning_rate(step - 1)
        if self._seconds > 0:
            values["images_per_second"] = self._timed_steps * self._batch_size / self._seconds
            self._seconds, self._timed_steps = 0.0, 0
        if self._writer is not None:
            with self._writer.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(f"train/{name}", value)
            self._writer.flush()
        if self._log is not None:
            self._log(self._line(step, values))
        self.model.reset_metrics()

    def _line(self, step: int, values: dict[str, float]) -> str:
        parts = [f"{name} {value:.4g}" for name, value in values.items() if name != "images_per_second"]
        speed = values.get("images_per_second")
        if speed:
            left = (self._total - step) * self._batch_size / speed
            parts += [f"{speed:.1f} images/s", f"left {duration(left)}"]
        return f"step {step}/{self._total}: " + ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(int(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class _RunBar(keras.utils.Progbar):
    """Keras's bar, told that a resumed run did not do its first steps just now."""

    def __init__(self, start: int, total: int):
        super().__init__(total, unit_name="step", stateful_metrics=None)
        self._run_start = start

    def _estimate_step_duration(self, current: int | None, now: float) -> float:
        return super()._estimate_step_duration(current and current - self._run_start, now)


class ProgressBar(StepCallback):
    """Keras's progress bar over the whole run, on a terminal.

    Args:
        start: steps done before.
        total: steps of the whole run.
    """

    def __init__(self, start: int, total: int):
        super().__init__(start)
        self._bar = _RunBar(start, total)
        self._total = total

    def on_step(self, previous: int, step: int, logs: dict[str, float]) -> None:
        """Moves the bar; the values are those of the model's metrics, as many as the line has room for.

        A bar that is longer than the line cannot be drawn over: each step would leave one.
        """
        room, shown = shutil.get_terminal_size().columns - BAR_WIDTH, []
        for name, value in logs.items():
            room -= len(name) + VALUE_WIDTH
            if room < 0:
                break
            shown.append((name, value))
        self._bar.stateful_metrics = set(logs)
        self._bar.update(step, shown, finalize=step >= self._total)


def on_terminal() -> bool:
    """Whether standard output is a terminal (else lines are printed instead of a bar)."""
    return sys.stdout.isatty()


class Pictures(StepCallback):
    """Pictures in TensorBoard.

    Args:
        start: steps done before.
        folder: for the event files; None on the workers that write none, but have to draw with
            the others (reading batch norm statistics is a collective operation).
        every: steps between pictures.
        draw: gives pictures by name, each uint8 [H, W, 3].
    """

    def __init__(
        self, start: int, folder: Path | None, every: int, draw: Callable[[], dict[str, np.ndarray]]
    ):
        super().__init__(start)
        self._writer = tf.summary.create_file_writer(str(folder)) if folder else None
        self._every, self._draw = every, draw

    def on_step(self, previous: int, step: int, logs: dict[str, float]) -> None:
        """Draws where it is due."""
        if not self.due(previous, step, self._every):
            return
        pictures = self._draw()
        if self._writer is not None:
            with self._writer.as_default(step=step):
                for name, picture in pictures.items():
                    tf.summary.image(name, picture[None])
            self._writer.flush()
