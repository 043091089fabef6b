"""The cluster of a run on several machines: what TF_CONFIG says, and TF_CONFIG from Slurm's variables.

    export TF_CONFIG=$(python -m fgfi_tf.training.cluster)

prints it for one task of a Slurm job step. Needs no TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import reprlib
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from fgfi_tf import stopping
from fgfi_tf.errors import UserError
from fgfi_tf.training.flagfiles import shortened

FORM = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
PORT = 12345
# Seconds until the first line about a worker that does not answer, and between further lines.
PATIENCE, PAUSE = 20.0, 60.0
# More tasks than any job step has; what Slurm's variables may ask to list.
MAX_TASKS = 100_000
# Kinds of task that train, in the order in which they share out a batch.
TRAINING = ("chief", "worker")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Addresses by kind of task, and which task this process is."""

    addresses: dict[str, list[str]]
    kind: str
    index: int

    @property
    def workers(self) -> list[tuple[str, int, str]]:
        """(kind, index, address) of every task that trains; the chief is the first."""
        return [(k, i, a) for k in TRAINING for i, a in enumerate(self.addresses.get(k, ()))]

    @property
    def address(self) -> str:
        """This process's own, host:port."""
        return self.addresses[self.kind][self.index]


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster that TF_CONFIG describes; None where it is not set or names one task alone.

    Raises UserError, one line, for what is malformed.
    """
    text = environment.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is not JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict):
        raise _malformed('it has no "cluster"')
    cluster = config["cluster"]
    for kind, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise _malformed(f'"{shortened(kind)}" is no list of host:port')
    workers = [address for kind in TRAINING for address in cluster.get(kind, ())]
    if not workers:
        raise _malformed('the cluster has no "worker"')
    if len(set(workers)) < len(workers):
        twice = next(address for address in workers if workers.count(address) > 1)
        raise _malformed(f"{shortened(twice)} is the address of two workers")
    alone = len(workers) == 1
    if "task" in config or not alone:
        _check_task(config.get("task"), cluster, alone)
    return None if alone else Cluster(cluster, config["task"]["type"], int(config["task"]["index"]))


def _check_task(task: object, cluster: dict[str, list[str]], alone: bool) -> None:
    """Raises UserError for what is wrong with "task", which a single worker may leave half empty."""
    if not isinstance(task, dict) or not (alone or {"type", "index"} <= task.keys()):
        raise _malformed('it has no "task" with "type" and "index"')
    kind = task.get("type", next(kind for kind in TRAINING if cluster.get(kind)))
    if kind not in TRAINING or not cluster.get(kind):
        known = " and ".join(sorted(cluster))
        raise _malformed(f"the task's type is {reprlib.repr(kind)}, the cluster has {known}")
    index, last = task.get("index", 0), len(cluster[kind]) - 1
    if _whole_number(index) is None or int(index) > last:
        raise _malformed(f"the task's index is {reprlib.repr(index)}, the cluster's go from 0 to {last}")


def _malformed(problem: str) -> UserError:
    return UserError(f"TF_CONFIG is malformed: {problem}; expected {FORM}")


def _is_address(address: object) -> bool:
    match = re.fullmatch(r"\S+:([0-9]{1,5})", address) if isinstance(address, str) else None
    return match is not None and int(match.group(1)) < 65536


def _whole_number(value: object) -> int | None:
    """A number as JSON or Slurm writes it; None for what is none."""
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,18}", str(value)):
        return None
    return int(value)


@contextlib.contextmanager
def waiting(timeout: float) -> Iterator[None]:
    """While active, tells which workers of the cluster do not answer, and gives up after a time.

    TensorFlow waits for all of them without a word, in a call that holds Python's lock and that no thread
    can end; so another process watches. Giving up prints one line and kills this process. Ctrl-C and SIGHUP
    kill it as well; to SIGTERM TensorFlow makes it deaf.

    Args:
        timeout: seconds; 0 waits for ever.
    """
    program = os.path.basename(sys.argv[0])
    watcher = subprocess.Popen(
        [sys.executable, "-m", __name__, "watch", program, str(timeout)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the process that waits
    )
    try:
        with stopping.dying():
            yield
    finally:
        watcher.stdin.close()
        watcher.wait()


def watch(program: str, timeout: float, patience: float = PATIENCE, pause: float = PAUSE) -> None:
    """What the watching process does until its standard input ends."""
    cluster, deadline = read_cluster(), time.monotonic() + (timeout or math.inf)
    while True:
        seconds = max(min(patience, deadline - time.monotonic()), 0.0)
        if select.select([sys.stdin], [], [], seconds)[0]:
            return
        missing, patience = missing_workers(cluster), pause
        if time.monotonic() >= deadline:
            text = f"{missing} did not answer within --worker_timeout={timeout:g} seconds"
            print(f"{program}: error: {text}", file=sys.stderr, flush=True)
            os.kill(os.getppid(), signal.SIGKILL)
            return
        print(f"waiting for {missing}", file=sys.stderr, flush=True)


def missing_workers(cluster: Cluster) -> str:
    """The workers whose port is closed, for a message; "the other workers" where none can be told."""
    missing = [
        f"{kind} {index} ({address})"
        for kind, index, address in cluster.workers
        if (kind, index) != (cluster.kind, cluster.index) and not _answers(address)
    ]
    return ", ".join(missing) or "the other workers"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2.0).close()
    except (OSError, ValueError):
        return False
    return True


def slurm_config(environment: Mapping[str, str] = os.environ, port: int = PORT) -> str:
    """TF_CONFIG of this task of a Slurm job step, one worker a node or several.

    Raises UserError outside a job step, or where tasks and nodes do not fit.
    """
    try:
        listed = environment["SLURM_STEP_NODELIST"]
        tasks, rank = (_slurm_number(environment, name) for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"))
    except KeyError as error:
        raise UserError(f"{error.args[0]} is not set: this is no task of a Slurm job step (srun)") from error
    if not 1 <= tasks <= MAX_TASKS:
        raise UserError(f"SLURM_STEP_NUM_TASKS={tasks}: 1 to {MAX_TASKS} tasks are expected")
    if rank >= tasks:
        raise UserError(f"SLURM_PROCID={rank}: the step's {tasks} tasks go from 0 to {tasks - 1}")
    nodes = list(expand_nodes(listed))
    if tasks % len(nodes):
        raise UserError(f"{tasks} tasks on {len(nodes)} nodes: every node needs as many (--ntasks-per-node)")
    # Slurm numbers the tasks of a node in a row (block distribution, its default).
    here = tasks // len(nodes)
    if not 1 <= port <= 65536 - here:
        raise UserError(f"port {port}: {here} tasks a node need ports up to 65535")
    workers = [f"{node}:{port + i}" for node in nodes for i in range(here)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})


def _slurm_number(environment: Mapping[str, str], name: str) -> int:
    number = _whole_number(environment[name].strip())
    if number is None:
        raise UserError(f"{name}={shortened(environment[name])}: a whole number is expected")
    return number


_RANGE = r"[0-9]{1,18}(?:-[0-9]{1,18})?"
_RANGES = rf"\[{_RANGE}(?:,{_RANGE})*\]"
_NODES = rf"(?:[^,\[\]\s]|{_RANGES})+"


def expand_nodes(text: str) -> Iterator[str]:
    """Slurm's list of nodes, such as ``gpu[01-03,07],login``, one by one.

    Raises UserError for what is no such list, or one of more than ``MAX_TASKS`` nodes.
    """
    text = text.strip()
    if not re.fullmatch(f"{_NODES}(?:,{_NODES})*", text):
        raise UserError(
            f"SLURM_STEP_NODELIST={shortened(text)}: a list of nodes is expected, like gpu[01-03],login"
        )
    # Counted before any is written out.
    entries = [
        [(part, _numbers(part)) for part in re.findall(rf"{_RANGES}|[^\[\]]+", entry)]
        for entry in re.findall(_NODES, text)
    ]
    counts = [
        math.prod(sum(len(span) for span, _ in spans) if spans else 1 for _, spans in e) for e in entries
    ]
    if 0 in counts:
        raise UserError(f"SLURM_STEP_NODELIST={shortened(text)}: a range ends before it begins")
    if sum(counts) > MAX_TASKS:
        raise UserError(f"SLURM_STEP_NODELIST={shortened(text)} lists more than {MAX_TASKS} nodes")
    for entry in entries:
        places = [
            [f"{n:0{width}d}" for span, width in spans for n in span] or [part] for part, spans in entry
        ]
        yield from map("".join, itertools.product(*places))


def _numbers(part: str) -> list[tuple[range, int]]:
    """The numbers of ``[01-03,07]``, and how many digits each has; none of plain text."""
    ranges = [text.partition("-") for text in part[1:-1].split(",")] if part.startswith("[") else []
    return [(range(int(first), int(last or first) + 1), len(first)) for first, _, last in ranges]


def main(argv: list[str]) -> None:
    """Prints TF_CONFIG of this task; ``argv``: program and, if wished, a port. (Or watches.)"""
    if argv[1:2] == ["watch"]:
        watch(argv[2], float(argv[3]))
    else:
        port = _whole_number(argv[1]) if len(argv) > 1 else PORT
        if port is None:
            raise UserError(f"{shortened(argv[1])}: a port is expected")
        print(slurm_config(port=port))


if __name__ == "__main__":
    from fgfi_tf import cli

    cli.run(main)
