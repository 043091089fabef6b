"""Which form an operation takes where CPUs and GPUs compute different ones faster."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

_portable: contextvars.ContextVar[bool] = contextvars.ContextVar("portable", default=False)


def prefers_gpu_form() -> bool:
    """Whether this machine has a GPU, and what is built or traced now stays on this machine."""
    return not _portable.get() and bool(tf.config.list_physical_devices("GPU"))


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """While a graph for other machines is built and traced: it is the same wherever that is.

    It takes the form for CPUs. GPUs compute it as well, and have more speed to spare.
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)
