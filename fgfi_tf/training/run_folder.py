"""The folder of a run: its flags, checkpoints and summaries; never mixed with another run's."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.models.metadata import MODEL_FILE
from fgfi_tf.paths import folder_locked
from fgfi_tf.training import checkpoints, flags
from fgfi_tf.training.config import RESUMABLE, ExperimentConfig
from fgfi_tf.training.data_state import DATA_FILE, UNLABELLED_FILE
from fgfi_tf.training.run_log import LOG_FILE, METRICS_FILE
from fgfi_tf.training.schedules import check_schedule

FLAGS_FILE = "flags.cfg"
FINISHED_FILE = "finished"
BEST_FOLDER = "best"
SUMMARY_FOLDER = "tensorboard"
EVALUATION_FOLDER = "evaluation"
RESULTS_FILE = "results.json"
TEACHER_FILE = "teacher.txt"
RECORDS = (LOG_FILE, METRICS_FILE, DATA_FILE, UNLABELLED_FILE, TEACHER_FILE)


class RunFolder:
    """Paths of a run.

    Attributes:
        root: its folder.
        flags: the resolved flags, a flag file.
        checkpoints, best: folders of the checkpoints, and of the best one so far.
        summaries: folder of the TensorBoard files.
        evaluation, results: folder of the evaluations' results, and their metrics by step in it, JSON.
        finished: a file that exists once training has reached its last step.
    """

    def __init__(self, root: Path):
        self.root = root
        self.flags, self.finished = root / FLAGS_FILE, root / FINISHED_FILE
        self.checkpoints, self.best = root / checkpoints.FOLDER, root / BEST_FOLDER
        self.summaries, self.evaluation = root / SUMMARY_FOLDER, root / EVALUATION_FOLDER
        self.results = self.evaluation / RESULTS_FILE

    def check_there(self) -> None:
        """Raises UserError where the folder is gone, in which a run then must not go on writing."""
        if not self.flags.is_file():
            raise UserError(
                f"{self.root} is gone, or its {FLAGS_FILE}: the run folder was deleted or moved while it "
                "trained, and nothing can be saved there"
            )


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """While it lasts, no other process trains in the folder, which is made where it is missing.

    Raises UserError where another one trains in it. What else is wrong with a folder ``open_run`` says.
    """
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder_locked(root, wait=False))
        except BlockingIOError:
            raise UserError(
                f"--output_dir={root}: another training is at work there: wait until it ends, or choose "
                "another folder"
            ) from None
        yield


def open_run(config: ExperimentConfig, *, writes: bool = True, only_looks: bool = False) -> RunFolder:
    """Opens the run folder of an experiment: a new one, or the same run's to go on with.

    Args:
        config: the experiment; its ``output_dir`` is the folder.
        writes: False for the workers that own no files: they only compare the flags.
        only_looks: whether nothing is written or deleted yet.

    Raises:
        UserError: the folder holds another run, what is left of one, or something else, and nothing is
            touched; or it cannot be written. ``overwrite`` deletes what a run has written there, only that.
    """
    folder = RunFolder(Path(config.output_dir))
    try:
        if not _is_new(folder, writes) and not config.overwrite:
            _check_same(folder, config, writes)
        if config.overwrite:
            _check_inputs(folder, config)
        if not writes or only_looks:
            return folder
        folder.root.mkdir(parents=True, exist_ok=True)
        if config.overwrite:
            _clear(folder)
        _remove_litter(folder)
        scratch = folder.flags.with_suffix(checkpoints.SCRATCH)  # who watches must not read half a file
        scratch.write_text(
            flags.to_flagfile(dataclasses.replace(config, overwrite=False, allow_changed_data=False))
        )
        scratch.replace(folder.flags)
        folder.finished.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={folder.root} cannot be written: {error.strerror}") from error
    return folder


def _is_new(folder: RunFolder, writes: bool) -> bool:
    """Whether the folder holds no run yet. Raises UserError where it holds something else."""
    if folder.root.exists() and not folder.root.is_dir():
        raise UserError(f"--output_dir={folder.root} is a file: choose a folder")
    if folder.flags.is_file():
        with folder.flags.open(errors="replace") as file:
            if file.readline(len(flags.HEADER) + 1).rstrip("\n") == flags.HEADER:
                return False
    # A first start may have been killed between writing the flags and giving them their name.
    litter = folder.flags.with_suffix(checkpoints.SCRATCH)
    if writes and folder.root.exists() and any(path != litter for path in folder.root.iterdir()):
        raise UserError(f"--output_dir={folder.root} is not empty and holds no run: choose another folder")
    return True


def _check_same(folder: RunFolder, config: ExperimentConfig, writes: bool) -> None:
    """Raises UserError where the folder is another run's, or this one's without its checkpoints.

    Flags alone are no loss: a run that never came to a step, for a wrong flag perhaps, may start differently.
    """
    made = [path.relative_to(folder.root) for path in _written(folder) if path not in _described(folder)]
    if not made:
        return
    _compare(folder, config)
    started = [path for path in made if path.parts[0] in (BEST_FOLDER, EVALUATION_FOLDER, FINISHED_FILE)]
    if writes and started and not checkpoints.list_checkpoints(folder.checkpoints):
        raise UserError(
            f"--output_dir={folder.root} holds {started[0]} of a run whose {checkpoints.FOLDER}/ is empty: "
            "put the checkpoints back, choose another folder, or pass --overwrite to delete it and start anew"
        )


def _described(folder: RunFolder) -> tuple[Path, ...]:
    """What every start writes, before it has computed anything."""
    said = (folder.root / name for name in (LOG_FILE, DATA_FILE, TEACHER_FILE))
    return folder.flags, folder.flags.with_suffix(checkpoints.SCRATCH), folder.checkpoints / MODEL_FILE, *said


def _compare(folder: RunFolder, config: ExperimentConfig) -> None:
    there = flags.read_flagfile(folder.flags, config.extensions)
    was, now = there.values(), config.values()
    differing = [
        name
        for name in was
        if name not in RESUMABLE
        and was[name] != now.get(name, was[name])
        and not (name in _FILES and _may_be_same(was[name], now[name]))
    ]
    if differing:
        listed = ", ".join(f"--{name}={was[name]}" for name in differing)
        raise UserError(
            f"--output_dir={folder.root} already holds another run, started with {listed}: choose another "
            "folder, give the same flags to go on with it, or pass --overwrite to delete it"
        )
    check_schedule(there, config)
    if was["val_split"] != now["val_split"] and folder.results.is_file():
        raise UserError(
            f"--val_split={now['val_split']}: {folder.results} is of {was['val_split']}: give that again, or "
            "move the file away"
        )


# Flags that name what a run starts from.
_FILES = ("teacher_checkpoint", "init_checkpoint")


def _check_inputs(folder: RunFolder, config: ExperimentConfig) -> None:
    """Raises UserError where what a run starts from would be deleted before it is read."""
    for name in _FILES:
        path = getattr(config, name)
        there = path and (Path(path).exists() or Path(f"{path}.index").exists())
        place = Path(path).resolve()
        written = {folder.checkpoints.resolve(), folder.best.resolve()}
        if there and (place == folder.root.resolve() or {place, place.parent} & written):
            raise UserError(
                f"--{name}={path} lies in --output_dir={folder.root}, which --overwrite deletes: "
                "choose another folder"
            )


def _may_be_same(was: str, now: str) -> bool:
    """Whether two texts name one place, or what is gone from one place is, by its name, in the other."""
    if not (was and now):
        return False
    before, after = Path(was).resolve(), Path(now).resolve()
    return before == after or (before.name == after.name and after.exists() and not before.exists())


# What a run writes, by subfolder, as patterns; --overwrite deletes that and nothing else.
_CHECKPOINT = ("ckpt-*.index*", "ckpt-*.data-*", f"{MODEL_FILE}*")
_EVENTS = ("events.out.tfevents.*",)
_WRITTEN = {
    f"{SUMMARY_FOLDER}/train": _EVENTS,
    f"{SUMMARY_FOLDER}/evaluation": _EVENTS,
    SUMMARY_FOLDER: (),
    EVALUATION_FOLDER: (RESULTS_FILE, "results.new"),
    BEST_FOLDER: _CHECKPOINT,
    f"{BEST_FOLDER}.new": _CHECKPOINT,  # by older versions
    checkpoints.FOLDER: (*_CHECKPOINT, "ckpt-*_temp*", f"{checkpoints.WORKER}[0-9]*"),
    "": (*RECORDS, *(Path(name).stem + ".new" for name in RECORDS), FINISHED_FILE, "flags.new", FLAGS_FILE),
}


def _written(folder: RunFolder) -> list[Path]:
    """What the run folder holds of what runs write."""
    return [
        path
        for subfolder, patterns in _WRITTEN.items()
        for pattern in patterns
        for path in sorted((folder.root / subfolder).glob(pattern))
    ]


def _clear(folder: RunFolder) -> None:
    """Deletes what a run has written, the flags last: as long as anything is left, the folder holds a run."""
    for path in _written(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for subfolder in _WRITTEN:
        with contextlib.suppress(OSError):  # not there, or it holds something else
            if subfolder:
                (folder.root / subfolder).rmdir()


def _remove_litter(folder: RunFolder) -> None:
    """Deletes what kills have left; of older versions also ``best.new``, which may be the only best one.

    What belongs to evaluations is left to ``ResultLog.recover``: another process may be at it.
    """
    checkpoints.remove_litter(folder.checkpoints)
    fresh = folder.best.with_name(f"{BEST_FOLDER}.new")
    if not fresh.is_dir():
        return
    if not folder.best.exists() and checkpoints.list_checkpoints(fresh) and (fresh / MODEL_FILE).is_file():
        fresh.rename(folder.best)
        return
    for pattern in _CHECKPOINT:
        for path in fresh.glob(pattern):
            path.unlink()
    with contextlib.suppress(OSError):
        fresh.rmdir()
