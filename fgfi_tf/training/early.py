"""What is missing for a run, told before TensorFlow is imported, which takes seconds."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.validation import validate_values

CHECKPOINTS = ("ckpt-*.index", "checkpoints/ckpt-*.index")
TRAIN_FIRST = "python scripts/train.py --output_dir=RUN makes one, to be given as --checkpoint=RUN"


def check_start(config: ExperimentConfig) -> None:
    """Raises UserError for flags that cannot work, and for data or checkpoints that are not there."""
    validate_values(config)
    if not config.data_dir:
        raise UserError(f"--data_dir is missing: the folder of the raw {config.dataset} data")
    if not Path(config.data_dir).expanduser().is_dir():
        raise UserError(
            f"--data_dir={config.data_dir}: no such folder; it is to hold the raw {config.dataset} data"
        )
    check_files(config)


def check_files(config: ExperimentConfig) -> None:
    """Raises UserError, naming the flag and what makes the file, for a checkpoint that is not there."""
    if config.unlabelled_dir and not Path(config.unlabelled_dir).expanduser().is_dir():
        raise UserError(f"--unlabelled_dir={config.unlabelled_dir}: no such folder; it is to hold pictures")
    if config.imitation:
        check_checkpoint(
            "teacher_checkpoint",
            config.teacher_checkpoint,
            f"train the teacher first: {teacher_command(config)}",
        )
    # A run that goes on has its own weights.
    begins = config.overwrite or not any(Path(config.output_dir).glob(CHECKPOINTS[1]))
    if begins and config.init_checkpoint and not registry.is_pretrained(config.model, config.init_checkpoint):
        check_checkpoint(
            "init_checkpoint",
            config.init_checkpoint,
            "README says which published weights it reads; without the flag training starts from scratch",
        )


def check_checkpoint(flag: str, path: str, remedy: str = TRAIN_FIRST) -> None:
    """Raises UserError where there is neither a checkpoint, a folder that holds one, nor a weight file."""
    place = Path(path)
    if place.is_dir():
        if not any(any(place.glob(pattern)) for pattern in CHECKPOINTS):
            raise UserError(f"--{flag}: no checkpoint in {path}: it holds no ckpt-*.index; {remedy}")
    elif not (place.is_file() or place.with_name(place.name + ".index").is_file()):
        raise UserError(f"--{flag}: no checkpoint at {path}; {remedy}")


def teacher_command(config: ExperimentConfig) -> str:
    """The command that trains the teacher an experiment names, by a shipped recipe where there is one."""
    place = Path(config.teacher_checkpoint)
    recipe = Path("configs", *place.parts[1:-1], f"{place.name}.cfg")
    if place.parts[:1] == ("runs",) and recipe.is_file():
        return _command(f"--flagfile={recipe}", f"--data_dir={config.data_dir or 'DATA'}")
    model = config.teacher_model or registry.declaration(config.model).teacher or config.model
    names = ("extensions", "dataset", "train_split", "val_split", "input_size")
    defaults = dataclasses.asdict(ExperimentConfig.of(model=model))
    given = [f"--{name}={getattr(config, name)}" for name in names if getattr(config, name) != defaults[name]]
    folder = "RUN" if place.suffix in (".pth", ".pt", ".h5") else config.teacher_checkpoint
    return _command(
        f"--model={model}", f"--data_dir={config.data_dir or 'DATA'}", *given, f"--output_dir={folder}"
    )


def _command(*arguments: str) -> str:
    return shlex.join(["python", "scripts/train.py", *arguments])
