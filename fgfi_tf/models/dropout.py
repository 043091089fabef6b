"""Dropout as a function of a seed, so that a resumed run repeats an uninterrupted one."""

from __future__ import annotations

import tensorflow as tf


def stateless_dropout(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Inverted dropout as a function of ``seed`` (int32 [2]), other for each replica."""
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        seed = seed + tf.stack([0, tf.cast(context.replica_id_in_sync_group, seed.dtype)])
    # Philox's bits are the same with XLA and without; floats made of them are not.
    bits = tf.random.stateless_uniform(tf.shape(x), seed, None, None, tf.int32, alg="philox")
    keep = bits >= int(rate * 2**32) - 2**31
    return tf.where(keep, x / tf.cast(1.0 - rate, x.dtype), tf.zeros([], x.dtype))
