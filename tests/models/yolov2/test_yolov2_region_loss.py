"""The region loss: rules by hand, Darknet's own gradients, memory, empty images."""

import math

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.geometry.coding import decode_in_cells
from fgfi_tf.models.yolov2 import coding, region_loss

ANCHORS = tf.constant([[1.0, 1.0], [2.0, 2.0]])  # cells
LATE = 12_800


def losses(raw, boxes=(), classes=(), seen=LATE):
    """Of one image of 2 x 2 cells, two anchors, two classes; raw: {(row, column, anchor): 7 values}."""
    predictions = np.zeros((1, 2, 2, 2, 7), np.float32)
    predictions[..., 4] = -100.0  # no objectness but where said
    for place, values in raw.items():
        predictions[0][place] = values
    count = max(len(boxes), 1)
    padded = np.zeros((1, count, 4), np.float32)
    labels = np.zeros((1, count), np.int32)
    padded[0, : len(boxes)] = np.reshape(boxes, (-1, 4))
    labels[0, : len(classes)] = classes
    valid = np.arange(count)[None] < len(boxes)
    found = region_loss.region_losses(
        tf.reshape(predictions, [1, 2, 2, 14]), padded, labels, valid, ANCHORS, tf.constant(seen)
    )
    return {key: float(value) for key, value in found.items()}


def test_no_object_anywhere():
    # Objectness 0.5 of one predictor: 1/2 * 0.25.
    found = losses({(0, 1, 1): [0, 0, 0, 0, 0, 0, 0]})
    assert found["no_object_loss"] == pytest.approx(0.125)
    assert all(found[name] == 0 for name in ("prior_loss", "box_loss", "object_loss", "class_loss"))


def test_one_object():
    # A ground truth of one cell's size at (0.75, 0.25): the middle of cell (0, 1); anchor 0 fits exactly.
    raw = {(0, 1, 0): [math.log(3), 0, 0.2, 0, 0, 0, 1]}
    found = losses(raw, [(0.75, 0.25, 0.5, 0.5)], [1])
    weight = 2 - 0.25
    assert found["box_loss"] == pytest.approx(0.5 * weight * (0.25**2 + 0.2**2), rel=1e-5)
    # Predicted: centre (1.75, 0.5), e^0.2 x 1 cells. Overlap in x: from 1.75 - e^0.2 / 2 to 2, in y: 1.
    wide = math.exp(0.2)
    shared = 2 - (1.75 - wide / 2)
    iou = shared / (1 + wide - shared)
    assert found["object_loss"] == pytest.approx(0.5 * 5 * (iou - 0.5) ** 2, rel=1e-5)
    assert found["class_loss"] == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-5)
    assert found["no_object_loss"] == pytest.approx(0, abs=1e-9)  # its own predictor is left alone


def test_a_predictor_that_overlaps_learns_nothing():
    # Anchor 1 of the cell predicts half its size, the ground truth's own box: IoU 1, but not its predictor.
    half = math.log(0.5)
    raw = {(0, 1, 1): [0, 0, half, half, 0, 0, 0]}
    found = losses(raw, [(0.75, 0.25, 0.5, 0.5)], [0])
    assert found["no_object_loss"] == pytest.approx(0, abs=1e-9)
    smaller = math.log(0.5 * math.sqrt(0.59))  # IoU 0.59
    assert losses({(0, 1, 1): [0, 0, smaller, smaller, 0, 0, 0]}, [(0.75, 0.25, 0.5, 0.5)], [0])[
        "no_object_loss"
    ] == pytest.approx(0.125)


def test_the_prior_is_of_the_first_12800_images():
    raw = {(1, 1, 1): [0, 0, 0.5, 0, -100, 0, 0], (0, 0, 0): [math.log(3), 0, 0, 0, -100, 0, 0]}
    assert losses(raw, seen=12_799)["prior_loss"] == pytest.approx(0.5 * 0.01 * (0.25 + 0.0625))
    assert losses(raw, seen=12_800)["prior_loss"] == 0
    # A ground truth's own predictor has no prior.
    with_truth = losses(raw, [(0.25, 0.25, 0.5, 0.5)], [0], seen=12_799)
    assert with_truth["prior_loss"] == pytest.approx(0.5 * 0.01 * 0.25)


def test_a_later_ground_truth_replaces_an_earlier_one():
    two = [(0.75, 0.25, 0.5, 0.5), (0.74, 0.26, 0.5, 0.5)]
    both = losses({}, two, [0, 1])
    last = losses({}, two[1:], [1])
    for name in ("box_loss", "object_loss", "class_loss"):
        assert both[name] == pytest.approx(last[name], rel=1e-6)


def test_centre_on_the_far_edge_stays_in_the_grid():
    found = losses({}, [(1.0, 1.0, 0.5, 0.5)], [0])
    assert all(math.isfinite(value) for value in found.values()) and found["class_loss"] > 0


@pytest.mark.parametrize("when", ["warm", "after"])
def test_golden(shared_path, run_mode, when):
    golden = np.load(shared_path("golden/yolov2/region_loss.npz"))
    raw = tf.constant(golden["raw"].transpose(0, 2, 3, 1))
    truths, anchors = golden["truths"], tf.constant(golden["anchors"])
    valid = truths[..., 0] > 0
    seen = tf.constant(12_799 if when == "warm" else 12_800)

    @run_mode
    def compute(raw):
        with tf.GradientTape() as tape:
            tape.watch(raw)
            terms = region_loss.region_losses(
                raw, truths[..., :4], truths[..., 4].astype(np.int32), valid, anchors, seen
            )
            total = tf.add_n(list(terms.values()))
        return terms, tape.gradient(total, raw)

    terms, gradient = compute(raw)
    names = ("no_object_loss", "prior_loss", "box_loss", "object_loss", "class_loss")
    np.testing.assert_allclose([terms[name] for name in names], golden[f"loss_terms_{when}"], rtol=1e-5)
    np.testing.assert_allclose(
        -gradient.numpy().transpose(0, 3, 1, 2), golden[f"negative_gradient_{when}"], atol=1e-5
    )


def test_golden_assignment_and_iou(shared_path):
    golden = np.load(shared_path("golden/yolov2/region_loss.npz"))
    truths, anchors = golden["truths"], tf.constant(golden["anchors"])
    height, width = golden["raw"].shape[2:]
    index, _, _ = region_loss.assign(truths[..., :4], anchors, tf.constant(height), tf.constant(width))
    there = golden["assigned_anchor"] >= 0
    cells = golden["assigned_cell_row_col"]
    expected = (cells[..., 0] * width + cells[..., 1]) * len(anchors) + golden["assigned_anchor"]
    np.testing.assert_array_equal(index.numpy()[there], expected[there])
    parts = coding.split_predictions(golden["raw"].transpose(0, 2, 3, 1), len(anchors))
    boxes = decode_in_cells(parts["xy"], parts["wh"], anchors)
    best = region_loss.best_iou(
        tf.reshape(boxes, [len(truths), -1, 4]), tf.constant(truths[..., :4]), tf.constant(truths[..., 0] > 0)
    )
    best = best.numpy().reshape(len(truths), height, width, len(anchors)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(best, golden["best_iou"], atol=1e-5)


def test_crowds_in_a_graph_of_changing_size():
    """2,000 ground truths: the same as by the slow literal rule, and one trace for all sizes."""
    traces = []

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 4]),
            tf.TensorSpec([None, None, 4]),
            tf.TensorSpec([None, None], tf.bool),
        ]
    )
    def best(predicted, boxes, valid):
        traces.append(1)
        return region_loss.best_iou(predicted, boxes, valid)

    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.1, 0.9, (1, 20, 4)).astype(np.float32)
    for count in (0, 1, 64, 65, 2000):
        boxes = rng.uniform(0.1, 0.9, (1, count, 4)).astype(np.float32)
        valid = rng.uniform(size=(1, count)) < 0.5
        found = best(predicted, boxes, valid).numpy()
        expected = np.zeros(20)
        for i, p in enumerate(predicted[0].astype(np.float64)):
            for t, there in zip(boxes[0].astype(np.float64), valid[0], strict=True):
                w = min(p[0] + p[2] / 2, t[0] + t[2] / 2) - max(p[0] - p[2] / 2, t[0] - t[2] / 2)
                h = min(p[1] + p[3] / 2, t[1] + t[3] / 2) - max(p[1] - p[3] / 2, t[1] - t[3] / 2)
                if there and w > 0 and h > 0:
                    expected[i] = max(expected[i], w * h / (p[2] * p[3] + t[2] * t[3] - w * h))
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-6)
    assert len(traces) == 1


def test_scores_and_decoding_golden(shared_path):
    golden = np.load(shared_path("golden/yolov2/forward.npz"))
    anchors = tf.constant(golden["anchors"])
    parts = coding.split_predictions(golden["last_conv_original"].transpose(1, 2, 0)[None], len(anchors))
    scores = coding.scores_of(parts["objectness"], parts["classes"])[0].numpy()  # h x w x A x C
    expected = golden["detections"][:, 5:].reshape(len(anchors), *scores.shape[:2], -1).transpose(1, 2, 0, 3)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    boxes = decode_in_cells(parts["xy"], parts["wh"], anchors)[0].numpy()
    # The letterbox: the picture's longer side fills the input.
    width, height = golden["image_size_wh"]
    side = golden["input"].shape[1]
    new = (side, height * side // width) if width > height else (width * side // height, side)
    offset = np.array([(side - new[0]) / 2 / side, (side - new[1]) / 2 / side])
    scale = np.array([width / (new[0] / side), height / (new[1] / side)])
    pixels = np.concatenate([(boxes[..., :2] - offset) * scale, boxes[..., 2:] * scale], axis=-1)
    expected = golden["detections"][:, :4].reshape(len(anchors), *boxes.shape[:2], 4).transpose(1, 2, 0, 3)
    np.testing.assert_allclose(pixels, expected, rtol=1e-4, atol=2e-3)
