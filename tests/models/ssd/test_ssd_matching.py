"""One default box for each ground truth, against the greedy rule in plain numpy, with many equal IoUs."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.models.ssd.matching import MATCH_IOU, match


def plain(boxes, valid, defaults):
    """The best pair of those left, again and again; float32 as the code under test."""
    halves = defaults[:, 2:] / 2
    corners = np.concatenate([defaults[:, :2] - halves, defaults[:, :2] + halves], 1)
    low, high = np.maximum(boxes[:, None, :2], corners[:, :2]), np.minimum(boxes[:, None, 2:], corners[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    areas = [np.prod(b[:, 2:] - b[:, :2], -1) for b in (boxes, corners)]
    iou = np.where(valid[:, None], shared / (areas[0][:, None] + areas[1] - shared), -1).astype(np.float32)
    found = np.where(iou.max(0) >= MATCH_IOU, iou.argmax(0), -1)
    left = iou.copy()
    for _ in range(len(boxes)):
        truth, place = np.unravel_index(left.argmax(), left.shape)
        if left[truth, place] <= 0:
            break
        found[place] = truth
        left[truth], left[:, place] = -1, -1
    return found


@pytest.mark.parametrize("count, sides", [(1, 6), (5, 4), (30, 4), (30, 8), (80, 8)])
def test_the_best_pair_of_those_left_again_and_again(count, sides):
    """Corners on a grid of eighths: IoUs are exact, and equal ones everywhere."""
    rng = np.random.default_rng(count + sides)
    low = rng.integers(0, sides, [6, count, 2]) / 8
    boxes = np.concatenate([low, low + rng.integers(1, 4, [6, count, 2]) / 8], -1).astype(np.float32)
    valid = rng.random([6, count]) < 0.9
    valid[5] = False
    centres = np.stack(np.meshgrid(np.arange(sides), np.arange(sides)), -1).reshape(-1, 2) / 8 + 1 / 16
    defaults = np.concatenate(
        [np.repeat(centres, 2, 0), np.tile([[1 / 8, 1 / 8], [3 / 8, 1 / 8]], [sides**2, 1])], 1
    )
    defaults = defaults.astype(np.float32)
    found = tf.function(match)(boxes, valid, defaults).numpy()
    wanted = [plain(b, v, defaults) for b, v in zip(boxes, valid, strict=True)]
    np.testing.assert_array_equal(found, wanted)


def test_an_equal_pair_waits_for_the_earlier_ground_truth():
    """Two overlap b alike, the first a as well; a third takes a: then b goes to the first, not to the second.

    Taking every ground truth's best at once would give b to the second.
    """
    a, b = [0.25, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5]  # centres and sizes: x from 0 to 0.5, from 0.5 to 1
    boxes = np.float32([[[0.25, 0.25, 0.75, 0.75], [0.5, 0.25, 1.0, 0.5], [0.0, 0.25, 0.5, 0.75]]])
    found = match(tf.constant(boxes), tf.constant([[True] * 3]), tf.constant([a, b], tf.float32)).numpy()
    assert plain(boxes[0], np.array([True] * 3), np.float32([a, b])).tolist() == [2, 1]
    assert found.tolist() == [[2, 1]]
    boxes[0, 1] = [0.75, 0.25, 1.25, 0.75]  # now as much of b as the first has
    found = match(tf.constant(boxes), tf.constant([[True] * 3]), tf.constant([a, b], tf.float32)).numpy()
    assert found.tolist() == [[2, 0]]
