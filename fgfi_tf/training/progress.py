"""What a training run shows: TensorBoard scalars and pictures, a line or a bar on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from fgfi_tf.training.callbacks import StepCallback
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.event_file import EventFile

BAR_SECONDS = 0.2
# Lines of the log come after so many steps too: a newcomer need not wait for the first summary.
EARLY = (1, 10)
# Shown as shares of a hundred, behind the imitation loss.
SHARES = {"imitation_mask_share": "mask", "imitation_active_share": "active"}


class Summaries(StepCallback):
    """TensorBoard scalars: every loss, averaged since the last summary, learning rate and images/s.

    Resets the model's metrics after each summary, so the progress bar shows recent values too.

    Args:
        folder: for the event files; None on the workers that write none.
        learning_rate: step to rate.
        batch_size: global, for images/s.
        log: called with one line a summary, and one after the first steps (None: nothing is logged).
        total: steps of the whole run, for the line.
        table: called with the step and the values of each summary.
        watch: called with (step of the summary before, step, values) at each one; see ``Health``.
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
        table: Callable[[int, dict[str, float]], None] | None = None,
        watch: Callable[[int, int, dict[str, float]], None] | None = None,
    ):
        super().__init__(start)
        self._events = EventFile(folder) if folder else None
        self._table, self._watch, self._summarised = table, watch, start
        self._every, self._learning_rate, self._batch_size = every, learning_rate, batch_size
        self._log, self._total = log, total
        self._seconds, self._timed_steps = 0.0, 0
        self._begin: float | None = None

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        """Starts the clock: what callbacks do between steps is not timed."""
        self._begin = time.monotonic()

    def on_step(self, previous: int, step: int, logs: dict[str, tf.Tensor]) -> None:
        """Writes the scalars where they are due."""
        if previous > self._start:  # the first step traces the graph
            self._seconds += time.monotonic() - self._begin
            self._timed_steps += step - previous
        due = self.due(previous, step, self._every)
        if not (due or is_early(self._start, previous, step)):
            return
        values = {name: float(value) for name, value in logs.items()}
        values["learning_rate"] = self._learning_rate(step - 1)
        if self._seconds > 0:
            values["images_per_second"] = self._timed_steps * self._batch_size / self._seconds
        if self._log is not None:
            self._log(self._line(step, values))
        if not due:
            return
        self._summarise(step, values)
        self._summarised, self._seconds, self._timed_steps = step, 0.0, 0
        self.model.reset_metrics()

    def _summarise(self, step: int, values: dict[str, float]) -> None:
        if self._events is not None:
            self._events.scalars(step, "train", values)
        if self._table is not None:
            self._table(step, values)
        if self._watch is not None:
            self._watch(self._summarised, step, values)

    def _line(self, step: int, values: dict[str, float]) -> str:
        passed = ("images_per_second", "imitation_loss_unweighted", "imitation_weight", *SHARES)
        parts = [f"{name} {value:.4g}" for name, value in values.items() if name not in passed]
        if "imitation_loss_unweighted" in values:
            at = next(i for i, part in enumerate(parts) if part.startswith("imitation_loss "))
            parts[at] += f" ({values['imitation_loss_unweighted']:.4g} x {values['imitation_weight']:.4g})"
            shares = [f"{text} {100 * values[name]:.3g} %" for name, text in SHARES.items() if name in values]
            parts[at + 1 : at + 1] = shares
        speed = values.get("images_per_second")
        if speed:
            left = (self._total - step) * self._batch_size / speed
            parts += [f"{speed:.1f} images/s", f"left {duration(left)}"]
        return f"step {step}/{self._total}: " + ", ".join(parts)


def is_early(start: int, previous: int, step: int) -> bool:
    """Whether one of the ``EARLY`` steps of a run that began at ``start`` lies in (previous, step]."""
    return any(previous < start + n <= step for n in EARLY)


def written_at(config: ExperimentConfig, start: int) -> Callable[[int, int], bool]:
    """Tells whether a run writes something in (previous, step]: a line, a summary, pictures, a checkpoint."""
    every = (config.summary_every, config.picture_every, config.checkpoint_every)
    return lambda previous, step: (
        any(StepCallback.due(previous, step, n) for n in every) or is_early(start, previous, step)
    )


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(int(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class ProgressBar(StepCallback):
    """A progress bar over the whole run, with the model's metrics, on a terminal."""

    def __init__(self, start: int, total: int):
        super().__init__(start)
        self._bar = tqdm(
            initial=start,
            total=total,
            unit="step",
            mininterval=BAR_SECONDS,
            dynamic_ncols=True,
            position=0,
            file=sys.stdout,
        )

    def on_step(self, previous: int, step: int, logs: dict[str, tf.Tensor]) -> None:
        """Moves the bar, a few times a second at most, since its values wait for the step."""
        if self._bar.update(step - previous) or step >= self._bar.total:
            self._bar.set_postfix({name: float(value) for name, value in logs.items()})

    def on_train_end(self, logs=None) -> None:
        """Leaves the bar's line."""
        self._bar.close()


class Pictures(StepCallback):
    """Pictures in TensorBoard; ``draw`` gives them by name, each uint8 [H, W, 3].

    ``folder`` is for the event files; None on the workers that write none, but have to draw with the others
    (reading batch norm statistics is a collective operation).
    """

    def __init__(
        self, start: int, folder: Path | None, every: int, draw: Callable[[], dict[str, np.ndarray]]
    ):
        super().__init__(start)
        self._events = EventFile(folder) if folder else None
        self._every, self._draw = every, draw

    def on_step(self, previous: int, step: int, logs: dict[str, tf.Tensor]) -> None:
        """Draws where it is due."""
        if not self.due(previous, step, self._every):
            return
        pictures = self._draw()

        def summarise() -> None:
            for name, picture in pictures.items():
                tf.summary.image(name, picture[None])

        if self._events is not None:
            self._events.write(step, summarise)
