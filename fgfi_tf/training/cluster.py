"""The cluster of a run on several machines: what TF_CONFIG says, and TF_CONFIG from Slurm's variables.

    export TF_CONFIG=$(python -m fgfi_tf.training.cluster)

prints it for one task of a Slurm job step. Needs no TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from fgfi_tf.errors import UserError

FORM = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
PORT = 12345
# Seconds before a worker that does not answer is told of, and between the lines about it.
PATIENCE, PAUSE = 20.0, 60.0
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
    except ValueError as error:
        raise UserError(f"TF_CONFIG is malformed: it is not JSON ({error}); expected {FORM}") from error
    problem = _problem(config)
    if problem:
        raise UserError(f"TF_CONFIG is malformed: {problem}; expected {FORM}")
    task = config.get("task", {})
    cluster = Cluster(config["cluster"], task.get("type", "worker"), int(task.get("index", 0)))
    return cluster if len(cluster.workers) > 1 else None


def _problem(config: object) -> str:
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict):
        return 'it has no "cluster"'
    cluster, task = config["cluster"], config.get("task")
    for kind, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(isinstance(a, str) and ":" in a for a in addresses):
            return f'"{kind}" is no list of host:port'
    count = sum(len(cluster.get(kind, ())) for kind in TRAINING)
    if not count:
        return 'the cluster has no "worker"'
    if count == 1:
        return ""
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        return 'it has no "task" with "type" and "index"'
    if task["type"] not in TRAINING or task["type"] not in cluster:
        return f"the task's type is {task['type']!r}, the cluster has {' and '.join(sorted(cluster))}"
    last = len(cluster[task["type"]]) - 1
    if not re.fullmatch(r"\d+", str(task["index"])) or int(task["index"]) > last:
        return f"the task's index is {task['index']!r}, the cluster's go from 0 to {last}"
    return ""


@contextlib.contextmanager
def waiting(timeout: float) -> Iterator[None]:
    """While active, tells which workers of the cluster do not answer, and gives up after a time.

    TensorFlow waits for all of them without a word, in a call that holds Python's lock and that no thread
    can end; so another process watches. Giving up prints one line and kills this process, which TensorFlow
    makes deaf to SIGTERM.

    Args:
        timeout: seconds; 0 waits for ever.
    """
    program = os.path.basename(sys.argv[0])
    watcher = subprocess.Popen(
        [sys.executable, "-m", __name__, "watch", program, str(timeout)], stdin=subprocess.PIPE
    )
    try:
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
        nodes = list(expand_nodes(environment["SLURM_STEP_NODELIST"]))
        tasks, rank = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_PROCID"])
    except KeyError as error:
        raise UserError(f"{error.args[0]} is not set: this is no task of a Slurm job step (srun)") from error
    if tasks % len(nodes):
        raise UserError(f"{tasks} tasks on {len(nodes)} nodes: every node needs as many (--ntasks-per-node)")
    # Slurm numbers the tasks of a node in a row (block distribution, its default).
    here = tasks // len(nodes)
    workers = [f"{node}:{port + i}" for node in nodes for i in range(here)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})


def expand_nodes(text: str) -> Iterator[str]:
    """Slurm's list of nodes, such as ``gpu[01-03,07],login``, one by one."""
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        yield from _expand_node(part)


def _expand_node(text: str) -> Iterator[str]:
    match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", text)
    if not match:
        yield text
        return
    before, ranges, after = match.groups()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            for rest in _expand_node(after):
                yield f"{before}{number:0{len(first)}d}{rest}"


def main(argv: list[str]) -> None:
    """Prints TF_CONFIG of this task; ``argv``: program and, if wished, a port. (Or watches.)"""
    if argv[1:2] == ["watch"]:
        watch(argv[2], float(argv[3]))
    else:
        print(slurm_config(port=int(argv[1]) if len(argv) > 1 else PORT))


if __name__ == "__main__":
    from fgfi_tf import cli

    cli.run(main)
