"""The passthrough's reordering of a map of stride 16 to stride 32.

Two exist. Networks trained here use TensorFlow's ``space_to_depth``, which is the ``[reorg3d]`` layer of
AlexeyAB/darknet. The published weights were trained with the ``[reorg]`` layer of pjreddie/darknet, which is
another permutation; read with the wrong one they detect a little worse.
"""

from __future__ import annotations

import tensorflow as tf

BLOCK = 2


def space_to_depth(x: tf.Tensor) -> tf.Tensor:
    """[B, 2h, 2w, C] to [B, h, w, 4C]: channel (2 dy + dx) * C + c holds x[2y + dy, 2x + dx, c]."""
    return tf.nn.space_to_depth(x, BLOCK)


def original_reorg(x: tf.Tensor) -> tf.Tensor:
    """[B, 2h, 2w, C] to [B, h, w, 4C] as pjreddie/darknet's reorg_cpu orders it; C is a multiple of 4.

    The C code takes the input, [C, 2h, 2w] in memory, for [C / 4, 4h, 4w], moves each 2 x 2 block of that to
    the channels, [C, 2h, 2w], and takes the result for [4C, h, w].

    Raises:
        ValueError: C is no multiple of 4.
    """
    channels = x.shape[-1]
    if channels % BLOCK**2:
        raise ValueError(f"the original reorg needs a multiple of 4 channels, not {channels}")
    batch, height, width = tf.unstack(tf.shape(x)[:3])
    planes = tf.transpose(x, [0, 3, 1, 2])  # B x C x 2h x 2w, as in memory
    blocks = tf.reshape(planes, [batch, channels // 4, height, BLOCK, width, BLOCK])
    moved = tf.transpose(blocks, [0, 3, 5, 1, 2, 4])  # B x dy x dx x C/4 x 2h x 2w
    found = tf.reshape(moved, [batch, 4 * channels, height // BLOCK, width // BLOCK])
    found = tf.transpose(found, [0, 2, 3, 1])
    return tf.ensure_shape(found, [x.shape[0], None, None, 4 * channels])


REORGS = {"space_to_depth": space_to_depth, "original": original_reorg}
