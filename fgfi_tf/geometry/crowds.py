"""Ground truths a few at a time: memory does not grow with their number, nor time with empty rows."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

CHUNK = 64
State = tuple[tf.Tensor, ...]


def last_row(valid: tf.Tensor) -> tf.Tensor:
    """int32 scalar: how many rows of ``valid`` [B, M] there are up to the last one that is True in any image.

    Rows are as many as the fullest image of a whole dataset has objects; most of a batch's are padding.
    """
    rows = tf.range(1, tf.shape(valid)[1] + 1)
    # Of no rows the maximum is the smallest int.
    return tf.maximum(tf.reduce_max(tf.where(valid, rows, 0)), 0)


def over_truths(
    step: Callable[[State, tf.Tensor, tf.Tensor, tf.Tensor], State],
    state: State,
    boxes: tf.Tensor,
    valid: tf.Tensor,
) -> State:
    """``state`` after a step for each ``CHUNK`` ground truths, in their order; without a gradient.

    Args:
        step: of the state, the first row's number (int32 scalar), boxes [B, m, 4] and valid [B, m] of some
            rows, to the new state: tensors of the same shapes and dtypes.
        state: before the first step; what it says where nothing is valid, since steps may be left out there.
        boxes: float32 [B, M, 4].
        valid: bool [B, M], False for padding.
    """
    boxes, valid, *state = map(tf.stop_gradient, map(tf.convert_to_tensor, (boxes, valid, *state)))
    if boxes.shape[1] is not None and boxes.shape[1] <= CHUNK:
        return tuple(map(tf.stop_gradient, step(tuple(state), tf.constant(0), boxes, valid)))
    count, rest = last_row(valid), -tf.shape(boxes)[1] % CHUNK
    boxes, valid = tf.pad(boxes, [[0, 0], [0, rest], [0, 0]]), tf.pad(valid, [[0, 0], [0, rest]])

    def next_step(start: tf.Tensor, *state: tf.Tensor) -> State:
        some = (
            tf.slice(boxes, [0, start, 0], [-1, CHUNK, -1]),
            tf.slice(valid, [0, start], [-1, CHUNK]),
        )
        return start + CHUNK, *step(state, start, *some)

    _, *found = tf.while_loop(
        lambda start, *_: start < count,
        next_step,
        (tf.constant(0), *state),
        parallel_iterations=1,
        shape_invariants=tuple(tf.TensorShape([None] * value.shape.rank) for value in (count, *state)),
    )
    return tuple(
        tf.stop_gradient(tf.ensure_shape(value, before.shape))
        for value, before in zip(found, state, strict=True)
    )
