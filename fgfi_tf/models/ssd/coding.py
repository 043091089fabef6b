"""SSD's offsets (pure graph functions, float32). Boxes are corners, default boxes centres, as fractions."""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf import boxes as box_ops

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2


def encode(boxes: tf.Tensor, defaults: tf.Tensor) -> tf.Tensor:
    """Offsets [..., 4] of boxes [..., 4] (corners) from default boxes [..., 4] (cx, cy, w, h)."""
    centres = box_ops.centres_from_corners(boxes)
    shift = (centres[..., :2] - defaults[..., :2]) / defaults[..., 2:] / CENTRE_VARIANCE
    return tf.concat([shift, tf.math.log(centres[..., 2:] / defaults[..., 2:]) / SIZE_VARIANCE], axis=-1)


def decode(offsets: tf.Tensor, defaults: tf.Tensor) -> tf.Tensor:
    """Boxes [..., 4] (corners) of offsets [..., 4]; the inverse of :func:`encode`."""
    centres = defaults[..., :2] + CENTRE_VARIANCE * offsets[..., :2] * defaults[..., 2:]
    sizes = defaults[..., 2:] * tf.exp(SIZE_VARIANCE * offsets[..., 2:])
    return box_ops.corners_from_centres(tf.concat([centres, sizes], axis=-1))
