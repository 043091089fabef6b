"""Anchors and the training objects: options that these decide, and what will not fit, said at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.models import registry
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.metadata import ModelMetadata
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.run_log import RunLog


def at_input(
    dataset: PreparedDataset, resize: str, input_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A split after a resize policy, in pixels of the network input, not augmented.

    Returns:
        (w, h) of every object to learn, float64 [N,2]; (h, w) of every picture without its padding, float64
        [M,2].
    """
    policy = policies.resize(resize)
    sizes = dataset.image_sizes()
    resized, scales = policy.resized(tf.constant(sizes, tf.int32), input_size)  # M x 2 each, or one size
    pictures = np.broadcast_to(policy.cropped(tf.convert_to_tensor(resized)), sizes.shape)
    shapes = [np.zeros((0, 2))]
    for frame, (y, x) in zip(dataset.labels(), np.broadcast_to(scales, sizes.shape), strict=True):
        boxes = np.asarray(frame["boxes"], np.float64)[~np.asarray(frame["ignore"], bool)]
        shapes.append((boxes[:, 2:] - boxes[:, :2] + 1.0) * [x, y])
    return np.concatenate(shapes), pictures.astype(np.float64)


def fitted_options(
    config: ExperimentConfig, checkpoints: Path, dataset: PreparedDataset, log: RunLog
) -> dict[str, Any]:
    """The options of the experiment's detector, those that the training objects decide as they decide them.

    A run that goes on keeps what its ``model.json`` in ``checkpoints`` says. Raises UserError where the
    objects cannot decide.
    """
    given = config.options_of("model")
    before = ModelMetadata.read(checkpoints)
    if before is not None and before.model == config.model:
        return {**given, **before.options}
    kind = registry.detector_class(config.model)
    resize = config.resize or registry.declaration(config.model).resize
    shapes, _ = at_input(dataset, resize, config.size)
    options, line = kind.fitted_options(given, shapes, config.size, config.seed)
    if line:
        log(line)
    return options


def warn_of_misfit(student: Detector, dataset: PreparedDataset, log: RunLog) -> None:
    """A line in the log where the student's anchors do not fit the training objects."""
    log.warn(student.anchor_misfit(*at_input(dataset, student.resize, student.input_size)))
