"""Sums over the replicas of a distributed step, and over the micro-batches of an accumulated batch."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

# Each replica of a mirrored step is traced in a thread of its own, which has a context of its own.
_micro_batches: contextvars.ContextVar[int] = contextvars.ContextVar("micro_batches", default=1)


def global_sum(value: tf.Tensor) -> tf.Tensor:
    """Sum of ``value`` over all replicas; ``value`` itself outside a distributed step.

    Used for what a loss is divided by (objects, mask positions): with counts of the global batch,
    the sum of the replicas' losses is the loss one device computes for the whole batch.
    Within :func:`accumulating` the sum is that of one micro-batch, times their number.
    Not meant to carry a gradient.
    """
    count = _micro_batches.get()
    value = value * tf.cast(count, value.dtype) if count > 1 else value
    if num_replicas() == 1:
        return value
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))


def global_counts(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Objects and images of the global batch, float32 scalars.

    ``batch`` has ``valid`` [B, M], or is a micro-batch and has ``global_counts``, which were
    taken of the whole batch.
    """
    if "global_counts" in batch:
        objects, images = tf.unstack(batch["global_counts"])
        return objects, images
    valid = batch["valid"]
    return (
        global_sum(tf.reduce_sum(tf.cast(valid, tf.float32))),
        global_sum(tf.cast(tf.shape(valid)[0], tf.float32)),
    )


def global_total(batch: dict[str, tf.Tensor], name: str) -> tf.Tensor:
    """The sum over the global batch of a number that ``batch[name]`` [B] has of each image, float32 scalar.

    A micro-batch has ``global_`` and the name for it, which was taken of the whole batch.
    """
    known = batch.get(f"global_{name}")
    return global_sum(tf.reduce_sum(tf.cast(batch[name], tf.float32))) if known is None else known


@contextlib.contextmanager
def accumulating(micro_batches: int) -> Iterator[None]:
    """While one of ``micro_batches`` equal shares of each replica's batch is computed (or traced)."""
    token = _micro_batches.set(micro_batches)
    try:
        yield
    finally:
        _micro_batches.reset(token)


def num_replicas() -> int:
    """Replicas of the distributed step; 1 outside one."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context is not None else 1


def num_shares() -> int:
    """Replicas times micro-batches: what a term of the whole batch, such as a penalty, is divided by."""
    return num_replicas() * _micro_batches.get()
