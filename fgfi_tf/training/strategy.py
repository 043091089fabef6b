"""Which devices a run uses: one, all GPUs of a machine, several machines, or parts of the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import tensorflow as tf

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.training.cluster import Cluster, read_cluster, waiting

_mirrors = itertools.count()  # of this process
_GROUPS = 1000  # more than a mirror has: one for each set of devices that it sums over


def build_strategy(
    devices: str = "", virtual_cpus: int = 0, worker_timeout: float = 0.0
) -> tf.distribute.Strategy:
    """The distribution strategy of a run.

    With the environment variable TF_CONFIG (of a cluster with workers): MultiWorkerMirroredStrategy.
    Else a mirror on ``devices`` ("gpu:0,gpu:1"), on ``virtual_cpus`` parts of the CPU, or on every
    visible GPU; a single device needs no mirror.

    To be called before TensorFlow touches a device. Raises UserError for a device that does not exist,
    a malformed TF_CONFIG, a port in use, or virtual CPUs asked for too late. Workers that do not come up
    within ``worker_timeout`` seconds (0: never) end the process, see ``cluster.waiting``.
    """
    workers = read_cluster()
    if workers is not None and (devices or virtual_cpus):
        flag = f"--devices={devices}" if devices else f"--virtual_cpus={virtual_cpus}"
        raise UserError(
            f"{flag}: with TF_CONFIG each worker uses every GPU that it sees, else its CPU; choose with "
            "CUDA_VISIBLE_DEVICES"
        )
    if virtual_cpus > 1:
        _split_cpu(virtual_cpus)
    if workers is not None:
        return _of_workers(workers, worker_timeout)
    chosen = _chosen_devices(devices, virtual_cpus)
    if len(chosen) == 1:
        return tf.distribute.OneDeviceStrategy(chosen[0])
    return _mirror(chosen)


def _mirror(devices: list[str]) -> tf.distribute.Strategy:
    """A mirror whose groups of devices no other of this process has.

    TensorFlow remembers the devices of each numbered group, and the shapes of each numbered sum in it. All
    mirrors count from the same number: a second training of a process would be refused.
    """
    first = {"_collective_key_base": next(_mirrors) * _GROUPS}
    return type("Mirror", (tf.distribute.MirroredStrategy,), first)(devices)


def _of_workers(workers: Cluster, timeout: float) -> tf.distribute.Strategy:
    communication = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.AUTO
    )
    try:
        with waiting(timeout):
            return tf.distribute.MultiWorkerMirroredStrategy(communication_options=communication)
    except tf.errors.OpError as error:
        reason = first_line(error)
        if "gRPC server" in reason:
            reason = f"cannot listen on {workers.address}, which this worker is to have: is the port in use?"
        raise UserError(f"TF_CONFIG: the cluster could not be started: {reason}") from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files: the only worker, or the first of several."""
    return worker_index(strategy)[0] == 0


def worker_index(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """(index of this process among the workers, number of workers); the chief is the first."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().jobs:
        return 0, 1
    jobs = resolver.cluster_spec().as_dict()
    order = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, ())))]
    return order.index((resolver.task_type, resolver.task_id)), len(order)


def agreement(strategy: tf.distribute.Strategy) -> Callable[[bool], bool]:
    """Whether any worker of the cluster says yes; all of them must call it together."""

    @tf.function
    def total(asked: tf.Tensor) -> tf.Tensor:
        def replica(value):
            value = tf.identity(value)  # on this replica's device
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

        return strategy.experimental_local_results(strategy.run(replica, args=(asked,)))[0]

    return lambda asked: float(total(tf.constant(float(asked)))) > 0


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    existing = tf.config.get_logical_device_configuration(cpu) or []
    if len(existing) == count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise UserError(
            f"--virtual_cpus={count}: TensorFlow has already started its devices: {error}"
        ) from error


def _chosen_devices(devices: str, virtual_cpus: int) -> list[str]:
    if virtual_cpus:
        return [f"cpu:{i}" for i in range(virtual_cpus)]
    names = [name.strip().lower() for name in devices.split(",") if name.strip()]
    known = {
        device.name.split("device:", 1)[1].lower()
        for kind in ("CPU", "GPU")
        for device in tf.config.list_logical_devices(kind)
    }
    if not names:
        gpus = sorted((name for name in known if name.startswith("gpu")), key=lambda n: int(n[4:]))
        return gpus or ["cpu:0"]
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known))
            raise UserError(f"--devices={devices}: no device {name}; this machine has {listed}")
    if len(set(names)) != len(names):
        raise UserError(f"--devices={devices}: a device is named twice")
    return names
