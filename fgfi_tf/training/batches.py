"""Batches as a detector and an experiment want them: the input pipeline with their policies."""

from __future__ import annotations

import tensorflow as tf

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
) -> tf.data.Dataset:
    """Endless training batches from a step on, ready for the student's losses.

    ``shard`` (i, n): worker i's part of n of every global batch. Raises UserError as the pipeline does.
    """

    @tf.autograph.experimental.do_not_convert
    def prepare(batch: Batch) -> Batch:
        prepared = student.prepare_batch(batch)
        del prepared["image_id"]  # no loss needs it, and XLA takes no strings
        return prepared

    return pipeline.training_batches(
        dataset,
        resize=policies.resize(student.resize),
        input_size=student.input_size,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start_step,
        num_classes=len(student.class_names),
        max_boxes=config.max_boxes or None,
        augmentation=augmentation(config, student),
        prepare=prepare,
        shard=shard,
    )


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
