"""Anchors and the training objects: options that these decide, and what will not fit, said at the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.models import registry
from fgfi_tf.models.checkpoint_files import find_checkpoint
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.loading import read_metadata
from fgfi_tf.models.metadata import ModelMetadata
from fgfi_tf.training.checkpoints import list_checkpoints
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.run_log import RunLog

_ANCHORS = "anchors"


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

    A run that goes on from one of its ``checkpoints`` keeps what their ``model.json`` says. A new one that
    starts from the weights of the same detector has the anchors that these are for, unless others are given,
    which is told. Raises UserError where the objects cannot decide.
    """
    given = config.options_of("model")
    before = ModelMetadata.read(checkpoints) if list_checkpoints(checkpoints) else None
    if before is not None and before.model == config.model:
        return {**given, **before.options}
    theirs = _initial_anchors(config, dataset.learnt_names)
    if theirs and _ANCHORS not in config.options:
        if theirs != given[_ANCHORS]:
            log(f"anchors: those of {config.init_checkpoint}, which its weights are for")
        return {**given, _ANCHORS: theirs}
    kind = registry.detector_class(config.model)
    resize = config.resize or registry.declaration(config.model).resize
    shapes, _ = at_input(dataset, resize, config.size)
    options, line = kind.fitted_options(given, shapes, config.size, config.seed)
    if line:
        log(line)
    if theirs and theirs != options[_ANCHORS]:
        log(f"the weights of {config.init_checkpoint} are for other anchors than --anchors gives this model")
    return options


def _initial_anchors(config: ExperimentConfig, class_names: Sequence[str]) -> str:
    """The anchors of the detector whose predicting layer a new run starts from; "" where it has its own."""
    start = config.init_checkpoint
    if not start or registry.is_pretrained(config.model, start):
        return ""
    theirs = read_metadata(find_checkpoint(start))
    if theirs is None or theirs.model != config.model or theirs.class_names != tuple(class_names):
        return ""
    declared = {option.name: option.default for option in registry.options(theirs.model)}
    return {**declared, **theirs.options}.get(_ANCHORS, "")


def warn_of_misfit(student: Detector, dataset: PreparedDataset, log: RunLog) -> None:
    """A line in the log where the student's anchors do not fit the training objects."""
    log.warn(student.anchor_misfit(*at_input(dataset, student.resize, student.input_size)))
