"""A finished run, taken up again by commands that are no training of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.training import early, flags
from fgfi_tf.training.run_folder import FLAGS_FILE

if TYPE_CHECKING:  # they import TensorFlow
    from fgfi_tf.imitation.distiller import Distiller
    from fgfi_tf.models.metadata import ModelMetadata
    from fgfi_tf.training.config import ExperimentConfig


def read_run(folder: str, extensions: str = "", **changes: str) -> ExperimentConfig:
    """The flags of a run folder, with those of ``changes`` that are not "".

    ``extensions``: where its own are now, "" where they were.

    Raises:
        UserError: it is none, or the teacher's checkpoint is not there.
    """
    file = Path(folder) / FLAGS_FILE
    if not file.is_file():
        raise UserError(f"--run={folder}: no run folder: it has no {FLAGS_FILE}")
    run = dataclasses.replace(
        flags.read_flagfile(file, extensions), **{k: v for k, v in changes.items() if v}
    )
    if run.imitation:
        early.check_checkpoint("teacher_checkpoint", run.teacher_checkpoint)
    return run


def find(folder: str) -> tuple[Path, ModelMetadata]:
    """The newest checkpoint of a run folder and what it is of. Raises UserError where that is not said."""
    from fgfi_tf.models.checkpoint_files import find_checkpoint
    from fgfi_tf.models.loading import read_metadata

    prefix = find_checkpoint(folder)
    metadata = read_metadata(prefix)
    if metadata is None:
        raise UserError(f"{prefix} does not say which model it is of")
    return prefix, metadata


def build(run: ExperimentConfig, metadata: ModelMetadata) -> Distiller:
    """The model of a run before its first step, with the classes and options that its checkpoint says.

    Raises:
        UserError: the teacher or the initial weights cannot be used.
    """
    from fgfi_tf.training.build import build_distiller

    options = {**run.options_of("model"), **metadata.options}
    return build_distiller(run, metadata.class_names, metadata.classes, options=options)


def restore(distiller: Distiller, prefix: Path) -> None:
    """Student and adaptation of a checkpoint. Raises UserError where it does not hold both."""
    import tensorflow as tf

    from fgfi_tf.models.loading import load_weights

    load_weights(distiller.student, prefix)
    if distiller.imitation is None:
        return
    try:
        saved = tf.train.Checkpoint(imitation=distiller.imitation).read(str(prefix))
        saved.assert_existing_objects_matched().expect_partial()
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise UserError(f"{prefix} holds no adaptation to this teacher: {first_line(error)}") from error
