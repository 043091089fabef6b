"""Commands that are waited for, whatever signal comes: what a training saves when it is stopped is kept."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Exit codes of a command that one of them stopped.
STOPPED = frozenset(128 + number for number in SIGNALS)


def run_and_wait(command: Sequence[str], on_line: Callable[[str], None] | None = None) -> int:
    """The exit code of a command that gets every signal for this process, and is waited for.

    It stands in a session of its own: Ctrl-C reaches it once, from here, and nothing kills it while it saves.

    Args:
        command: program and arguments.
        on_line: called with each line that it prints, on either stream; None: it prints for itself.

    Returns:
        Its exit code, or 128 + the signal's number where one came.
    """
    asked: list[int] = []
    child: subprocess.Popen | None = None

    def pass_on(number: int, _frame: object) -> None:
        asked.append(number)
        if child is not None and child.poll() is None:
            if len(asked) == 1:
                print("\nstopping as soon as the step has saved what it has", flush=True)
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} if on_line else {}
        child = subprocess.Popen(command, start_new_session=True, **piped)
        for number in asked:  # what came before there was a child
            child.send_signal(number)
        if on_line:
            with child.stdout as lines:
                for line in lines:
                    on_line(line)
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + asked[0] if asked else code
