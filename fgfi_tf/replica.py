"""Sums over the replicas of a distributed step."""

from __future__ import annotations

import tensorflow as tf


def global_sum(value: tf.Tensor) -> tf.Tensor:
    """Sum of ``value`` over all replicas; ``value`` itself outside a distributed step.

    Used for what a loss is divided by (objects, mask positions): with counts of the global batch,
    the sum of the replicas' losses is the loss one device computes for the whole batch.
    Not meant to carry a gradient.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))
