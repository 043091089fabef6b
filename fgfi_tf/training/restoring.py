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
    from fgfi_tf.training.config import ExperimentConfig


def read_run(folder: str, **changes: str) -> ExperimentConfig:
    """The flags of a run folder, with those of ``changes`` that are not "".

    Raises:
        UserError: it is none, or the teacher's checkpoint is not there.
    """
    file = Path(folder) / FLAGS_FILE
    if not file.is_file():
        raise UserError(f"--run={folder}: no run folder: it has no {FLAGS_FILE}")
    run = dataclasses.replace(flags.read_flagfile(file), **{k: v for k, v in changes.items() if v})
    if run.imitation:
        early.check_checkpoint("teacher_checkpoint", run.teacher_checkpoint)
    return run


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
