"""Which devices a run uses: one, all GPUs of a machine, several machines, or parts of the CPU."""

from __future__ import annotations

import json
import os

import tensorflow as tf

from fgfi_tf.errors import UserError


def build_strategy(devices: str = "", virtual_cpus: int = 0) -> tf.distribute.Strategy:
    """The distribution strategy of a run.

    With the environment variable TF_CONFIG (of a cluster with workers): MultiWorkerMirroredStrategy.
    Else a mirror on ``devices`` ("gpu:0,gpu:1"), on ``virtual_cpus`` parts of the CPU, or on every
    visible GPU; a single device needs no mirror.

    To be called before TensorFlow touches a device. Raises UserError for a device that does not exist,
    a malformed TF_CONFIG, or virtual CPUs asked for too late.
    """
    if virtual_cpus > 1:
        _split_cpu(virtual_cpus)
    if _workers() > 1:
        communication = tf.distribute.experimental.CommunicationOptions(
            implementation=tf.distribute.experimental.CommunicationImplementation.AUTO
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=communication)
    chosen = _chosen_devices(devices, virtual_cpus)
    if len(chosen) == 1:
        return tf.distribute.OneDeviceStrategy(chosen[0])
    return tf.distribute.MirroredStrategy(chosen)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files: the only worker, or the first of several."""
    resolver = strategy.cluster_resolver
    return (
        resolver is None
        or resolver.task_type in (None, "", "chief")
        or (
            resolver.task_type == "worker"
            and resolver.task_id == 0
            and "chief" not in resolver.cluster_spec().jobs
        )
    )


def worker_index(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """(index of this process among the workers, number of workers); the chief is the first."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().jobs:
        return 0, 1
    jobs = resolver.cluster_spec().as_dict()
    order = [(job, i) for job in ("chief", "worker") for i in range(len(jobs.get(job, ())))]
    return order.index((resolver.task_type, resolver.task_id)), len(order)


def _workers() -> int:
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return 1
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster", {}), config.get("task", {})
        workers = sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
        if workers > 1 and int(task["index"]) >= len(cluster[task["type"]]):
            raise ValueError(f"task {task} is not in the cluster")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            'TF_CONFIG is malformed: expected {"cluster": {"worker": ["host:port", ...]}, "task": '
            f'{{"type": "worker", "index": 0}}}}; {type(error).__name__}: {error}'
        ) from error
    return workers


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
        return sorted((name for name in known if name.startswith("gpu")), key=lambda n: int(n[4:])) or [
            "cpu:0"
        ]
    for name in names:
        if name not in known:
            raise UserError(
                f"--devices={devices}: no device {name}; this machine has {', '.join(sorted(known))}"
            )
    if len(set(names)) != len(names):
        raise UserError(f"--devices={devices}: a device is named twice")
    return names
