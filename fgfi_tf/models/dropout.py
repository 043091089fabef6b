"""Dropout as a function of a seed, so that a resumed run repeats an uninterrupted one."""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.streams import ALGORITHM, fold_replica


def stateless_dropout(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Inverted dropout as a function of ``seed`` (integers [2], see ``streams``), other for each replica."""
    # Philox's bits are the same with XLA and without; floats made of them are not.
    bits = tf.random.stateless_uniform(tf.shape(x), fold_replica(seed), None, None, tf.int32, alg=ALGORITHM)
    keep = bits >= int(rate * 2**32) - 2**31
    return tf.where(keep, x / tf.cast(1.0 - rate, x.dtype), tf.zeros([], x.dtype))
