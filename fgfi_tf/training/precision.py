"""Keras's global dtype policy, for as long as something is built or traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tf_keras as keras

from fgfi_tf.devices import computes_bfloat16


def computed_in(name: str) -> str:
    """``float32``, ``float16`` or ``bfloat16``, for a value of ``--mixed_precision`` on this machine."""
    if name == "auto":
        name = "bfloat16" if computes_bfloat16() else "none"
    return "float32" if name == "none" else name


def warning(name: str) -> str:
    """A line where a value of ``--mixed_precision`` slows training on this machine, else ""."""
    if name != "bfloat16" or computes_bfloat16():
        return ""
    return (
        "this machine emulates bfloat16, which is slower than float32: --mixed_precision=auto takes bfloat16 "
        "only where it is faster"
    )


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """``name``: a value of ``--mixed_precision``."""
    before, kind = keras.mixed_precision.global_policy(), computed_in(name)
    keras.mixed_precision.set_global_policy(kind if kind == "float32" else f"mixed_{kind}")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
