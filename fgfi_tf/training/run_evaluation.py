"""Evaluating the checkpoints of a run while it trains (``--evaluate_every``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import logging

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.stopping import StopRequest
from fgfi_tf.training.callbacks import StepCallback
from fgfi_tf.training.checkpoints import step_of
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.evaluator import Abandoned, CheckpointEvaluator, ResultLog


class RunEvaluation:
    """Evaluates the saved checkpoints that are due, on a network of its own: no other worker takes part.

    An evaluation is given up when a stop is asked for, since what asks may not wait; the run makes up for it,
    as for one that a kill fell on, when it is taken up again. ``evaluator`` gives up once ``request`` has a
    name; ``start``: steps done before.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        evaluator: CheckpointEvaluator,
        protocol: Protocol,
        results: ResultLog,
        start: int,
        request: StopRequest,
        say: Callable[[str], None],
    ):
        self._config, self._evaluator, self._protocol, self._results = config, evaluator, protocol, results
        self._previous, self._request, self._say = start, request, say
        self.abandoned = False

    def __call__(self, path: Path) -> None:
        """Evaluates a checkpoint that has just been saved, where that is due.

        What cannot be written is told, and training goes on: the next start makes up for it.
        """
        previous, self._previous = self._previous, step_of(path)
        if self._due(previous, self._previous):
            self._try(path)

    def make_up(self, saved: Iterable[Path]) -> None:
        """Evaluates what is due of the checkpoints there are, oldest first, and was not evaluated."""
        self._results.recover()
        done = self._results.results()
        previous = 0
        for path in saved:
            step = step_of(path)
            # Of the oldest, the checkpoint before is not there any more.
            before = max([previous or step - self._config.checkpoint_every, *(s for s in done if s < step)])
            previous = step
            if step in done or not self._due(max(before, 0), step):
                continue
            self._try(path)

    def _try(self, path: Path) -> None:
        try:
            self._evaluate(path)
        except (UserError, OSError) as error:  # a damaged checkpoint, a full disk
            logging.warning("evaluation of %s skipped: %s", path.name, error)

    def _due(self, previous: int, step: int) -> bool:
        # With several steps an execution, a checkpoint comes at or after the step it is due at.
        return StepCallback.due(previous, step, self._config.evaluate_every) or step == self._config.steps

    def _evaluate(self, path: Path) -> None:
        # In a thread, out of the strategy's scope that Keras calls back in: there each variable is made by
        # all workers together, and the others, which do not evaluate, would never come.
        try:
            with ThreadPoolExecutor(1) as thread:
                evaluation, _ = thread.submit(self._evaluator, path).result()
        except Abandoned:
            self.abandoned = True
            name = self._request.name
            self._say(f"evaluation of {path.name} given up for {name}; the next start makes up for it")
            return
        best = self._results.add(path, dict(evaluation.metrics))
        table = self._protocol.table({f"step {step_of(path)}": evaluation})
        self._say(f"\n{table}{'  (best so far)' if best else ''}")
