"""Soft labels, the paper's baseline "D" (Table 1): the student's predictions follow the teacher's."""

from __future__ import annotations

import tensorflow as tf


def soft_label_loss(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """Kullback-Leibler divergence of the student's predictions from the teacher's, summed over all anchors.

    Its gradient is that of a cross entropy with the teacher's probabilities in place of labels (Hinton et
    al., 2015, at temperature 1); unlike that, it is 0 where both agree.

    Args:
        student, teacher: float32 [B, A, K], logarithms of the probabilities of K outcomes that exclude each
            other: the classes, and that there is no object. No gradient reaches the teacher.

    Returns:
        float32 scalar, this replica's sum.
    """
    teacher = tf.stop_gradient(teacher)
    return tf.reduce_sum(tf.exp(teacher) * (teacher - student))
