"""Sums over the replicas of a distributed step, and over the parts of an accumulated batch."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

# Each replica of a mirrored step is traced in a thread of its own, which has a context of its own.
_parts: contextvars.ContextVar[int] = contextvars.ContextVar("parts", default=1)


def global_sum(value: tf.Tensor) -> tf.Tensor:
    """Sum of ``value`` over all replicas; ``value`` itself outside a distributed step.

    Used for what a loss is divided by (objects, mask positions): with counts of the global batch,
    the sum of the replicas' losses is the loss one device computes for the whole batch.
    Within :func:`accumulating` the sum is that of one part, times the number of parts.
    Not meant to carry a gradient.
    """
    parts = _parts.get()
    value = value * tf.cast(parts, value.dtype) if parts > 1 else value
    if num_replicas() == 1:
        return value
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))


def global_counts(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Objects and images of the global batch, float32 scalars.

    ``batch`` has ``valid`` [B, M], or is a part of an accumulated batch and has ``global_counts``, which
    were taken of the whole.
    """
    if "global_counts" in batch:
        objects, images = tf.unstack(batch["global_counts"])
        return objects, images
    valid = batch["valid"]
    return (
        global_sum(tf.reduce_sum(tf.cast(valid, tf.float32))),
        global_sum(tf.cast(tf.shape(valid)[0], tf.float32)),
    )


@contextlib.contextmanager
def accumulating(parts: int) -> Iterator[None]:
    """While one of ``parts`` equal parts of each replica's batch is computed (or traced)."""
    token = _parts.set(parts)
    try:
        yield
    finally:
        _parts.reset(token)


def num_replicas() -> int:
    """Replicas of the distributed step; 1 outside one."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context is not None else 1


def num_shares() -> int:
    """What a term of the whole batch, such as a penalty on weights, is divided by: replicas times parts."""
    return num_replicas() * _parts.get()
