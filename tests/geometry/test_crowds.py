"""Ground truths a few at a time are all of them; rows behind the last one cost nothing."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.geometry import crowds
from fgfi_tf.geometry.crowds import CHUNK, last_row, over_truths
from fgfi_tf.imitation.masks import imitation_masks
from fgfi_tf.models.faster_rcnn import rpn_targets
from fgfi_tf.models.faster_rcnn.conventions import CONVENTIONS
from fgfi_tf.models.shuffledet import coding
from fgfi_tf.models.yolov2.region_loss import best_iou


@pytest.mark.parametrize(
    "valid, wanted", [([[0, 1, 0], [0, 0, 0]], 2), ([[0, 0]], 0), ([[1, 0, 1]], 3), (np.zeros((2, 0)), 0)]
)
def test_last_row(valid, wanted):
    assert int(last_row(tf.constant(np.asarray(valid, bool)))) == wanted


def visits(valid, in_graph):
    """Which chunks steps were of (a sum of powers of two), and for each image the sum of its rows, from 1."""

    def step(state, start, boxes, valid):
        seen, total = state
        return seen + 2 ** (start // CHUNK), total + tf.reduce_sum(
            tf.where(valid, boxes[..., 0], 0.0), axis=1
        )

    def run(boxes, valid):
        return over_truths(step, (tf.constant(0), tf.zeros([tf.shape(valid)[0]])), boxes, valid)

    rows = np.arange(1, valid.shape[1] + 1, dtype=np.float32)
    boxes = np.tile(rows[None, :, None], [len(valid), 1, 4])
    if in_graph:
        signature = [tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], tf.bool)]
        run = tf.function(run, input_signature=signature)
    seen, total = run(tf.constant(boxes), tf.constant(valid))
    return int(seen), total.numpy().tolist()


@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
def test_every_row_is_seen_and_no_chunk_behind_the_last(in_graph):
    valid = np.zeros((2, 5 * CHUNK - 7), bool)
    valid[0, [0, 3]] = valid[1, [1, CHUNK, 2 * CHUNK + 1]] = True
    assert visits(valid, in_graph) == (1 + 2 + 4, [1 + 4, 2 + CHUNK + 1 + 2 * CHUNK + 2])
    valid[:] = True
    rows = 5 * CHUNK - 7
    assert visits(valid, in_graph) == (1 + 2 + 4 + 8 + 16, [rows * (rows + 1) / 2] * 2)
    valid[:] = False
    assert visits(valid, in_graph) == (0, [0.0, 0.0])


ROWS = 150  # three chunks, of which the first two hold objects
ANCHORS = np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), -1).reshape(-1, 2) * 16
ANCHORS = np.concatenate([ANCHORS, ANCHORS + [[31.0, 23.0]]], -1).astype(np.float32)


def crowd(seed=0):
    """Boxes of two images; several alike, so that there are ties, and holes between them."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 10, [2, ROWS, 2]) * 8.0
    boxes = np.concatenate([low, low + rng.integers(1, 6, [2, ROWS, 2]) * 8.0], -1).astype(np.float32)
    valid = rng.random([2, ROWS]) < 0.5
    valid[:, 2 * CHUNK - 3 :] = False
    boxes[0, 100], valid[0, [7, 100]] = boxes[0, 7], True
    return tf.constant(boxes), tf.constant(valid)


def in_chunks_and_at_once(function, monkeypatch):
    made = [tf.function(function)]
    found = [made[0](*crowd())]
    monkeypatch.setattr(crowds, "CHUNK", 2 * ROWS)
    made.append(tf.function(function))
    found.append(made[1](*crowd()))
    loops = [{op.type for op in m.get_concrete_function(*crowd()).graph.get_operations()} for m in made]
    assert "StatelessWhile" in loops[0] or "While" in loops[0]
    return zip(*map(tf.nest.flatten, found), strict=True)


@pytest.mark.parametrize("rules", ["reference", "torchvision"])
def test_anchors_of_a_crowd(rules, monkeypatch):
    size = tf.constant([[80.0, 96.0], [64.0, 96.0]])

    def assign(boxes, valid):
        return tuple(rpn_targets.assign(ANCHORS, boxes, valid, size, CONVENTIONS[rules]))

    for chunks, at_once in in_chunks_and_at_once(assign, monkeypatch):
        np.testing.assert_array_equal(chunks, at_once)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"levels": "each", "psi": 0.3},
        {"levels": "assigned", "level_sizes": (0.0, 24.0)},
        {"region": "gt_box"},
        {"region": "gt_box", "levels": "assigned", "level_sizes": (0.0, 24.0)},
    ],
    ids=str,
)
def test_masks_of_a_crowd(options, monkeypatch):
    grid = ANCHORS.reshape(5, 6, 1, 4)
    coarse = np.concatenate([grid[::2, ::2, :, :2], grid[::2, ::2, :, :2] + 40.0], -1)
    parts = [tf.constant(np.random.default_rng(1).random(s) < 0.8) for s in ((2, 5, 6), (2, 3, 3))]

    def masks(boxes, valid):
        return imitation_masks((grid, coarse), boxes, valid, parts, **options)

    for chunks, at_once in in_chunks_and_at_once(masks, monkeypatch):
        assert np.asarray(at_once).any() and not np.asarray(at_once).all()
        np.testing.assert_array_equal(chunks, at_once)


def test_predicted_boxes_of_a_crowd(monkeypatch):
    predicted = tf.constant(np.random.default_rng(2).uniform(5, 60, (2, 40, 4)), tf.float32)
    for chunks, at_once in in_chunks_and_at_once(lambda *crowd: best_iou(predicted, *crowd), monkeypatch):
        assert float(tf.reduce_max(at_once)) > 0.0
        np.testing.assert_array_equal(chunks, at_once)


def test_rows_behind_the_last_object_take_no_anchor():
    """The same anchors with and without room for a crowd, and none for images without objects."""
    anchors = tf.constant(np.random.default_rng(3).uniform(10, 60, (200, 4)), tf.float32)
    boxes = tf.constant(np.random.default_rng(4).uniform(10, 60, (2, 9, 4)), tf.float32)
    valid = tf.constant([[True] * 9, [False] * 9])
    wanted = coding.assign_anchors(boxes, valid, anchors).numpy()
    assert len(set(wanted[0])) == 9 and not wanted[1].any()
    room = tf.pad(boxes, [[0, 0], [0, 500], [0, 0]]), tf.pad(valid, [[0, 0], [0, 500]])
    found = coding.assign_anchors(*room, anchors).numpy()
    np.testing.assert_array_equal(found, np.pad(wanted, [(0, 0), (0, 500)]))
    assert not coding.assign_anchors(room[0], room[1] & False, anchors).numpy().any()
