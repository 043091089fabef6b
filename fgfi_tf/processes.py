"""Commands that are waited for, whatever signal comes: what a training saves when it is stopped is kept.

And how many cores there are.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence

from fgfi_tf.stopping import SIGNALS, handled

#: Exit codes of a command that one of them stopped.
STOPPED = frozenset(128 + number for number in SIGNALS)


class Commands:
    """Commands that run at the same time; each gets every signal for this process, and is waited for.

    Each stands in a session of its own: Ctrl-C reaches it once, from here, and nothing kills it while it
    saves.

    Attributes:
        asked: numbers of the signals that came.
    """

    def __init__(self):
        self.asked: list[int] = []
        self._children: dict[str, subprocess.Popen] = {}
        self._events: queue.SimpleQueue[tuple[str, str | int]] = queue.SimpleQueue()

    @contextlib.contextmanager
    def listening(self) -> Iterator[Commands]:
        """While active, a signal is passed on to all that run; no command runs outside.

        An exception stops all that run, by SIGTERM, and waits for them.
        """
        with handled(self._pass_on):
            try:
                yield self
            except BaseException:
                self.stop(signal.SIGTERM)
                for child in list(self._children.values()):
                    child.wait()
                raise

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Starts a command whose lines, on either stream, and exit code are among the ``events``.

        ``environment``: variables that it has besides those of this process.
        """
        child = self._open(
            name,
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",  # native libraries write what they like
            env={**os.environ, **(environment or {})},
        )
        threading.Thread(target=self._read, args=(name, child), daemon=True).start()

    def show(self, command: Sequence[str]) -> int:
        """The exit code of a command that prints for itself."""
        return self._open("", command).wait()

    def events(self) -> Iterator[tuple[str, str | int]]:
        """(name, line) and at a command's end (name, exit code), as they come, until no command runs."""
        while self._children:
            name, what = self._events.get()
            if isinstance(what, int):
                del self._children[name]
            yield name, what

    def stop(self, number: int) -> None:
        """Sends a signal to all that run."""
        for child in list(self._children.values()):
            if child.poll() is None:
                child.send_signal(number)

    def _open(self, name: str, command: Sequence[str], **options: object) -> subprocess.Popen:
        child = self._children[name] = subprocess.Popen(command, start_new_session=True, **options)
        for number in self.asked:  # what came before there was this child
            child.send_signal(number)
        return child

    def _read(self, name: str, child: subprocess.Popen) -> None:
        try:
            with child.stdout as lines:
                for line in lines:
                    self._events.put((name, line))
        finally:
            self._events.put((name, child.wait()))

    def _pass_on(self, number: int, _frame: object) -> None:
        self.asked.append(number)
        self.stop(number)
        if len(self.asked) == 1 and self._children:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("\nstopping as soon as the step has saved what it has", flush=True)


def run_and_wait(command: Sequence[str]) -> int:
    """The exit code of a command that gets every signal for this process, and is waited for.

    It is 128 + the signal's number where one came.
    """
    with Commands().listening() as commands:
        code = commands.show(command)
    return 128 + commands.asked[0] if commands.asked else code


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
