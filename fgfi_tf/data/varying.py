"""Network inputs that change their size in training, as YOLOv2's do (``random=1`` of Darknet's cfg files)."""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data.resize import Letterbox

UNIT = 32
EVERY = 10  # steps of one size
#: Of 416: 320 to 608.
SMALLEST, LARGEST = 320 / 416, 608 / 416


class VaryingLetterbox(Letterbox):
    """A letterbox into ``input_size`` in evaluation, in training into another multiple of 32 every ten steps.

    Of an ``input_size`` of 416 x 416 it is one of the ten squares from 320 to 608, of others as much smaller
    or larger; both sides of a rectangle grow together. Darknet ends with 200 batches of the largest one,
    which this does not: what a step sees does not depend on how many there will be.
    """

    in_evaluation = "letterbox"
    multiple = UNIT

    def largest_input(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """That of training."""
        return tuple(UNIT * _multiples(side)[1] for side in input_size)

    def training_size(self, input_size: tuple[int, int], seed: int, step: tf.Tensor) -> tf.Tensor:
        """int32 [2], a function of the seed and of ``step // 10``."""
        key = streams.key_of(seed, streams.Use.INPUT_SIZE, tf.convert_to_tensor(step) // EVERY)
        drawn = streams.uniform([], key)
        sides = []
        for side in input_size:
            low, high = _multiples(side)
            sides.append(UNIT * (low + tf.cast(drawn * (high - low + 1), tf.int32)))
        return tf.stack(sides)


def _multiples(side: int) -> tuple[int, int]:
    """The least and the most multiples of 32 that ``side`` becomes."""
    return max(1, round(side * SMALLEST / UNIT)), max(1, round(side * LARGEST / UNIT))


VARYING_LETTERBOX = VaryingLetterbox()
