"""Flagfiles: arguments of a command line in files, which may name further files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.paths import user_path

# What the flagfiles of a command may amount to; a run has some 60 flags.
_MAX_FILES, _MAX_ARGUMENTS = 100, 10_000
# Three dashes are no flag's.
_FLAG = re.compile(r"(?:--?(?!-)([^=]*))?")
#: Characters of a name or an argument that an error shows, and of absl's own messages.
SHOWN, SHOWN_MESSAGE = 60, 300


class Argument(str):
    """An argument of a command line; ``files`` are those it stands in, the innermost last."""

    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Of the flag, behind one dash or two, with the ``no`` of one that is switched off; else ""."""
        return _FLAG.match(self)[1] or ""


def expand_flagfiles(arguments: Sequence[str]) -> list[Argument]:
    """Each ``--flagfile=FILE`` replaced by the lines of that file, which may name further files.

    A file named in a file is looked for beside it first (absl's own reading knows the working
    directory alone). ``#`` starts a comment line. Raises UserError for a file that cannot be read
    or that names itself, and for files that amount to more than any run has flags.
    """
    expanded: list[Argument] = []
    pending = [(argument, Path(), ()) for argument in reversed(arguments)]
    files = 0
    while pending:
        argument, folder, within = pending.pop()
        match = re.fullmatch(r"--?flagfile=(.*)", argument, re.DOTALL)
        if not match:
            expanded.append(Argument(argument))
            expanded[-1].files = within
            continue
        path, lines = _read_lines(match.group(1).strip(), folder)
        files += 1
        if path.resolve() in [file.resolve() for file in within]:
            raise UserError(f"--flagfile={path} names itself")
        if files > _MAX_FILES or len(lines) + len(pending) + len(expanded) > _MAX_ARGUMENTS:
            raise UserError(
                f"--flagfile={(*within, path)[0]} amounts to more than {_MAX_FILES} files or "
                f"{_MAX_ARGUMENTS} flags: is it a flagfile?"
            )
        inside = (*within, path)
        pending += [(line, path.parent, inside) for line in reversed(lines)]
    return expanded


def _read_lines(name: str, folder: Path) -> tuple[Path, list[str]]:
    """(path, lines that are no comments) of a flagfile named in another of ``folder``."""
    try:
        path = user_path(name)
        path = folder / path if (folder / path).is_file() else path
        # utf-8-sig: editors on Windows begin a file with a byte order mark
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:  # a name with NUL, a file that is no text, no such user
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--flagfile={shortened(name, SHOWN_MESSAGE)}: cannot read it: {reason}") from error
    return path, [line for line in lines if line and not line.startswith("#")]


def shortened(text: str, length: int = SHOWN) -> str:
    """A text cut to a length, for messages."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
