"""How a command ends when it is asked to: by SIGINT, SIGTERM, SIGHUP, or a standard output that closes.

The exit code is the shell's, 128 + the signal's number: 130, 143, 129, and 141 (SIGPIPE) for the output.
Under ``ending`` the request ends the command where it is, as Ctrl-C does; under ``asking`` it is only noted,
for work that wants to save first. Needs no TensorFlow, so that it holds while that is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What writing to a pipe without a reader, or to a terminal that is gone, raises.
_CLOSED = (errno.EPIPE, errno.EIO)


class Stopped(KeyboardInterrupt):
    """A signal ends the command; like Ctrl-C, nobody who catches Exception catches it."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


@dataclasses.dataclass
class StopRequest:
    """Who asked for a stop: a signal's name; "" as long as nobody did."""

    name: str = ""


def exit_code(name: str) -> int:
    """The exit code of a command that a signal of this name ended."""
    return 128 + signal.Signals[name]


# The signal that ``ending`` raised for: imports written in C may lose the exception or make another of it.
_raised = StopRequest()


@contextlib.contextmanager
def ending() -> Iterator[StopRequest]:
    """While active, each of the signals raises ``Stopped``; the first is noted in what is given."""
    global _raised
    request = _raised = StopRequest()

    def handle(number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        request.name = request.name or name
        raise Stopped(name)

    try:
        with handled(handle):
            yield request
    finally:
        _raised = StopRequest()


@contextlib.contextmanager
def asking() -> Iterator[StopRequest]:
    """While active, the signals and a closed standard output only ask for a stop.

    A second Ctrl-C ends the work as under ``ending``, and a third one kills the process, in case Python was
    where the exception is lost (a destructor) or waits where none is raised.
    """
    request = StopRequest(_raised.name)

    def handle(number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        if request.name and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            raise Stopped(name)
        request.name = request.name or name

    output, sys.stdout = sys.stdout, _Output(sys.stdout, request)
    try:
        with handled(handle):
            yield request
    finally:
        sys.stdout = output


def dying() -> contextlib.AbstractContextManager[None]:
    """While active, the signals kill the process, for calls that hold Python's lock: no handler runs then."""
    return handled(signal.SIG_DFL)


@contextlib.contextmanager
def handled(handle: Callable[[int, object], None] | signal.Handlers) -> Iterator[None]:
    """While active, the signals are ``handle``'s."""
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to that one alone
        yield
        return
    previous = {}
    for number in SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup: the command is to outlive its terminal
        previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


class _Output:
    """Standard output that asks for a stop once it is closed, and swallows what cannot be written."""

    def __init__(self, stream, request: StopRequest):
        self._stream, self._request = stream, request

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable, *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:  # a full disk loses lines of the log, nothing else
            if error.errno in _CLOSED:
                self._request.name = self._request.name or "SIGPIPE"
                discard_output(self._stream)


def discard_output(stream) -> None:
    """Sends what is still to be written to ``stream`` nowhere; else Python fails at its exit as well."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
