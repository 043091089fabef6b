"""A training run from flags to finished checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf import stopping
from fgfi_tf.data import registry as datasets
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.errors import UserError, first_line
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.evaluation.command import parse_overlaps
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.training import (
    anchors,
    announce,
    build,
    callbacks,
    data_state,
    early,
    progress,
    teacher,
    unlabelled,
)
from fgfi_tf.training.checkpoints import CheckpointManager, list_checkpoints
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.evaluator import CheckpointEvaluator, ResultLog
from fgfi_tf.training.health import Health
from fgfi_tf.training.precision import precision
from fgfi_tf.training.run_evaluation import RunEvaluation
from fgfi_tf.training.run_folder import RunFolder, held, open_run
from fgfi_tf.training.run_log import LOG_FILE, METRICS_FILE, MetricsTable, RunLog
from fgfi_tf.training.schedules import build_schedule
from fgfi_tf.training.strategy import agreement, build_strategy, is_chief, worker_index
from fgfi_tf.training.validation import validate


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

    @property
    def exit_code(self) -> int:
        """0 where training is finished, else that of the signal (SIGTERM for another worker's)."""
        if self.finished:
            return 0
        return stopping.exit_code("SIGTERM" if self.stopped_by == callbacks.ELSEWHERE else self.stopped_by)


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
    strategy = build_strategy(config.devices, config.virtual_cpus, config.worker_timeout)
    _check_batch(config, strategy)
    chief = is_chief(strategy)
    with _worker_loss(strategy):
        config = dataclasses.replace(config, overwrite=_overwrites(config, strategy))
    with held(Path(config.output_dir)) if chief else contextlib.nullcontext():
        return _train(config, strategy, chief)


def _train(config: ExperimentConfig, strategy: tf.distribute.Strategy, chief: bool) -> Result:
    # A run that is to be deleted is not before its successor's data are there: a wrong split is to cost none.
    later = config.overwrite and RunFolder(Path(config.output_dir)).flags.is_file()
    folder = open_run(config, writes=chief, only_looks=later)
    dataset = build.open_split(config, config.train_split, config.classes)
    announce.check_objects(dataset)
    if chief and later:
        open_run(config)
    if config.overwrite and worker_index(strategy)[1] > 1:
        with _worker_loss(strategy):
            agreement(strategy)(False)  # no worker looks at what the chief has not deleted yet
    log = RunLog(folder.root / LOG_FILE if chief else None)
    log(announce.data_line(config.train_split, dataset))
    log.warn(announce.absent_classes(dataset))
    data_state.check(config, folder.root, dataset, log, writes=chief)
    others = unlabelled.open_pictures(config, dataset, log)
    if others is not None:
        data_state.check(config, folder.root, others, log, writes=chief, file=data_state.UNLABELLED_FILE)
    if config.imitation and chief:
        log.warn(teacher.change(config, folder.root))
    options = anchors.fitted_options(config, folder.checkpoints, dataset, log)
    keras.utils.set_random_seed(config.seed)  # last, so that initial weights depend on the seed alone
    with precision(config.mixed_precision), strategy.scope():
        # A run that goes on has its own weights: those that it began with may be gone.
        goes_on = bool(list_checkpoints(folder.checkpoints))
        begun = dataclasses.replace(config, init_checkpoint="") if goes_on else config
        distiller = build.build_distiller(begun, dataset.learnt_names, dataset.choice.merges, log, options)
        manager = build.build_manager(config, distiller, folder, writes=chief)
        restored = manager.restore_latest()
    start = int(manager.step.numpy())
    if chief:
        distiller.student.metadata.write(folder.checkpoints)
        log.go_on_from(start)
        announce.start(config, strategy, dataset, distiller, restored, log)
        anchors.warn_of_misfit(distiller.student, dataset, log)
    with stopping.asking() as request:
        wanted = start < config.steps or config.evaluate_every
        validation = _validation_split(config, dataset) if wanted else None
        if validation not in (None, dataset):
            log(announce.data_line(config.val_split, validation))
        evaluation = _evaluation(config, folder, validation, start, request, log) if chief else None
        if evaluation is not None:
            evaluation.make_up(list_checkpoints(folder.checkpoints))
        # A cluster's workers agree on stopping in training alone.
        if start < config.steps and not (request.name and worker_index(strategy)[1] == 1):
            pictured = validation or dataset
            hooks = _callbacks(
                config, strategy, distiller, manager, folder, start, request, pictured, evaluation, log
            )
            read = () if others is None else (others,)
            with precision(config.mixed_precision), _worker_loss(strategy), dataset.reading(*read):
                distiller.fit(
                    build.build_batches(config, dataset, distiller.student, strategy, start, others),
                    steps_per_epoch=config.steps - start,
                    verbose=0,
                    callbacks=hooks,
                )
    step = int(manager.step.numpy())
    if step < config.steps or (evaluation is not None and evaluation.abandoned):
        return Result(folder, step, False, request.name)
    return _finish(folder, step, chief)


@contextlib.contextmanager
def _worker_loss(strategy: tf.distribute.Strategy) -> Iterator[None]:
    try:
        yield
    except _LOST as error:
        if worker_index(strategy)[1] == 1:
            raise
        raise WorkerLost(f"a worker of the cluster is gone: {first_line(error)}") from error


def _check_batch(config: ExperimentConfig, strategy: tf.distribute.Strategy) -> None:
    replicas, workers = strategy.num_replicas_in_sync, worker_index(strategy)[1]
    micro_batches = config.gradient_accumulation
    if config.batch_size < replicas:
        raise UserError(f"--batch_size={config.batch_size}: {replicas} devices need at least an image each")
    if config.batch_size % workers:
        raise UserError(f"--batch_size={config.batch_size} cannot be shared equally by {workers} workers")
    if config.jit_compile and replicas > 1:
        raise UserError(
            f"--jit_compile: XLA cannot exchange statistics between {replicas} devices; use one device"
        )
    if micro_batches > 1 and config.batch_size % (replicas * micro_batches):
        raise UserError(
            f"--gradient_accumulation={micro_batches}: --batch_size={config.batch_size} cannot be cut into "
            f"{micro_batches} equal parts on each of {replicas} devices"
        )
    unlabelled.check_batch(config, replicas)


def _callbacks(
    config: ExperimentConfig,
    strategy: tf.distribute.Strategy,
    distiller: Distiller,
    manager: CheckpointManager,
    folder: RunFolder,
    start: int,
    request: stopping.StopRequest,
    drawn: PreparedDataset,
    evaluation: RunEvaluation | None,
    log: RunLog,
) -> list[keras.callbacks.Callback]:
    """In the order in which they act: a bad loss stops before anything is written.

    A signal stops after saving, or the step that an evaluation was given up at would be left behind.
    """
    chief, workers = is_chief(strategy), worker_index(strategy)[1]
    schedule = build_schedule(config)
    bar = chief and sys.stdout.isatty()  # else lines are printed
    hooks = [
        callbacks.StepCounter(start, manager.step),
        callbacks.StopOnNonFinite(start, folder.checkpoints, progress.written_at(config, start)),
        progress.Summaries(
            start,
            folder.summaries / "train" if chief else None,
            config.summary_every,
            lambda step: float(schedule(tf.constant(step))),
            config.batch_size + config.unlabelled_images,
            log=functools.partial(log, show=not bar) if chief else None,
            total=config.steps,
            table=MetricsTable(folder.root / METRICS_FILE, start).add if chief else None,
            watch=Health(config, distiller.student.loss_names, log.warn) if chief else None,
        ),
    ]
    if bar:
        hooks.insert(2, progress.ProgressBar(start, config.steps))
    if config.picture_every:
        draw = build.picture_drawer(distiller, drawn)
        hooks.append(
            progress.Pictures(
                start, folder.summaries / "train" if chief else None, config.picture_every, draw
            )
        )
    agree = agreement(strategy) if workers > 1 else None
    return [
        *hooks,
        callbacks.SaveCheckpoints(start, manager, config.checkpoint_every, saved=evaluation),
        callbacks.StopOnSignal(start, request, agree, every=config.summary_every),
    ]


def _validation_split(config: ExperimentConfig, dataset: PreparedDataset) -> PreparedDataset | None:
    if not (config.evaluate_every or config.picture_every):
        return None
    if config.val_split == config.train_split:
        return dataset
    return build.open_split(config, config.val_split, dataset.choice)


def _evaluation(
    config: ExperimentConfig,
    folder: RunFolder,
    validation: PreparedDataset | None,
    start: int,
    request: stopping.StopRequest,
    log: RunLog,
) -> RunEvaluation | None:
    if not config.evaluate_every:
        return None
    overlaps = parse_overlaps(config.min_overlap)
    protocol = protocols.get(config.metric or datasets.entry(config.dataset).protocol, "", overlaps)
    protocol.check_ready()
    evaluator = CheckpointEvaluator(validation, protocol, stop=lambda: bool(request.name))
    try:
        evaluator.check()
    except UserError as error:  # as each evaluation would end
        raise UserError(f"{error} (--evaluate_every=0 trains without evaluations)") from error
    return RunEvaluation(config, evaluator, protocol, ResultLog(folder), start, request, log)


def _overwrites(config: ExperimentConfig, strategy: tf.distribute.Strategy) -> bool:
    """Whether the run in the folder is to be deleted, which starting this very run again does not mean.

    A worker that starts itself again does so with --nooverwrite, and one such worker decides for all: who is
    started anew by a scheduler, chief or not, still has the flag. Slurm counts how often it requeued a job.
    """
    requeued = os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
    asked = config.overwrite and not requeued
    alone = worker_index(strategy)[1] == 1
    overwrites = asked if alone else not agreement(strategy)(not asked)
    if config.overwrite and not overwrites:
        print("this run was started again and goes on: --overwrite was for its first start", flush=True)
    return overwrites


def _finish(folder: RunFolder, step: int, chief: bool) -> Result:
    if chief:
        folder.check_there()
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
