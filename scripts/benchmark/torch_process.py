"""PyTorch in a process of its own: libraries of the two frameworks crash each other in one.

What the modules ``benchmark.torch_*`` define is made and called there (``benchmark.torch_worker``); networks
go there as ``benchmark.snapshots``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

from benchmark import torch_worker
from benchmark.options import Options, has_gpu, has_torch
from benchmark.timing import Elsewhere
from fgfi_tf.errors import UserError


class TorchProcess:
    """The process. Every request raises UserError if it fails there or the process ends.

    Args:
        threads: of PyTorch; 0: as it chooses.
        gpu: whether it may use one.
    """

    def __init__(self, threads: int = 0, gpu: bool = False):
        context = multiprocessing.get_context("spawn")  # a fork would have TensorFlow in it
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=torch_worker.serve, args=(theirs, threads, gpu))
        self._process.start()
        theirs.close()

    def make(self, kind: str, *args, **kwargs) -> TorchObject:
        """An object there; ``kind`` is a class, such as ``"torch_shuffledet.TorchImitationStep"``."""
        return TorchObject(self, *self.request("make", kind, args, kwargs))

    def request(self, *message) -> tuple:
        """Sends a request and waits for the answer."""
        try:
            self._connection.send(message)
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise UserError(f"the process of PyTorch ended {how}; --notorch measures without it") from None
        if isinstance(answer, str):
            raise UserError(f"PyTorch's side failed: {answer}")
        return answer

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._connection.close()
        self._process.terminate()
        self._process.join()


class TorchObject:
    """An object in the process of PyTorch."""

    def __init__(self, process: TorchProcess, number: int):
        self._process, self._number = process, number

    def call(self, method: str, *args) -> Any:
        """What the method returns, products exact (see ``workload.exact_products``)."""
        return self._process.request("call", self._number, method, args)[0]

    def contender(self, method: str, *args) -> Elsewhere:
        """For ``timing.alternate``."""
        return Elsewhere(
            lambda: self.call(method, *args),
            lambda: self._process.request("time", self._number, method, args),
        )


@contextlib.contextmanager
def started(options: Options) -> Iterator[TorchProcess | None]:
    """The process while the context lasts; None where PyTorch takes no part."""
    if not has_torch(options):
        yield None
        return
    process = TorchProcess(options.threads, has_gpu())
    try:
        yield process
    finally:
        process.close()
