"""What a call takes, alone."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def within(seconds: float, clock: Callable[[], float] = time.thread_time) -> Iterator[None]:
    """Fails where the block takes longer on ``clock``, by default the CPU time of this thread.

    Garbage is not collected inside: after hundreds of tests, that goes through their models for seconds.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        began = clock()
        yield
        took = clock() - began
    finally:
        if collects:
            gc.enable()
    assert took < seconds
