"""Batches as a detector wants them: images resized to one size, or keeping their shape.

The one place that knows both input pipelines; everything else asks here with the detector and the split.
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.data import pipeline, shape_pipeline
from fgfi_tf.data.augment import AugmentConfig
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.data.shapes import ShapeRule
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

    ``shard`` (i, n): worker i's part of n of every global batch. Raises UserError as the pipelines do.
    """

    @tf.autograph.experimental.do_not_convert
    def prepare(batch: Batch) -> Batch:
        prepared = student.prepare_batch(batch)
        del prepared["image_id"]  # no loss needs it, and XLA takes no strings
        return prepared

    common = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "start_step": start_step,
        "max_boxes": config.max_boxes or None,
        "prepare": prepare,
        "shard": shard,
    }
    if student.keeps_shape:
        return shape_pipeline.training_batches(
            dataset, shape=_shape(student), flip=config.augment and config.flip > 0, **common
        )
    return pipeline.training_batches(
        dataset,
        input_size=student.input_size,
        num_classes=len(student.class_names),
        augmentation=augmentation(config),
        box_resize=student.box_resize,
        **common,
    )


def evaluation_batches(
    detector: Detector, dataset: PreparedDataset, batch_size: int, remainder: str = "keep"
) -> tf.data.Dataset:
    """Every image once, not augmented; ``remainder`` as in ``pipeline.evaluation_batches``."""
    common = {"batch_size": batch_size, "remainder": remainder, "prepare": detector.prepare_images}
    if detector.keeps_shape:
        return shape_pipeline.evaluation_batches(dataset, shape=_shape(detector), **common)
    return pipeline.evaluation_batches(
        dataset,
        input_size=detector.input_size,
        num_classes=len(detector.class_names),
        box_resize=detector.box_resize,
        **common,
    )


def augmentation(config: ExperimentConfig) -> AugmentConfig | None:
    """The augmentation's ranges; None where it is off."""
    if not config.augment:
        return None
    drift_x, drift_y = config.drift_xy
    return AugmentConfig(
        brightness=config.brightness,
        contrast=config.contrast_range,
        saturation=config.saturation_range,
        drift_x=drift_x,
        drift_y=drift_y,
        flip=config.flip,
    )


def _shape(detector: Detector) -> ShapeRule:
    short_side, long_side_cap = detector.input_size
    return ShapeRule(short_side=short_side, long_side_cap=long_side_cap)
