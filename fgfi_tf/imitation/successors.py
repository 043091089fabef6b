"""What came after the paper, to be compared with it: two distances between whole feature maps.

Each takes the adapted student's map and the teacher's and gives one value for each image and is 0 where the
maps agree as far as it looks. Both compare channel by channel, so neither objects nor their sizes matter.
All arithmetic is float32.
"""

from __future__ import annotations

import tensorflow as tf

CWD_TEMPERATURE = 4.0
_EPSILON = 1e-6  # added to standard deviations
_MINUS_INFINITY = -1e9  # as a logit: finite, so that 0 times its logarithm is 0


def channel_wise_distance(
    student: tf.Tensor, teacher: tf.Tensor, valid: tf.Tensor, temperature: float = CWD_TEMPERATURE
) -> tf.Tensor:
    """Channel-wise knowledge distillation, CWD (Shu et al., ICCV 2021, equations 3 and 4).

    A softmax over its positions makes each channel a distribution of where it looks; the distance is the
    mean over channels of temperature^2 * KL(teacher || student).

    Args:
        student, teacher: float32 [B, h, w, C].
        valid: bool [B, h, w], the positions that take part.
        temperature: both maps are divided by it.

    Returns:
        float32 [B], 0 for an image without such a position.
    """
    student, teacher, inside = (_as_rows(value) for value in (student, teacher, valid[..., None]))
    logs = [
        tf.nn.log_softmax(tf.where(inside, values / temperature, _MINUS_INFINITY), axis=1)
        for values in (student, teacher)
    ]
    divergence = tf.where(inside, tf.exp(logs[1]) * (logs[1] - logs[0]), 0.0)  # B x h*w x C
    return temperature**2 * tf.reduce_mean(tf.reduce_sum(divergence, axis=1), axis=-1)


def pearson_distance(student: tf.Tensor, teacher: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Distance by Pearson's correlation, PKD (Cao et al., NeurIPS 2022, equation 4).

    Each channel is standardised to mean 0 and deviation 1; the distance is half the mean squared difference,
    1 - r for a channel. The published code standardises over the images of a device's batch as well; here
    each image stands by itself, so that the loss depends neither on the batch nor on the devices.

    Args and result: as :func:`channel_wise_distance`.
    """
    student, teacher, inside = (_as_rows(value) for value in (student, teacher, valid[..., None]))
    count = tf.maximum(tf.reduce_sum(tf.cast(inside, tf.float32), axis=1, keepdims=True), 1.0)  # B x 1 x 1
    difference = tf.square(_standardised(student, inside, count) - _standardised(teacher, inside, count))
    return 0.5 * tf.reduce_mean(tf.reduce_sum(difference, axis=1) / count[:, 0], axis=-1)


DISTANCES = {"cwd": channel_wise_distance, "pkd": pearson_distance}


def _as_rows(values: tf.Tensor) -> tf.Tensor:
    """[B, h, w, C] to [B, h * w, C]."""
    shape = tf.shape(values)
    return tf.reshape(values, [shape[0], shape[1] * shape[2], values.shape[-1]])


def _standardised(values: tf.Tensor, inside: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """[B, n, C] with mean 0 and deviation 1 over the positions inside, 0 at the others."""
    mean = tf.reduce_sum(tf.where(inside, values, 0.0), axis=1, keepdims=True) / count
    centred = tf.where(inside, values - mean, 0.0)
    variance = tf.reduce_sum(tf.square(centred), axis=1, keepdims=True) / count
    # The square root has no gradient at 0, where a channel is constant.
    deviation = tf.where(variance > 0.0, tf.sqrt(tf.where(variance > 0.0, variance, 1.0)), 0.0)
    return centred / (deviation + _EPSILON)
