"""``UserError``, raised for mistakes that a user can mend, and one-line texts of other exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

#: A message names at most this many wrong files.
MOST_PROBLEMS = 20


class UserError(ValueError):
    """A wrong input, flag or file. The message is one line that names it and says what to do.

    Scripts print the message without a traceback and exit with 1.
    """


class UserErrors(UserError):
    """Several wrong files: a heading, and a line for each of them."""


class Problems:
    """Collects what is wrong with several files, so that a user sees all of it and not the first only."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Keeps a problem. Raises ``UserErrors`` with all of them once there are ``MOST_PROBLEMS``."""
        self._lines += line.splitlines()
        if len(self._lines) >= MOST_PROBLEMS:
            raise UserErrors("\n".join([f"{MOST_PROBLEMS} problems, there may be more:", *self._lines]))

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Keeps a ``UserError`` raised inside as a problem; see :meth:`add`."""
        try:
            yield
        except UserError as error:
            problem = str(error)
        else:
            return
        self.add(problem)

    def raise_any(self) -> None:
        """Raises ``UserError`` where something was kept, ``UserErrors`` where that is more than one."""
        if len(self._lines) > 1:
            raise UserErrors("\n".join([f"{len(self._lines)} problems:", *self._lines]))
        if self._lines:
            raise UserError(self._lines[0])


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    lines = str(getattr(error, "message", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
