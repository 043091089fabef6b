"""What every script shares: one clear line for a user's mistake, exit code 1, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from fgfi_tf.errors import UserError


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Calls ``main(argv)`` and ends the process with its exit code (None: 0).

    A :class:`UserError` is printed as one line, ``<script>: error: <message>``, with exit code 1;
    Ctrl-C ends with 130, as the shell's convention is.
    """
    argv = list(sys.argv if argv is None else argv)
    try:
        code = main(argv)
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"{argv[0].rsplit('/', 1)[-1]}: error: {message}", file=sys.stderr, flush=True)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        code = 130
    sys.exit(code or 0)
