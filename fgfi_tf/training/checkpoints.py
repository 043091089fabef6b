"""Checkpoints of a training run: the student, its optimizer and the step, never the teacher.

A folder of checkpoints holds ``ckpt-<step>.{index,data-*}`` and ``model.json``, which names the detector, its
input size and classes, so that evaluation, export and a student need no flags to load it. TensorFlow
writes each checkpoint under a temporary name first: whatever ends the process, a checkpoint is
there whole or not at all.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras as keras
from absl import logging

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.models.checkpoint_files import DAMAGE, FOLDER, find_checkpoint, list_checkpoints, step_of  # noqa: F401
from fgfi_tf.models.metadata import MODEL_FILE

# What the folders of workers that own no files begin with, and a file ends with before it is whole.
WORKER, SCRATCH = "worker-", ".new"


# TensorFlow lists every value that it did not restore when it forgets a checkpoint, after our one line on
# the checkpoint that does not fit. What has to be there is asserted below.
_UNRESTORED = ("could not be found in the restored object", "being deleted with unrestored values")
tf.get_logger().addFilter(lambda record: not any(text in str(record.msg) for text in _UNRESTORED))


class CheckpointManager:
    """Saves and takes up a run's state.

    Args:
        state: the trackable objects by name (student, imitation, optimizer, step, ...).
        step: the step counter; its value names the checkpoints.
        writes: False for the workers of a cluster that must take part in saving but own no files;
            they write into a folder of their own and delete it.
        fingerprint: what ``UserError`` calls the model when a checkpoint does not fit.
        before_save: brings up to date what of ``state`` is only a copy.
    """

    def __init__(
        self,
        folder: Path,
        state: dict[str, object],
        step: tf.Variable,
        *,
        keep: int = 5,
        writes: bool = True,
        fingerprint: str = "this model",
        before_save: Callable[[], None] = lambda: None,
    ):
        self.folder, self.step, self.keep, self.writes = Path(folder), step, keep, writes
        self.fingerprint, self.before_save = fingerprint, before_save
        self.checkpoint = tf.train.Checkpoint(step=step, **state)

    def restore_latest(self) -> Path | None:
        """Restores the newest checkpoint that can be read; None where there is none.

        A damaged one is skipped with a warning that names it. Raises UserError where none of
        several can be read, or where one is of another model.
        """
        found = list_checkpoints(self.folder)
        for path in reversed(found):
            try:
                self._restore(path)
                return path
            except DAMAGE as error:
                logging.warning("checkpoint %s is damaged and skipped: %s", path, first_line(error))
        if found:
            raise UserError(f"none of the {len(found)} checkpoints in {self.folder} can be read")
        return None

    def _restore(self, path: Path) -> None:
        try:
            # read, not restore: the latter renumbers what is saved next.
            self.checkpoint.read(str(path)).assert_existing_objects_matched()
        except (ValueError, AssertionError) as error:
            raise UserError(
                f"{path} is a checkpoint of another model or optimizer than {self.fingerprint}: "
                f"{first_line(error)}"
            ) from error

    def save(self) -> Path | None:
        """Writes ``ckpt-<step>`` and deletes those beyond ``keep``.

        Returns None, with a warning, where the disk is full or not writable: the older checkpoints
        stay. Every worker of a cluster has to call it at the same step.
        """
        folder = self.folder if self.writes else self.folder / f"{WORKER}{id(self)}"
        path = folder / f"ckpt-{int(self.step.numpy())}"
        try:
            self.before_save()  # first: where it finds the run folder gone, that is not made again
            folder.mkdir(parents=True, exist_ok=True)
            self.checkpoint.write(str(path))
        except DAMAGE as error:
            _remove(path)
            kept = ", ".join(p.name for p in list_checkpoints(self.folder)) or "none"
            logging.warning("could not save checkpoint %s: %s; kept: %s", path, first_line(error), kept)
            return None
        if not self.writes:
            shutil.rmtree(folder, ignore_errors=True)
            return path
        saved = list_checkpoints(self.folder)
        before = [other for other in saved if step_of(other) <= step_of(path)]
        # Later ones could not be read, or this run would have gone on from them.
        for other in before[: -self.keep] + saved[len(before) :]:
            _remove(other)
        return path


def _remove(path: Path) -> None:
    # The index goes first: what is left without it is no checkpoint.
    for file in [path.with_name(path.name + ".index"), *path.parent.glob(path.name + ".data-*")]:
        with contextlib.suppress(OSError):
            file.unlink()
    for temporary in path.parent.glob(path.name + "_temp*"):
        shutil.rmtree(temporary, ignore_errors=True)


def copy_checkpoint(path: Path, folder: Path, copied: Callable[[], None] = lambda: None) -> None:
    """Copies one checkpoint and its ``model.json`` into a folder, in place of the checkpoints that it held.

    Whatever ends the process, the folder holds a whole checkpoint: the older ones go after ``copied``, which
    is called once the new one is there. Raises UserError where it cannot be copied.
    """
    index = path.with_name(path.name + ".index")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in [path.parent / MODEL_FILE, *sorted(path.parent.glob(path.name + ".data-*")), index]:
            scratch = folder / (file.name + SCRATCH)
            shutil.copy2(file, scratch)
            scratch.replace(folder / file.name)
    except OSError as error:
        raise UserError(f"{path} cannot be copied to {folder}: {error.strerror}") from error
    copied()
    keep_only(folder, path.name)


def keep_only(folder: Path, name: str) -> None:
    """Deletes every checkpoint of a folder but one, and what a copy that was cut short has left."""
    for other in list_checkpoints(folder):
        if other.name != name:
            _remove(other)
    remove_litter(folder)


def remove_litter(folder: Path) -> None:
    """Deletes what a kill leaves in a folder of checkpoints; nobody may be writing there.

    That is TensorFlow's temporary folders, those of other workers, data without an index (which TensorFlow
    writes last and ``CheckpointManager`` deletes first), and half copies.
    """
    whole = {path.name for path in list_checkpoints(folder)}
    for path in folder.glob("*") if folder.is_dir() else ():
        data = re.fullmatch(r"(ckpt-\d+)\.data-\d+-of-\d+", path.name)
        if re.fullmatch(rf"ckpt-\d+_temp.*|{WORKER}\d+", path.name):
            shutil.rmtree(path, ignore_errors=True)
        elif (data and data.group(1) not in whole) or re.fullmatch(r"(ckpt-\d+|model)\..*\.new", path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def averaged_weights(optimizer: keras.optimizers.legacy.Optimizer, variables: Sequence[tf.Variable]) -> list:
    """The moving averages of ``variables`` that the optimizer keeps, in their order; [] without them."""
    if "average" not in optimizer.get_slot_names():
        return []
    return [optimizer.get_slot(variable, "average") for variable in variables]
