"""Keys of the random numbers of a run: a stream of its own for each use, step, replica and layer.

A key is an int64 [2] for TensorFlow's stateless operations. A run starts from its seed; :func:`key_of` and
:func:`fold` lead on from there, and keys that took different ways share no numbers. So whatever is drawn is
a function of the seed and of where it is drawn, and a resumed run repeats an uninterrupted one. Sums of seeds
and numbers would not do: with ``step + replica``, replica 1 repeats at each step what replica 0 drew before.
"""

from __future__ import annotations

import enum

import tensorflow as tf

#: The same bits on every device, with XLA and without.
ALGORITHM = "philox"
_MANTISSA = 23  # bits of a float32


class Use(enum.IntEnum):
    """What the numbers of a run are for."""

    TRAINING_STEP = 0  # dropout and samples; the index is the step (or part of one)
    EPOCH = 1  # the order of the examples
    EXAMPLE = 2  # augmentation, crops and choice of boxes; the index is the position in the stream
    UNLABELLED_EPOCH = 3  # the same two of the pictures without labels, a stream beside the other
    UNLABELLED_EXAMPLE = 4
    INPUT_SIZE = 5  # of network inputs that change; the index counts the changes


def key_of(seed: int | tf.Tensor, use: Use, index: int | tf.Tensor) -> tf.Tensor:
    """The key, int64 [2], of the ``index``-th (int64 scalar) draw for a use in a run of ``seed``."""
    return fold(tf.stack([tf.cast(seed, tf.int64), tf.constant(use.value, tf.int64)]), index)


def fold(key: tf.Tensor, index: int | tf.Tensor) -> tf.Tensor:
    """The ``index``-th key, int64 [2], that follows from ``key`` (integers [2])."""
    return tf.random.experimental.stateless_fold_in(key, tf.cast(index, tf.int64), alg=ALGORITHM)


def fold_replica(key: tf.Tensor) -> tf.Tensor:
    """The key of this replica of a distributed step; replica 0's outside one."""
    context = tf.distribute.get_replica_context()
    return fold(key, 0 if context is None else context.replica_id_in_sync_group)


def uniform(shape: tf.Tensor | list[int], key: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in [0, 1), float32 of ``shape``, the same with XLA and without.

    Those of TensorFlow's kernels, which take the lower bits of an integer, where XLA takes the upper ones.
    """
    bits = tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype=tf.int32, alg=ALGORITHM)
    return tf.cast(tf.bitwise.bitwise_and(bits, 2**_MANTISSA - 1), tf.float32) * 2.0**-_MANTISSA


def permutation(count: int, key: tf.Tensor) -> tf.Tensor:
    """The numbers 0 .. count - 1 in random order, int64 [count]."""
    noise = tf.random.stateless_uniform([count], key, minval=None, maxval=None, dtype=tf.int64, alg=ALGORITHM)
    return tf.cast(tf.argsort(noise, stable=True), tf.int64)
