"""The one exception for what a user can cause and mend, and the one line of everybody else's."""

from __future__ import annotations


class UserError(ValueError):
    """A wrong input, flag or file. The message is one line that names it and says what to do.

    Scripts print the message without a traceback and exit with 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    lines = str(getattr(error, "message", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
