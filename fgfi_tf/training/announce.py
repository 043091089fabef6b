"""What a run says of itself before its first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from fgfi_tf.data import classes
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.errors import UserError
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.training import memory, precision, teacher
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.run_log import RunLog


def start(
    config: ExperimentConfig,
    strategy: tf.distribute.Strategy,
    dataset: PreparedDataset,
    distiller: Distiller,
    restored: Path | None,
    log: RunLog,
) -> None:
    """What is trained on what, by which teacher, from which checkpoint on, and whether memory will do."""
    parameters = sum(int(tf.size(v)) for v in distiller.student.trainable_variables)
    devices = f"{strategy.num_replicas_in_sync} device{'s' if strategy.num_replicas_in_sync > 1 else ''}"
    imitating = f", imitating {config.teacher_model}" if config.imitation else ""
    others = f" + {config.unlabelled_images} unlabelled" if config.unlabelled_dir else ""
    if config.mixed_precision != "none":
        devices += f" in {precision.computed_in(config.mixed_precision)}"
    log(
        f"{config.model}, {parameters:,} parameters{imitating}; "
        f"{dataset.name}, {dataset.num_examples} images; batch {config.batch_size}{others} on {devices}; "
        f"run folder {config.output_dir}"
    )
    if config.imitation:
        log(teacher.describe(config))
    if restored is not None:
        log(f"going on from {restored}")
    log.warn(precision.warning(config.mixed_precision))
    log.warn(memory.warning(config, distiller.student, strategy))


def data_line(split: str, dataset: PreparedDataset) -> str:
    """``train: 564 images; Car 1877, Pedestrian 1027, Cyclist 734; ignored: Van 280, DontCare 1114``."""
    learnt, ignored = object_counts(dataset)
    line = f"{split}: {dataset.num_examples} images; {_listed(learnt)}"
    return f"{line}; ignored: {_listed(ignored)}" if ignored else line


def check_objects(dataset: PreparedDataset) -> None:
    """Raises UserError where a training split holds no object to learn."""
    learnt, ignored = object_counts(dataset)
    if not any(learnt.values()):
        held = f"; they hold {_listed(ignored)}" if ignored else ""
        raise UserError(
            f"{dataset.name}: none of its {dataset.num_examples} images has an object to learn "
            f"({', '.join(learnt)}){held}. Are these the right images and labels (--data_dir, --train_split)?"
        )


def absent_classes(dataset: PreparedDataset) -> str:
    """A line on classes that ``--classes`` names and no label has, "" where it names none such."""
    learnt, ignored = object_counts(dataset)
    have = {name: count + ignored.get(name, 0) for name, count in learnt.items()}
    return classes.absent(have, ignored) if dataset.choice.strict else ""


def object_counts(dataset: PreparedDataset) -> tuple[dict[str, int], dict[str, int]]:
    """Objects to learn by class, each class named, and ignored ones by class, those that there are."""
    size = len(dataset.class_names)
    learnt, ignored = np.zeros(size, int), np.zeros(size, int)
    for frame in dataset.labels():
        passed = np.asarray(frame["ignore"], bool)
        found = np.asarray(frame["classes"], int)
        learnt += np.bincount(found[~passed], minlength=size)
        ignored += np.bincount(found[passed], minlength=size)
    named = dict(zip(dataset.class_names, learnt.tolist(), strict=True))
    return (
        {name: named[name] for name in dataset.learnt_names},
        {name: int(n) for name, n in zip(dataset.class_names, ignored, strict=True) if n},
    )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
