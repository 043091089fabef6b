"""A training run from flags to finished checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.data import registry as datasets
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.errors import UserError, first_line
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.training import (
    announce,
    build,
    callbacks,
    data_state,
    early,
    progress,
    strategy,
    teacher,
)
from fgfi_tf.training.checkpoints import CheckpointKeeper, averaged_weights, list_checkpoints, step_of
from fgfi_tf.training.config import ExperimentConfig, validate
from fgfi_tf.training.evaluator import CheckpointEvaluator, ResultLog
from fgfi_tf.training.health import watcher
from fgfi_tf.training.optimizers import inner_optimizer
from fgfi_tf.training.precision import precision
from fgfi_tf.training.run_folder import RunFolder, open_run
from fgfi_tf.training.run_log import LOG_FILE, METRICS_FILE, MetricsTable, RunLog
from fgfi_tf.training.schedules import build_schedule


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        folder: the run's folder.
        step: the last step done.
        finished: whether that is the last one of all.
        stopped_by: the signal's name, where one ended it before.
    """

    folder: RunFolder
    step: int
    finished: bool
    stopped_by: str = ""


class WorkerLost(UserError):
    """Another worker of the cluster is gone; the run goes on from its last checkpoint once it is back."""


# What the collective operations of the remaining workers raise then.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.DeadlineExceededError,
)


def train(config: ExperimentConfig) -> Result:
    """Trains, or goes on training, the experiment in its run folder.

    Raises:
        WorkerLost: another worker of the cluster is gone.
        UserError: whatever is wrong with flags, data, folder or checkpoints; a loss that is not finite.
    """
    validate(config)
    early.check_files(config)
    config = teacher.resolve(config)
    over = strategy.build_strategy(config.devices, config.virtual_cpus, config.worker_timeout)
    _check_batch(config, over)
    chief = strategy.is_chief(over)
    folder = open_run(config, writes=chief)
    dataset = datasets.open_split(config.dataset, config.data_dir, config.train_split, config.prepared_dir)
    keras.utils.set_random_seed(config.seed)
    log = RunLog(folder.root / LOG_FILE if chief else None)
    announce.check_objects(dataset)
    log(announce.data_line(config.train_split, dataset))
    data_state.check(config, folder.root, dataset, log, writes=chief)
    class_names = dataset.class_names[: dataset.num_training_classes]
    with precision(config.mixed_precision), over.scope():
        distiller = build.build_distiller(config, class_names)
        keeper = build_keeper(config, distiller, folder, writes=chief)
        restored = keeper.restore_latest()
    start = int(keeper.step.numpy())
    if chief:
        distiller.student.card.write(folder.checkpoints)
        log.go_on_from(start)
        announce.start(config, over, dataset, distiller, restored, log)
    if start >= config.steps:
        return _finish(folder, start, chief)
    with callbacks.stop_signals() as request:
        hooks = _callbacks(config, over, distiller, keeper, folder, start, request, dataset, log)
        with precision(config.mixed_precision), _worker_loss(over):
            distiller.fit(
                build.build_batches(config, dataset, distiller.student, over, start),
                steps_per_epoch=config.steps - start,
                verbose=0,
                callbacks=hooks,
            )
    step = int(keeper.step.numpy())
    if step < config.steps:
        return Result(folder, step, False, request.name)
    return _finish(folder, step, chief)


def build_keeper(
    config: ExperimentConfig, distiller: Distiller, folder: RunFolder, *, writes: bool = True
) -> CheckpointKeeper:
    """What saves and restores a run: student, adaptation, optimizer, moving averages and step."""
    state = {"student": distiller.student, "optimizer": distiller.optimizer}
    if distiller.imitation is not None:
        state["imitation"] = distiller.imitation
    averages = averaged_weights(inner_optimizer(distiller.optimizer), distiller.student.trainable_variables)
    # Copies: a checkpoint takes an optimizer's slots from the optimizer alone.
    copies = [tf.Variable(average, trainable=False) for average in averages]
    if copies:
        state["averages"] = copies

    def update_copies() -> None:
        for copy, average in zip(copies, averages, strict=True):
            copy.assign(average)

    step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
    return CheckpointKeeper(
        folder.checkpoints,
        state,
        step,
        keep=config.keep_checkpoints,
        writes=writes,
        fingerprint=config.model,
        before_save=update_copies,
    )


@contextlib.contextmanager
def _worker_loss(over: tf.distribute.Strategy) -> Iterator[None]:
    try:
        yield
    except _LOST as error:
        if strategy.worker_index(over)[1] == 1:
            raise
        raise WorkerLost(f"a worker of the cluster is gone: {first_line(error)}") from error


def _check_batch(config: ExperimentConfig, over: tf.distribute.Strategy) -> None:
    replicas, workers = over.num_replicas_in_sync, strategy.worker_index(over)[1]
    parts = config.gradient_accumulation
    if config.batch_size < replicas:
        raise UserError(f"--batch_size={config.batch_size}: {replicas} devices need at least an image each")
    if config.batch_size % workers:
        raise UserError(f"--batch_size={config.batch_size} cannot be shared equally by {workers} workers")
    if config.jit_compile and replicas > 1:
        raise UserError(
            f"--jit_compile: XLA cannot exchange statistics between {replicas} devices; use one device"
        )
    if parts > 1 and config.batch_size % (replicas * parts):
        raise UserError(
            f"--gradient_accumulation={parts}: --batch_size={config.batch_size} cannot be cut into {parts} "
            f"equal parts on each of {replicas} devices"
        )


def _callbacks(
    config: ExperimentConfig,
    over: tf.distribute.Strategy,
    distiller: Distiller,
    keeper: CheckpointKeeper,
    folder: RunFolder,
    start: int,
    request: callbacks.StopRequest,
    dataset: PreparedDataset,
    log: RunLog,
) -> list[keras.callbacks.Callback]:
    """In the order in which they act: a bad loss stops before anything is written."""
    chief, workers = strategy.is_chief(over), strategy.worker_index(over)[1]
    schedule = build_schedule(config)
    validation = _validation_split(config, dataset)
    if validation not in (None, dataset):
        log(announce.data_line(config.val_split, validation))
    bar = chief and progress.on_terminal()
    hooks = [
        callbacks.StepCounter(start, keeper.step),
        callbacks.StopOnNonFinite(start, folder.checkpoints, progress.written_at(config, start)),
        progress.Summaries(
            start,
            folder.summaries / "train" if chief else None,
            config.summary_every,
            lambda step: float(schedule(tf.constant(step))),
            config.batch_size,
            log=functools.partial(log, show=not bar) if chief else None,
            total=config.steps,
            table=MetricsTable(folder.root / METRICS_FILE, start).add if chief else None,
            watch=watcher(config, distiller.student.loss_names, log) if chief else None,
        ),
        callbacks.StopOnSignal(
            start, request, agree=_agreement(over) if workers > 1 else None, every=config.summary_every
        ),
    ]
    if bar:
        hooks.insert(2, progress.ProgressBar(start, config.steps))
    if config.picture_every:
        draw = build.picture_drawer(distiller, validation or dataset)
        hooks.append(
            progress.Pictures(
                start, folder.summaries / "train" if chief else None, config.picture_every, draw
            )
        )
    evaluate = (
        _evaluation(config, folder, validation, start, log) if config.evaluate_every and chief else None
    )
    hooks.append(callbacks.SaveCheckpoints(start, keeper, config.checkpoint_every, saved=evaluate))
    return hooks


def _validation_split(config: ExperimentConfig, dataset: PreparedDataset) -> PreparedDataset | None:
    if not (config.evaluate_every or config.picture_every):
        return None
    if config.val_split == config.train_split:
        return dataset
    return datasets.open_split(config.dataset, config.data_dir, config.val_split, config.prepared_dir)


def _evaluation(
    config: ExperimentConfig, folder: RunFolder, validation: PreparedDataset, start: int, log: RunLog
) -> Callable[[Path], None]:
    """Evaluates each saved checkpoint that is due, on a network of its own: no other worker takes part."""
    protocol = protocols.get(datasets.entry(config.dataset).protocol)
    evaluator, results = CheckpointEvaluator(validation, protocol), ResultLog(folder)
    done = start

    def evaluate(path: Path) -> None:
        nonlocal done
        step = step_of(path)
        # With several steps an execution, a checkpoint comes at or after the step it is due at.
        if not callbacks.StepCallback.due(done, step, config.evaluate_every) and step != config.steps:
            return
        done = step
        # In a thread, out of the strategy's scope that Keras calls back in: there each variable is made by
        # all workers together, and the others, which do not evaluate, would never come.
        with ThreadPoolExecutor(1) as thread:
            evaluation, _ = thread.submit(evaluator, path).result()
        best = results.add(path, protocol.figures(evaluation))
        table = protocol.table({f"step {step}": evaluation})
        log(f"\n{table}{'  (best so far)' if best else ''}")

    return evaluate


def _agreement(over: tf.distribute.Strategy) -> Callable[[bool], bool]:
    """Whether any worker of the cluster asks for a stop; all of them must call it together."""

    @tf.function
    def total(asked: tf.Tensor) -> tf.Tensor:
        def replica(value):
            value = tf.identity(value)  # on this replica's device
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

        return over.experimental_local_results(over.run(replica, args=(asked,)))[0]

    return lambda asked: float(total(tf.constant(float(asked)))) > 0


def _finish(folder: RunFolder, step: int, chief: bool) -> Result:
    if chief:
        folder.finished.write_text(f"{step}\n{time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    return Result(folder, step, True)


def report(result: Result) -> None:
    """Says how the run ended and what to do next."""
    kept = list_checkpoints(result.folder.checkpoints)
    last = f"last checkpoint: {kept[-1]}" if kept else "no checkpoint"
    if result.finished:
        print(f"finished at step {result.step}; {last}")
    else:
        print(f"stopped by {result.stopped_by} at step {result.step}; {last}; the same command goes on")
