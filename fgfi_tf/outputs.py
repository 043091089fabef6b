"""Files that a command writes for its user: never over a file that was there before, unless told."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fgfi_tf.errors import UserError


class OutputFolder:
    """The files that one command writes into one folder.

    Args:
        folder: made where it is not there, with the folders inside it that names ask for.
        flag: the flag that named it, for messages.
        overwrite: replace files that are there; inputs of the command are kept even so.
    """

    def __init__(self, folder: str | os.PathLike[str], flag: str, overwrite: bool = False):
        self.folder = Path(folder)
        self._flag, self._overwrite = flag, overwrite
        self._begun: set[str] = set()

    def check(self, names: Iterable[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
        """Before the work is done: raises UserError where files of these names may not be written.

        One is there already, or is one of ``inputs``, which are never replaced (links are followed); or the
        folder is one that this user may not write to.
        """
        if os.path.lexists(self.folder) and not self.folder.exists():
            raise UserError(f"--{self._flag}={self.folder} is a link to what is not there")
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UserError(f"--{self._flag}={self.folder}: {there} is a file, not a folder")
        if not os.access(there, os.W_OK):
            raise UserError(f"--{self._flag}={self.folder}: {there} cannot be written to by this user")
        taken = [name for name in names if os.path.lexists(self.folder / name)]
        kept = {_identity(path) for path in inputs} if taken else set()
        for name in taken:
            if _identity(self.folder / name) in kept:
                raise UserError(
                    f"--{self._flag}={self.folder}: {name} is an input and would be overwritten; "
                    "name another folder"
                )
        if taken and not self._overwrite:
            others = f" and {len(taken) - 1} more files are" if len(taken) > 1 else " is"
            raise UserError(
                f"--{self._flag}={self.folder}: {taken[0]}{others} there already; name another folder, "
                "or --overwrite writes over what is there"
            )

    def append(self, name: str, content: bytes) -> None:
        """Adds to a file; the first time it is made, which fails where there is one, unless told.

        A file that is replaced is a new one: what links to the old one keeps its content.

        Raises UserError: it cannot be written.
        """
        path = self.folder / name
        begins = name not in self._begun
        try:
            if begins:
                path.parent.mkdir(parents=True, exist_ok=True)
                if self._overwrite:
                    path.unlink(missing_ok=True)
            with open(path, "xb" if begins else "ab") as file:
                file.write(content)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise UserError(f"{path}: cannot be written: {getattr(error, 'strerror', error)}") from error
        self._begun.add(name)

    def append_all(self, files: dict[str, str]) -> None:
        """:meth:`append` of texts by name, in UTF-8."""
        for name, text in files.items():
            self.append(name, text.encode())


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino
