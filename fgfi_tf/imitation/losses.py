"""The masked squared error between adapted student features and teacher features.

Both forms give the same value and gradient. ``dense`` adapts the student everywhere; ``gathered``
adapts only the positions of the mask, from their 3 x 3 neighbourhoods, as one matrix product.
All arithmetic is float32.
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.imitation.successors import DISTANCES

# What is compared: squared errors at mask positions, or what DISTANCES make of whole maps.
COMPARISONS = ("squared_error", *DISTANCES)

# Of the adaptation. relu is the published one. Under it a channel whose input is negative at every position
# of the mask gets no gradient, and so is 0 for ever. The student's features are mostly positive and move all
# inputs of a channel together: Adam at 1e-3 moves them by 0.001 * the sum of 9 * Cs features in its first
# step, thousands of times what they start with, and its momentum carries on below 0. linear cannot die.
ACTIVATIONS = ("linear", "relu")


def activate(values: tf.Tensor, activation: str) -> tf.Tensor:
    """One of ``ACTIVATIONS`` of a tensor of any shape."""
    return tf.nn.relu(values) if activation == "relu" else values


def adapt(features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, activation: str = "relu") -> tf.Tensor:
    """The adaptation layer everywhere: activation(conv(features, kernel) + bias), zero padded.

    Args:
        features: float32 [B, h, w, Cs].
        kernel: float32 [k, k, Cs, Ct], k odd.
        bias: float32 [Ct].
        activation: one of ``ACTIVATIONS``.

    Returns:
        float32 [B, h, w, Ct].
    """
    adapted = tf.nn.bias_add(tf.nn.conv2d(features, kernel, strides=1, padding="SAME"), bias)
    return activate(adapted, activation)


def dense_squared_error(
    student: tf.Tensor,
    teacher: tf.Tensor,
    mask: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    activation: str = "relu",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sum over mask positions and channels of (adapt(student) - teacher)^2.

    Args:
        student: float32 [B, h, w, Cs].
        teacher: float32 [B, h, w, Ct].
        mask: bool [B, h, w].
        kernel, bias, activation: of the adaptation, see :func:`adapt`.

    Returns:
        The sum, and how many mask positions have an adapted output that is not 0, a position counting
        by the share of its channels (float32 scalars).
    """
    adapted = adapt(student, kernel, bias, activation)
    # where, not a product, and before the square: what lies outside the mask must not reach the sum, or as
    # 0 times infinity the gradient, even if not finite.
    inside = mask[..., None]
    squared_error = tf.reduce_sum(tf.square(tf.where(inside, adapted - teacher, 0.0)))
    return squared_error, _active(tf.where(inside, adapted, 0.0))


def gather_patches(features: tf.Tensor, positions: tf.Tensor, size: int) -> tf.Tensor:
    """The size x size neighbourhoods of some positions, zero outside the map.

    Args:
        features: [B, h, w, C].
        positions: int [P, 3], rows (image, row, column).
        size: odd width of a neighbourhood.

    Returns:
        [P, size * size * C], in the order of a convolution kernel [size, size, C, ...].
    """
    margin = size // 2
    channels = features.shape[-1]
    padded = tf.pad(features, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
    height, width = tf.shape(padded)[1], tf.shape(padded)[2]
    image, row, column = tf.unstack(tf.cast(positions, tf.int32), axis=1)  # P each
    first = (image * height + row) * width + column  # P, of the upper left neighbour
    offsets = tf.reshape(tf.range(size)[:, None] * width + tf.range(size), [-1])  # size^2
    index = first[:, None] + offsets  # P x size^2
    patches = tf.gather(tf.reshape(padded, [-1, channels]), index)  # P x size^2 x C
    return tf.reshape(patches, [-1, size * size * channels])


def gathered_squared_error(
    student: tf.Tensor,
    teacher: tf.Tensor,
    mask: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    activation: str = "relu",
) -> tuple[tf.Tensor, tf.Tensor]:
    """As :func:`dense_squared_error`, at the cost of the mask positions alone."""
    positions = tf.where(mask)  # P x 3
    patches = gather_patches(student, positions, kernel.shape[0])  # P x k*k*Cs
    adapted = tf.matmul(patches, tf.reshape(kernel, [-1, kernel.shape[-1]])) + bias  # P x Ct
    adapted = activate(adapted, activation)
    squared_error = tf.reduce_sum(tf.square(adapted - tf.gather_nd(teacher, positions)))
    return squared_error, _active(adapted)


def whole_map_distance(comparison: str):
    """One of ``DISTANCES`` in the form of :func:`dense_squared_error`, whose mask is then what is no padding.

    Instead of the sum over positions, it gives that of the images' distances, each times its positions:
    divided by the positions of the batch, as a squared error is, it is the images' weighted mean.
    """
    distance = DISTANCES[comparison]

    def summed(student, teacher, mask, kernel, bias, activation="relu"):
        adapted = adapt(student, kernel, bias, activation)
        positions = tf.reduce_sum(tf.cast(mask, tf.float32), axis=(1, 2))  # B
        total = tf.reduce_sum(positions * distance(adapted, teacher, mask))
        return total, _active(tf.where(mask[..., None], adapted, 0.0))

    return summed


def _active(adapted: tf.Tensor) -> tf.Tensor:
    """Positions of [..., Ct] whose outputs are not 0, each counted by the share of its channels."""
    active = tf.cast(tf.not_equal(adapted, 0.0), tf.float32)
    return tf.stop_gradient(tf.reduce_sum(active)) / adapted.shape[-1]
