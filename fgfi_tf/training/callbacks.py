"""Keras callbacks that steer a training run; what it shows is in ``progress``.

All of them count steps from the step the run starts at (0, or that of the checkpoint it goes on
from). With ``steps_per_execution`` above 1 they are called once for each execution; what is due
"every n steps" is then done at the first call at or after the due step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.stopping import StopRequest
from fgfi_tf.training.checkpoints import CheckpointManager, list_checkpoints

# Who asks for a stop where another worker of the cluster was asked.
ELSEWHERE = "a signal to another worker"


class StepCallback(keras.callbacks.Callback):
    """Base: turns Keras's batch index into the run's step.

    The logs are tensors: to read one waits for the step, which would leave a GPU idle between the steps.
    ``start``: steps done before this ``fit``.
    """

    def __init__(self, start: int):
        super().__init__()
        self._supports_tf_logs = True  # what Keras asks: else it makes numbers of all logs after every step
        self.step = start
        self._start = start

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        """Calls ``on_step(previous step, step, logs)``."""
        previous, self.step = self.step, self._start + batch + 1
        self.on_step(previous, self.step, logs or {})

    def on_step(self, previous: int, step: int, logs: dict[str, tf.Tensor]) -> None:
        """After the updates ``previous + 1`` to ``step``; ``logs``: the model's metrics, float32 scalars."""

    @staticmethod
    def due(previous: int, step: int, every: int) -> bool:
        """Whether a multiple of ``every`` lies in (previous, step]; never for 0."""
        return every > 0 and step // every > previous // every


class StepCounter(StepCallback):
    """Keeps the checkpointed step counter (int64): it also counts updates that loss scaling skips."""

    def __init__(self, start: int, counter: tf.Variable):
        super().__init__(start)
        self._counter = counter

    def on_step(self, previous: int, step: int, logs: dict[str, tf.Tensor]) -> None:
        """Sets the counter."""
        self._counter.assign(step)


class StopOnNonFinite(StepCallback):
    """Ends training at the first loss that is not a finite number, before anything is saved.

    The losses are those before loss scaling: a scale that is too large for float16 does not end the
    run: the update is skipped and the scale halved. Where that does not help, at scale 1, the gradients
    themselves are not finite, and the run ends instead of skipping every update that is left.

    A step's losses are read when the next one is on its way already, but for steps after which
    something is written, as ``at_once`` says of (previous step, step). ``folder``: of the checkpoints.
    """

    def __init__(
        self, start: int, folder: Path, at_once: Callable[[int, int], bool] = lambda previous, step: True
    ):
        super().__init__(start)
        self._folder, self._at_once = folder, at_once
        self._scale = math.inf
        self._waiting: tuple | None = None

    def on_step(self, previous: int, step: int, logs: dict[str, tf.Tensor]) -> None:
        """Raises UserError naming the terms, the step and the last good checkpoint."""
        counter = tf.identity(self.model.optimizer.dynamic_counter) if "loss_scale" in logs else None
        self._check_waiting()
        self._waiting = (previous, step, logs, counter)
        if self._at_once(previous, step):
            self._check_waiting()

    def on_train_end(self, logs=None) -> None:
        """Checks the last step, before it is saved."""
        self._check_waiting()

    def _check_waiting(self) -> None:
        if self._waiting is None:
            return
        previous, step, tensors, counter = self._waiting
        self._waiting = None
        logs = {name: float(value) for name, value in tensors.items()}
        bad = [f"{name} is {value}" for name, value in logs.items() if not math.isfinite(value)]
        scale_before, self._scale = self._scale, logs.get("loss_scale", math.inf)
        if scale_before == self._scale == 1.0 and int(counter) == 0:  # where an update was skipped
            bad.append("the gradient is not finite, whatever the loss scale")
        if not bad:
            return
        where = f"step {step}" if step == previous + 1 else f"steps {previous + 1} to {step}"
        kept = list_checkpoints(self._folder)
        raise UserError(
            f"training stopped at {where}: {', '.join(bad)}; "
            + (f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet")
            + ". A lower --learning_rate, --lr_warmup_steps or --clip_norm may help"
        )


class SaveCheckpoints(StepCallback):
    """Saves every ``every`` steps and when training ends; ``saved`` is told the path of each checkpoint."""

    def __init__(
        self, start: int, manager: CheckpointManager, every: int, saved: Callable[[Path], None] | None = None
    ):
        super().__init__(start)
        self._manager, self._every, self._saved = manager, every, saved
        self._last = start

    def on_step(self, previous: int, step: int, logs: dict[str, tf.Tensor]) -> None:
        """Saves where a checkpoint is due."""
        if self.due(previous, step, self._every):
            self._save()

    def on_train_end(self, logs=None) -> None:
        """Saves the last step. Raises UserError where that fails."""
        if self.step != self._last and self._save() is None:
            raise UserError(f"the last checkpoint, of step {self.step}, could not be saved (see above)")

    def _save(self) -> Path | None:
        path = self._manager.save()
        if path is not None:
            self._last = self.step
            if self._saved is not None:
                self._saved(path)
        return path


class StopOnSignal(StepCallback):
    """Ends training after the current step when a stop was asked for.

    In a cluster ``agree`` tells whether *any* worker was asked; each calls it every ``every`` steps.
    """

    def __init__(
        self, start: int, request: StopRequest, agree: Callable[[bool], bool] | None = None, every: int = 1
    ):
        super().__init__(start)
        self._request, self._agree, self._every = request, agree, every

    def on_step(self, previous: int, step: int, logs: dict[str, tf.Tensor]) -> None:
        """Stops the fit."""
        asked = bool(self._request.name)
        if self._agree is not None:
            asked = self.due(previous, step, self._every) and self._agree(asked)
        if asked:
            self._request.name = self._request.name or ELSEWHERE
            self.model.stop_training = True
