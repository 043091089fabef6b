"""The folder of a run: its flags, checkpoints and summaries; never mixed with another run's."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.training import checkpoints, flags
from fgfi_tf.training.config import RESUMABLE, ExperimentConfig
from fgfi_tf.training.data_state import DATA_FILE
from fgfi_tf.training.run_log import LOG_FILE, METRICS_FILE
from fgfi_tf.training.schedules import check_schedule

FLAGS_FILE = "flags.cfg"
FINISHED_FILE = "finished"
BEST_FOLDER = "best"
SUMMARY_FOLDER = "tensorboard"
EVALUATION_FOLDER = "evaluation"
RECORDS = (LOG_FILE, METRICS_FILE, DATA_FILE)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    root: Path

    @property
    def flags(self) -> Path:
        """The resolved flags, a flag file."""
        return self.root / FLAGS_FILE

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.root / checkpoints.FOLDER

    @property
    def best(self) -> Path:
        """The folder of the best checkpoint so far."""
        return self.root / BEST_FOLDER

    @property
    def summaries(self) -> Path:
        """The folder of the TensorBoard files."""
        return self.root / SUMMARY_FOLDER

    @property
    def evaluation(self) -> Path:
        """The folder of the evaluations' results."""
        return self.root / EVALUATION_FOLDER

    @property
    def finished(self) -> Path:
        """A file that exists once training has reached its last step."""
        return self.root / FINISHED_FILE


def open_run(config: ExperimentConfig, *, writes: bool = True) -> RunFolder:
    """Opens the run folder of an experiment: a new one, or the same run's to go on with.

    Args:
        config: the experiment; its ``output_dir`` is the folder.
        writes: False for the workers that own no files: they only compare the flags.

    Raises:
        UserError: the folder holds another run or something else, and nothing is touched; or it
            cannot be written. ``overwrite`` deletes what a run has written there, only that.
    """
    folder = RunFolder(Path(config.output_dir))
    holds_run = folder.flags.is_file()
    if not holds_run and folder.root.exists() and any(folder.root.iterdir()) and writes:
        raise UserError(f"--output_dir={folder.root} is not empty and holds no run: choose another folder")
    # A run that never came to a checkpoint, for a wrong flag perhaps, is no loss.
    started = holds_run and bool(checkpoints.list_checkpoints(folder.checkpoints))
    if started and not config.overwrite:
        _check_same(folder, config)
    if not writes:
        return folder
    try:
        if holds_run and (config.overwrite or not started):
            _clear(folder)
        folder.root.mkdir(parents=True, exist_ok=True)
        scratch = folder.flags.with_suffix(".new")  # who watches must not read half a file
        scratch.write_text(
            flags.to_flagfile(dataclasses.replace(config, overwrite=False, allow_changed_data=False))
        )
        scratch.replace(folder.flags)
        folder.finished.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={folder.root} cannot be written: {error.strerror}") from error
    return folder


def _check_same(folder: RunFolder, config: ExperimentConfig) -> None:
    there = flags.read_flagfile(folder.flags)
    names = [field.name for field in dataclasses.fields(config) if field.name not in RESUMABLE]
    differing = [name for name in names if getattr(there, name) != getattr(config, name)]
    if differing:
        listed = ", ".join(f"--{name}={getattr(there, name)}" for name in differing)
        raise UserError(
            f"--output_dir={folder.root} already holds another run, started with {listed}: choose another "
            "folder, give the same flags to go on with it, or pass --overwrite to delete it"
        )
    check_schedule(there, config)


def _clear(folder: RunFolder) -> None:
    for path in (folder.checkpoints, folder.best, folder.summaries, folder.evaluation):
        shutil.rmtree(path, ignore_errors=True)
    for file in (folder.finished, folder.flags, *(folder.root / name for name in RECORDS)):
        file.unlink(missing_ok=True)
