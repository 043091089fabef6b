"""The one exception for what a user can cause and mend."""

from __future__ import annotations


class UserError(ValueError):
    """A wrong input, flag or file. The message is one line that names it and says what to do.

    Scripts print the message without a traceback and exit with 1.
    """
