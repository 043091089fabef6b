"""A batch computed in micro-batches, one after the other, for one update: less memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from fgfi_tf.imitation.contract import Batch
from fgfi_tf.replica import accumulating, num_replicas

Gradients = list[tf.Tensor | None]
Terms = dict[str, tf.Tensor]


def accumulated(
    gradients_of: Callable[[Batch, tf.Tensor | int], tuple[Gradients, Terms]],
    batch: Batch,
    count: int,
    variables: Sequence[tf.Variable],
    names: Sequence[str],
) -> tuple[Gradients, Terms]:
    """Sums of gradients and terms over the micro-batches, with the activations of one at a time.

    Args:
        gradients_of: a micro-batch and its number to this replica's gradients (None for a variable on which
            no term depends) and terms.
        batch: this replica's, [B, ...] each.
        count: micro-batches, a divisor of B.
        variables: whose gradients they are.
        names: of the terms; one that ``gradients_of`` leaves out is 0.
    """
    static = batch["image"].shape[0]
    size = (static or tf.shape(batch["image"])[0]) // count

    def add_micro_batch(i, gradients, terms):
        with tf.control_dependencies(gradients):  # not before the last one is done
            # Not a slice: XLA needs to know its length.
            micro_batch = tf.nest.map_structure(lambda x: tf.gather(x, i * size + tf.range(size)), batch)
        micro_batch["image"] = tf.ensure_shape(
            micro_batch["image"], [static and size, *batch["image"].shape[1:]]
        )
        with accumulating(count):
            new, found = gradients_of(micro_batch, i)
        reached.update(place for place, gradient in enumerate(new) if gradient is not None)
        gradients = [g if n is None else g + n for g, n in zip(gradients, new, strict=True)]
        return i + 1, gradients, {name: value + found.get(name, 0.0) for name, value in terms.items()}

    reached: set[int] = set()  # known once a micro-batch is traced
    sums = ([tf.zeros_like(variable) for variable in variables], {name: tf.constant(0.0) for name in names})
    if num_replicas() > 1:
        # Batch norm and counts exchange values between replicas, which a loop of the graph cannot do.
        for i in range(count):
            _, *sums = add_micro_batch(i, *sums)
    else:
        _, *sums = tf.while_loop(
            lambda i, *_: i < count,
            add_micro_batch,
            (tf.constant(0), *sums),
            parallel_iterations=1,
            maximum_iterations=count,
        )
    gradients, terms = sums
    return [g if place in reached else None for place, g in enumerate(gradients)], terms
