"""Keras's global dtype policy, for as long as something is built or traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tf_keras as keras


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """``name``: ``none`` (float32), ``float16`` or ``bfloat16``, as ``--mixed_precision`` has it."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32" if name == "none" else f"mixed_{name}")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
