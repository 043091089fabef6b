"""Which form an operation takes where CPUs and GPUs compute different ones faster."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

#: Scope of what an int8 graph goes on computing in float32, since 8 bits do not hold what is in between.
FLOAT32_SCOPE = "keep_float32"

_portable: contextvars.ContextVar[bool] = contextvars.ContextVar("portable", default=False)
_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("plain", default=False)
_int8: contextvars.ContextVar[bool] = contextvars.ContextVar("int8", default=False)
_compiled: contextvars.ContextVar[bool] = contextvars.ContextVar("compiled", default=False)


def prefers_gpu_form() -> bool:
    """Whether this machine has a GPU, and what is built or traced now stays on this machine."""
    return not _portable.get() and bool(tf.config.list_physical_devices("GPU"))


def prefers_plain_form() -> bool:
    """Whether one operation is better than several that only TensorFlow's kernels for CPUs gain from."""
    return prefers_gpu_form() or _plain.get()


def prefers_int8_form() -> bool:
    """Whether what is traced now will be computed in int8, which has other slow operations."""
    return _int8.get()


def needs_xla_form() -> bool:
    """Whether XLA compiles what is traced now: it has no form of some of TensorFlow's kernels."""
    return _compiled.get()


def computes_bfloat16() -> bool:
    """Whether this machine computes in bfloat16 faster than in float32.

    GPUs from compute capability 8.0 on do, and CPUs that oneDNN finds AVX512_BF16 or AMX on; it emulates
    bfloat16 on others, at half the speed of float32.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = map(tf.config.experimental.get_device_details, gpus)
        return all(one.get("compute_capability", (0, 0)) >= (8, 0) for one in details)
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_flags())


def _cpu_flags() -> set[str]:
    """Of the instruction set; none where the system does not tell as Linux does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def differentiates_dilated(dtype: tf.DType) -> bool:
    """Whether a dilated convolution has gradients where prefers_gpu_form() says that it will be computed.

    TensorFlow's own kernels for CPUs lack them; oneDNN's have them, which not every build and machine takes.
    """
    return _differentiates_dilated("GPU" if prefers_gpu_form() else "CPU", tf.as_dtype(dtype))


@functools.cache
def _differentiates_dilated(device: str, dtype: tf.DType) -> bool:
    inputs, kernel = [1, 3, 3, 1], [3, 3, 1, 1]
    options = {"strides": [1, 1, 1, 1], "padding": "SAME", "dilations": [1, 2, 2, 1]}
    with tf.init_scope(), tf.device(device):  # which records no gradients: the operations themselves
        x, k, upstream = tf.zeros(inputs, dtype), tf.zeros(kernel, dtype), tf.zeros(inputs, dtype)
        try:
            tf.raw_ops.Conv2DBackpropInput(input_sizes=inputs, filter=k, out_backprop=upstream, **options)
            tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=kernel, out_backprop=upstream, **options)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


@contextlib.contextmanager
def compiled(by_xla: bool = True) -> Iterator[None]:
    """While a graph is traced that XLA compiles, or, where not ``by_xla``, one that it does not."""
    token = _compiled.set(by_xla)
    try:
        yield
    finally:
        _compiled.reset(token)


@contextlib.contextmanager
def portable(plain: bool = False, int8: bool = False) -> Iterator[None]:
    """While a graph for other machines is built and traced: it is the same wherever that is.

    It takes the form for CPUs. GPUs compute it as well, and have more speed to spare. ``plain``: it is for
    other runtimes than TensorFlow's. ``int8``: and will be quantised.
    """
    tokens = _portable.set(True), _plain.set(plain), _int8.set(int8)
    try:
        yield
    finally:
        _portable.reset(tokens[0])
        _plain.reset(tokens[1])
        _int8.reset(tokens[2])
