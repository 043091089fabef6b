"""Paths as a user writes them, files that are written whole or not at all, and locks on folders."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
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


def is_occupied(path: Path) -> bool:
    """Whether there is a file, or a folder that holds something."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


@contextlib.contextmanager
def folder_locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """While it lasts, no other process is inside with the same folder.

    The folder itself is locked, so that nothing is left in it, and the lock ends with the process, however
    that ends. File systems that lock no folders (NFS) keep nobody out, and neither does a folder that
    cannot be opened: who writes there says so.

    Raises BlockingIOError where another one is inside and this one does not ``wait``.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
