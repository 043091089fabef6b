"""Paths as a user writes them."""

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
