"""The teacher of a run: which detector its checkpoint is of, and what is known of it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.models import registry
from fgfi_tf.models.loading import read_metadata
from fgfi_tf.models.metadata import MODEL_FILE
from fgfi_tf.paths import replace_text
from fgfi_tf.training import flags
from fgfi_tf.training.checkpoints import FOLDER, find_checkpoint, list_checkpoints, step_of
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.evaluator import ResultLog
from fgfi_tf.training.run_folder import TEACHER_FILE, RunFolder
from fgfi_tf.training.validation import check_inputs


def resolve(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with ``teacher_model`` filled in, where the checkpoint has to say it.

    Raises:
        UserError: it does not; or the teacher's network does not take the student's images.
    """
    if not config.imitation:
        return config
    if not config.teacher_model:
        config = dataclasses.replace(config, teacher_model=_model_of_checkpoint(config))
    resize = config.resize or registry.declaration(config.model).resize
    role = f"the teacher {config.teacher_model}, which sees the student's images"
    check_inputs(config.teacher_model, resize, config.size, role)
    return config


def _model_of_checkpoint(config: ExperimentConfig) -> str:
    prefix = find_checkpoint(config.teacher_checkpoint)
    metadata = read_metadata(prefix)
    if metadata is None:
        usual = registry.declaration(config.model).teacher
        raise UserError(
            f"--teacher_model is missing: {prefix} does not say which detector it is of"
            + (f" (the published teacher of {config.model} is {usual})" if usual else "")
        )
    return metadata.model


def hash_files(config: ExperimentConfig, text: str = "") -> Any:
    """A SHA-256 of ``hashlib``, of a text and of the files of the teacher's checkpoint."""
    found, prefix = hashlib.sha256(text.encode()), find_checkpoint(config.teacher_checkpoint)
    for path in sorted({prefix, *prefix.parent.glob(f"{prefix.name}.*"), prefix.parent / MODEL_FILE}):
        if path.is_file():
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found


def change(config: ExperimentConfig, root: Path) -> str:
    """A line where a run goes on with another teacher than it began with, "" where it is the same.

    A run folder stands for its newest checkpoint, which may be another one by then. What the run began with
    is noted in its folder; a run without a checkpoint has not begun.
    """
    path, now = root / TEACHER_FILE, hash_files(config).hexdigest()[:12]
    if path.is_file() and list_checkpoints(root / FOLDER):
        before, *_ = path.read_text(errors="replace").split() or [""]
        if before == now:
            return ""
        return (
            f"the teacher is not the one that this run began with ({path.name}): "
            f"{find_checkpoint(config.teacher_checkpoint)} is another checkpoint, or was trained anew"
        )
    replace_text(path, f"{now} {find_checkpoint(config.teacher_checkpoint)}\n")
    return ""


def describe(config: ExperimentConfig) -> str:
    """A line on the teacher: its model, data, checkpoint, and its AP where its own run has measured it."""
    prefix = find_checkpoint(config.teacher_checkpoint)
    metadata = read_metadata(prefix)
    trained = ""
    if metadata is not None:
        size = "x".join(map(str, metadata.input_size))
        trained = f", trained on {metadata.dataset or 'unknown data'} at {size}"
    try:
        known = _precision(prefix)
    except ValueError as error:  # files that somebody has edited; UserError is one
        known = f"its AP cannot be read: {first_line(error)}"
    return f"teacher: {config.teacher_model}{trained}, {prefix}; {known}"


def _precision(prefix: Path) -> str:
    """What the run that made a checkpoint knows of its AP."""
    folder = RunFolder(prefix.parent.parent)  # RUN/checkpoints/ckpt-7 or RUN/best/ckpt-7
    results = ResultLog(folder).results() if folder.flags.is_file() else {}
    if not results:
        return "its AP is not known (evaluate.py --watch and --evaluate_every note it in its run folder)"
    ranking = next(iter(next(iter(results.values()))))
    step = step_of(prefix)
    if ranking not in results.get(step, {}):  # results of another protocol may stand beside
        step = max(results, key=lambda s: results[s].get(ranking, 0.0))
    split = flags.read_flagfile(folder.flags).val_split
    other = "" if step == step_of(prefix) else f" at step {step}"
    return f"{ranking} {100 * results[step][ranking]:.1f} on {split}{other}"
