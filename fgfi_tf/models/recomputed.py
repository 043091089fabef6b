"""Functions whose gradient computes its inputs anew, for less memory."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def recomputed(function: Callable[..., tf.Tensor], *arguments: tf.Tensor) -> tf.Tensor:
    """``function`` of tensors, of which nothing but the arguments is held for the gradient.

    For what prepares a convolution and costs little: a padded or strided map, a kernel times a scale. The
    gradient prepares it again, once that of the outputs is there. In a graph the convolution itself is not
    computed again, since its gradient does not need its outputs.

    ``tf.recompute_grad`` does so as well, but adds a number to each argument: another map to hold.

    Args:
        function: of floating-point tensors, without variables: its gradient reaches the arguments alone.
        arguments: any floating-point dtypes and shapes.
    """

    @tf.custom_gradient
    def outputs_of(*arguments: tf.Tensor):
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            # Without the dependency these would be the same operations as those of the forward pass.
            with tf.control_dependencies([upstream]):
                again = [tf.identity(argument) for argument in arguments]
            with tf.GradientTape() as tape:
                tape.watch(again)
                outputs = function(*again)
            return tape.gradient(outputs, again, upstream)

        return function(*arguments), gradient

    return outputs_of(*arguments)
