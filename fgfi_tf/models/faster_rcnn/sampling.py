"""Random choice of rows without a loop over images.

Every image of a batch draws with the same random numbers (one number per row), new ones at every step. For
each image this is a uniform choice; and the choice made for an image does not depend on the other images of
its batch, so that a batch and its parts, on one device or on several, are trained on the same samples.
"""

from __future__ import annotations

import tensorflow as tf


def choose_at_most(candidates: tf.Tensor, limit: tf.Tensor, random: tf.Tensor) -> tf.Tensor:
    """Keeps at most ``limit`` [B] of the ``candidates`` bool [B,N], chosen without replacement: bool [B,N].

    ``random`` [N] in [0, 1) gives each row its priority.
    """
    priority = tf.where(candidates, random[None], 2.0)  # B x N
    order = tf.argsort(priority, axis=-1, stable=True)
    rank = tf.argsort(order, axis=-1)  # B x N, the inverse permutation
    return tf.logical_and(candidates, rank < limit[:, None])


def first_members(members: tf.Tensor, count: int, random: tf.Tensor) -> tf.Tensor:
    """Indices [B,count] int32 of ``count`` rows drawn without replacement from bool [B,N].

    Where there are fewer members than ``count`` the last indices are of other rows.
    """
    _, indices = tf.math.top_k(tf.where(members, random[None], -1.0), k=count)
    return indices


def draw_with_replacement(members: tf.Tensor, random: tf.Tensor) -> tf.Tensor:
    """Indices [B,S] int32 of rows drawn from bool [B,N] with replacement, by ``random`` [S] in [0, 1).

    0 where an image has no member.
    """
    running = tf.cumsum(tf.cast(members, tf.int32), axis=-1)  # B x N
    total = running[:, -1:]  # B x 1
    wanted = tf.cast(random[None] * tf.cast(total, tf.float32), tf.int32)  # B x S, floor
    wanted = tf.minimum(wanted, tf.maximum(total - 1, 0)) + 1
    indices = tf.searchsorted(running, wanted, side="left")
    return tf.where(total > 0, indices, 0)
