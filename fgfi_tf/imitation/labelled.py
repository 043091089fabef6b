"""Batches in which some images have no labels: which rows of a replica's batch have them.

Of every n images of a micro-batch the first k have labels, a share (k, n) that never changes, so that shapes
are static. The teacher is imitated in all of them; the detection losses are those of the labelled ones.
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.imitation.contract import Batch


def labelled_rows(outputs: Batch, batch: Batch, share: tuple[int, int]) -> tuple[Batch, Batch]:
    """Outputs and batch of the images with labels; what has fewer than two axes in the outputs is of all."""
    count, of = share
    if count == of:
        return outputs, batch
    rows = _size(batch["image"]) * count // of
    own = {
        name: value
        if name in ("seed", "step") or name.startswith("global_")
        else tf.nest.map_structure(lambda x: x[:rows], value)
        for name, value in batch.items()
    }
    return tf.nest.map_structure(lambda x: x[:rows] if x.shape.rank >= 2 else x, outputs), own


def labelled_only(valid: tf.Tensor, share: tuple[int, int], micro_batches: int) -> tf.Tensor:
    """``valid`` [B, M] of a replica's whole batch to that of the images with labels."""
    count, of = share
    if count == of:
        return valid
    size = _size(valid) // micro_batches
    most = tf.shape(valid)[1]
    own = tf.reshape(valid, [micro_batches, size, most])[:, : size * count // of]
    return tf.reshape(own, [-1, most])


def _size(images: tf.Tensor) -> int | tf.Tensor:
    return images.shape[0] or tf.shape(images)[0]
