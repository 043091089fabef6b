"""The forms of a box, as pure functions in float32.

*Corners* are (xmin, ymin, xmax, ymax). Continuous corners are the box's edges: its width is xmax - xmin.
Inclusive corners are its first and last pixels: its width is xmax - xmin + 1. *Centres* are (cx, cy, w, h).
"""

from __future__ import annotations

import tensorflow as tf

_LAST_PIXEL = (0.0, 0.0, 1.0, 1.0)


def continuous(boxes: tf.Tensor) -> tf.Tensor:
    """Inclusive corners [..., 4] as continuous ones."""
    return boxes + tf.constant(_LAST_PIXEL)


def inclusive(boxes: tf.Tensor) -> tf.Tensor:
    """Continuous corners [..., 4] as inclusive ones."""
    return boxes - tf.constant(_LAST_PIXEL)


def corners_from_centres(boxes: tf.Tensor) -> tf.Tensor:
    """(cx, cy, w, h) [..., 4] to continuous corners [..., 4]."""
    centres, sizes = tf.split(boxes, 2, axis=-1)
    half = 0.5 * sizes
    return tf.concat([centres - half, centres + half], axis=-1)


def centres_from_corners(boxes: tf.Tensor, inclusive: bool = False) -> tf.Tensor:
    """Corners [..., 4], continuous or ``inclusive``, to (cx, cy, w, h) [..., 4]; cx is xmin + w / 2."""
    near, far = tf.split(boxes, 2, axis=-1)
    sizes = far - near + 1.0 if inclusive else far - near
    return tf.concat([near + 0.5 * sizes, sizes], axis=-1)


def clip(boxes: tf.Tensor, sizes: tf.Tensor, inclusive: bool = False) -> tf.Tensor:
    """Corners [..., 4] cut at the borders of images of ``sizes`` [..., 2] (h, w), as pure numbers.

    x lies in [0, w] then, or in [0, w - 1] where corners are ``inclusive``; so does y.
    """
    far = tf.stack([sizes[..., 1], sizes[..., 0], sizes[..., 1], sizes[..., 0]], axis=-1)
    if inclusive:
        far -= 1.0
    return tf.maximum(tf.minimum(boxes, far), 0.0)


def inside(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Which boxes [A, 4] of inclusive corners lie wholly inside images of ``sizes`` [B, 2] (h, w): [B, A]."""
    near = tf.reduce_all(boxes[:, :2] >= 0.0, axis=-1)  # A
    far = tf.reduce_all(boxes[None, :, 2:] < tf.reverse(sizes, [-1])[:, None, :], axis=-1)  # B x A
    return tf.logical_and(near[None], far)


def is_one_pixel(boxes: tf.Tensor) -> tf.Tensor:
    """Where inclusive corners [..., 4] are one pixel: zero padding rows, and true boxes of one pixel."""
    return tf.reduce_all(boxes[..., :2] == boxes[..., 2:], axis=-1)
