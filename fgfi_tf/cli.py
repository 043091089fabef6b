"""What every script shares: one clear line for a user's mistake, exit code 1, never a traceback."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence

from fgfi_tf.errors import UserError, UserErrors

LINE_FORMAT = "%(levelname)s: %(message)s"
SLOW_CALLBACK = "is slow compared to the batch time"


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Calls ``main(argv)`` and ends the process with its exit code (None: 0).

    A :class:`UserError` is printed as one line, ``<script>: error: <message>``, with exit code 1, and one for
    each further wrong file where it names several;
    Ctrl-C ends with 130, as the shell's convention is.
    """
    logging.basicConfig(format=LINE_FORMAT)
    argv = list(sys.argv if argv is None else argv)
    try:
        code = main(argv)
    except UserError as error:
        lines = str(error).splitlines() if isinstance(error, UserErrors) else [str(error)]
        message = "\n  ".join(" ".join(line.split()) for line in lines)
        print(f"{argv[0].rsplit('/', 1)[-1]}: error: {message}", file=sys.stderr, flush=True)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        code = 130
    sys.exit(code or 0)


def start_tensorflow() -> None:
    """Imports TensorFlow without the lines its native code prints about missing GPUs and oneDNN.

    They say nothing a user can act on, and no log level silences them. Where the import fails they
    are printed after all. Warnings, ours and TensorFlow's, become lines like ``WARNING: text``, printed once,
    and Keras does not tell that saving takes longer than a step.
    """
    logging.basicConfig(format=LINE_FORMAT)  # before TensorFlow adds a handler of its own
    logging.getLogger("tensorflow").addFilter(lambda record: SLOW_CALLBACK not in record.getMessage())
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
