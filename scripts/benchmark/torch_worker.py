"""What runs in the process of PyTorch: answers the requests of ``benchmark.torch_process``, one by one."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from fgfi_tf.errors import first_line


def serve(connection: Connection, threads: int, gpu: bool) -> None:
    """Answers until the other side closes the connection: a tuple, or a string that says what failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the other process, which ends this one
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if threads:
        torch.set_num_threads(threads)
    objects: list[Any] = []
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            answer = _answer(objects, *request)
        except Exception as error:  # whatever it is, the other side has to know
            traceback.print_exc()
            answer = f"{type(error).__name__}: {first_line(error)}"
        connection.send(answer)


def _answer(objects: list[Any], what: str, *details) -> tuple:
    import torch

    if what == "about":
        return (f"{torch.__version__}, {torch.get_num_threads()} threads",)
    if what == "make":
        kind, args, kwargs = details
        module, name = kind.split(".")
        objects.append(getattr(importlib.import_module(f"benchmark.{module}"), name)(*args, **kwargs))
        return (len(objects) - 1,)
    number, method, args = details
    function = getattr(objects[number], method)
    if what == "call":
        with _exact_products():
            return (function(*args),)
    start, cpu_start = time.perf_counter(), time.process_time()
    value = function(*args)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return value if isinstance(value, float) else None, seconds, cpu_seconds


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    import torch

    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
