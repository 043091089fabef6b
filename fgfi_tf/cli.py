"""What every script shares: one clear line for a user's mistake, exit code 1, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence

from fgfi_tf import stopping
from fgfi_tf.errors import UserError, UserErrors

LINE_FORMAT = "%(levelname)s: %(message)s"
# Of these Python does not tell the file.
_FULL = (errno.ENOSPC, errno.EDQUOT)
SLOW_CALLBACK = "is slow compared to the batch time"


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Calls ``main(argv)`` and ends the process with its exit code (None: 0).

    A :class:`UserError`, or a file that cannot be read or written (OSError), is printed as one line,
    ``<script>: error: <message>``, with exit code 1, and a line for each further wrong file where it names
    several; Ctrl-C ends with 130, SIGTERM with 143, SIGHUP with 129, and a closed standard output with 141,
    as the shell's convention is.
    """
    logging.basicConfig(format=LINE_FORMAT)
    _open_streams()
    sys.exit(_exit_code(main, list(sys.argv if argv is None else argv)))


def _open_streams() -> None:
    """Gives a process that was started with closed streams (``>&-``) the null device in their places.

    Python leaves None there, and the next files to be opened would be what native code prints into.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # as long as the process


def _exit_code(main: Callable[[Sequence[str]], int | None], argv: list[str]) -> int:
    signalled = stopping.StopRequest()
    try:
        with stopping.ending() as signalled:
            code = main(argv)
            sys.stdout.flush()
            return code or 0
    except KeyboardInterrupt:
        signalled.name = signalled.name or "SIGINT"
    except BrokenPipeError:
        stopping.discard_output(sys.stdout)
        return stopping.exit_code("SIGPIPE")
    except Exception as error:
        if not signalled.name:
            message = _message(error)
            if not message:
                raise
            _say(f"{argv[0].rsplit('/', 1)[-1]}: error: {message}")
            return 1
    _say("interrupted" if signalled.name == "SIGINT" else f"ended by {signalled.name}")
    return stopping.exit_code(signalled.name)


def _message(error: Exception) -> str:
    """What a user is told of an error, a line; "" of a fault of ours, which is to leave a traceback."""
    text = ""
    if isinstance(error, OSError) and (error.filename or error.errno in _FULL):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    elif isinstance(error, UserError):
        text = str(error)
    lines = text.splitlines() if isinstance(error, UserErrors) else [text]
    return "\n  ".join(" ".join(line.split()) for line in lines)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(line, file=sys.stderr, flush=True)


def start_tensorflow() -> None:
    """Imports TensorFlow without the lines its native code prints about missing GPUs and oneDNN.

    No log level silences them; where the import fails they are printed after all. Warnings become lines like
    ``WARNING: text``, printed once, and Keras does not tell that saving takes longer than a step.
    """
    logging.basicConfig(format=LINE_FORMAT)  # before TensorFlow adds a handler of its own
    logging.getLogger("tensorflow").addFilter(lambda record: SLOW_CALLBACK not in record.getMessage())
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except Exception:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
