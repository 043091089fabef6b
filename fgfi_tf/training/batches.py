"""Batches as a detector and an experiment want them: the input pipeline with their policies."""

from __future__ import annotations

import functools

import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data import pipeline, policies
from fgfi_tf.data.augment import Augmentation
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.models.detector import Batch, Detector
from fgfi_tf.training.config import ExperimentConfig


def training_batches(
    config: ExperimentConfig,
    dataset: PreparedDataset,
    student: Detector,
    start_step: int,
    shard: tuple[int, int] = (0, 1),
    unlabelled: PreparedDataset | None = None,
    shares: int = 1,
) -> tf.data.Dataset:
    """Endless training batches from a step on, ready for the student's losses.

    ``shard`` (i, n): worker i's part of n of every global batch. Where there are ``unlabelled`` pictures,
    each of the ``shares`` equal parts of a batch, the micro-batches of all replicas, holds its part of the
    labelled images, then of the others. Raises UserError as the pipeline does.
    """

    @tf.autograph.experimental.do_not_convert
    def prepare(batch: Batch) -> Batch:
        prepared = student.prepare_batch(student.prepare_images(batch))
        del prepared["image_id"]  # no loss needs it, and XLA takes no strings
        return prepared

    stream = functools.partial(
        pipeline.training_batches,
        resize=policies.resize(student.resize),
        input_size=student.input_size,
        seed=config.seed,
        start_step=start_step,
        num_classes=len(student.class_names),
        augmentation=augmentation(config, student),
        shard=shard,
    )
    if unlabelled is None:
        rows = config.max_boxes or None
        return stream(dataset, batch_size=config.batch_size, max_boxes=rows, prepare=prepare)
    rows = config.max_boxes or max(dataset.max_boxes, unlabelled.max_boxes)
    others = stream(
        unlabelled,
        batch_size=config.unlabelled_images,
        max_boxes=rows,
        uses=(streams.Use.UNLABELLED_EPOCH, streams.Use.UNLABELLED_EXAMPLE),
    )
    own = stream(dataset, batch_size=config.batch_size, max_boxes=rows)

    @tf.autograph.experimental.do_not_convert
    def together(labelled: Batch, other: Batch) -> Batch:
        return pipeline.interleaved(labelled, other, shares)

    return pipeline.prepared(tf.data.Dataset.zip((own, others)).map(together), prepare)


def evaluation_batches(
    detector: Detector, dataset: PreparedDataset, batch_size: int, remainder: str = "keep"
) -> tf.data.Dataset:
    """Every image once, not augmented; ``remainder`` as in ``pipeline.evaluation_batches``."""
    return pipeline.evaluation_batches(
        dataset,
        resize=policies.resize(detector.resize),
        input_size=detector.input_size,
        batch_size=batch_size,
        num_classes=len(detector.class_names),
        prepare=detector.prepare_images,
        remainder=remainder,
    )


def augmentation(config: ExperimentConfig, student: type[Detector] | Detector) -> Augmentation:
    """The experiment's augmentation policy, else the student's, with the experiment's options."""
    name = config.augmentation or student.declaration.augmentation
    known = {option.name for option in policies.augmentation_options(name)}
    policy = policies.augmentation(
        name, {k: v for k, v in config.options_of("augmentation").items() if k in known}
    )
    return policy if config.augment else policy.off()
