"""Suppression in numpy: cases by hand, and the graph's own as the reference."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.geometry import nms
from fgfi_tf.geometry.suppression import Suppression, suppress

# The second overlaps the first by 8/12, the third touches neither, the fourth is the first again.
BOXES = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [20, 20, 30, 30], [0, 0, 10, 10]], np.float32)


def test_by_hand():
    scores = np.array([[0.9, 0.0], [0.8, 0.7], [0.3, 0.0], [0.0, 0.6]], np.float32)
    found = suppress(BOXES, scores, Suppression(0.5, 10, 10))
    # Of class 0 the second goes (IoU 80/120 with the first); of class 1 the fourth does (with the second).
    np.testing.assert_array_equal(found["classes"], [0, 1, 0])
    np.testing.assert_array_equal(found["scores"], np.float32([0.9, 0.7, 0.3]))
    np.testing.assert_array_equal(found["boxes"], BOXES[[0, 1, 2]])


@pytest.mark.parametrize(
    ("rule", "classes", "scores"),
    [
        (Suppression(0.7, 10, 10), [0, 0, 1, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.3]),  # 2/3 is not above 0.7
        (Suppression(0.7, 1, 10), [0, 1], [0.9, 0.7]),
        (Suppression(0.7, 10, 2), [0, 0], [0.9, 0.8]),
        (Suppression(0.7, 10, 10, score_threshold=0.6), [0, 0, 1], [0.9, 0.8, 0.7]),  # 0.6 is not above it
        (Suppression(0.7, 10, 10, best_class=True), [0, 0, 1, 0], [0.9, 0.8, 0.6, 0.3]),
        (Suppression(0.7, 10, 10, best_boxes=2), [0, 0, 1], [0.9, 0.8, 0.7]),
    ],
)
def test_every_rule(rule, classes, scores):
    raw = np.array([[0.9, 0.0], [0.8, 0.7], [0.3, 0.0], [0.0, 0.6]], np.float32)
    found = suppress(BOXES, raw, rule)
    np.testing.assert_array_equal(found["classes"], classes)
    np.testing.assert_array_equal(found["scores"], np.float32(scores))


def test_nothing_and_boxes_without_area():
    nothing = suppress(np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32), Suppression(0.5, 5, 5))
    assert [nothing[key].shape for key in ("boxes", "scores", "classes")] == [(0, 4), (0,), (0,)]
    points = suppress(np.zeros((2, 4), np.float32), np.ones((2, 1), np.float32), Suppression(0.5, 5, 5))
    assert len(points["scores"]) == 2  # as in the graph: the IoU of nothing with nothing is 0


@pytest.mark.parametrize("best_class", [False, True])
def test_as_in_the_graph(best_class):
    random = np.random.default_rng(0)
    corner = random.uniform(0, 40, (60, 2))
    boxes = np.concatenate([corner, corner + random.uniform(5, 30, (60, 2))], -1).astype(np.float32)
    scores = random.uniform(0, 1, (60, 3)).astype(np.float32)
    limits = {"iou_threshold": 0.4, "max_per_class": 7, "max_total": 15}
    if best_class:
        best = tf.constant(scores.argmax(1)[None].astype(np.int32))
        graph = nms.class_nms(boxes[None], scores.max(1)[None], best, 3, **limits)
    else:
        graph = nms.suppress(boxes[None, :, None], scores[None], **limits)
    ours = suppress(boxes, scores, Suppression(**limits, best_class=best_class))
    count = int(graph["count"][0])
    assert count == len(ours["scores"]) > 8
    for key in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(ours[key], graph[key][0, :count])
