"""Paths as a user writes them, and files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from fgfi_tf.errors import UserError


def user_path(path: Path | str) -> Path:
    """``path`` with a leading ``~`` or ``~user`` replaced by that user's home folder.

    Raises UserError where there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: no home folder is known for {Path(path).parts[0]}") from error


def replace_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes a file in UTF-8, whole or not at all: with the suffix ``.new`` first. Raises UserError."""
    scratch = path.with_suffix(".new")
    try:
        scratch.write_text(text, encoding="utf-8", errors=errors)
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
