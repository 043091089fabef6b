"""Weighted sums of a few rows of a matrix, for CPUs: no product with zeros, and little memory."""

from __future__ import annotations

import tensorflow as tf


def weighted_rows(rows: tf.Tensor, places: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """``sum_s weights[k, s] rows[places[k, s]]``, with a gradient to ``rows`` alone.

    Args:
        rows: [M,C].
        places: int32 [K,S].
        weights: float32 [K,S].

    Returns:
        [K,C] in the dtype of ``rows``, summed in float32.
    """
    places, weights = tf.stop_gradient(places), tf.stop_gradient(weights)
    count, terms = tf.shape(places)[0], tf.shape(places)[1]

    @tf.custom_gradient
    def summed(rows: tf.Tensor):
        by_term, weight_by_term = tf.transpose(places), tf.transpose(weights)

        def add(term: tf.Tensor, total: tf.Tensor):
            taken = tf.cast(tf.gather(rows, by_term[term]), tf.float32)
            return term + 1, total + taken * weight_by_term[term][:, None]

        # A loop, not one operation a term: those would all gather before the first is added.
        start = (tf.constant(0), tf.zeros([count, rows.shape[-1]]))
        _, total = tf.while_loop(lambda term, _: term < terms, add, start, parallel_iterations=1)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # Segment sums would hold all weighted terms at once; this product holds none of them.
            index = tf.stack([tf.repeat(tf.range(count), terms), tf.reshape(places, [-1])], axis=1)
            shape = tf.cast(tf.stack([count, tf.shape(rows)[0]]), tf.int64)
            sparse = tf.SparseTensor(tf.cast(index, tf.int64), tf.reshape(weights, [-1]), shape)
            found = tf.sparse.sparse_dense_matmul(sparse, tf.cast(upstream, tf.float32), adjoint_a=True)
            return tf.cast(found, rows.dtype)

        return tf.cast(total, rows.dtype), gradient

    return summed(rows)
