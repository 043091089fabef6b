"""The benchmark's checks that two sides compute the same fail where one side is wrong."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SIZE = (64, 96)


@pytest.fixture(autouse=True)
def _scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def _found(offset=0.0, score=0.0, shift=0):
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 50, 40], [0, 0, 0, 0]]], np.float32)
    return {
        "boxes": boxes + offset,
        "scores": np.array([[0.9, 0.5, 0.0]], np.float32) + score,
        "classes": np.array([[0, 2, 0]]) + shift,
        "count": np.array([2]),
    }


def test_same_boxes_in_another_order_are_the_same():
    from benchmark import detections

    swapped = {key: v if key == "count" else v[:, [1, 0, 2]] for key, v in _found().items()}
    assert detections.same_boxes(swapped, _found(), "swapped") == 1.0


@pytest.mark.parametrize("wrong", [{"offset": 1.0}, {"score": 0.01}, {"shift": 1}])
def test_other_boxes_scores_or_classes_are_told(wrong):
    from benchmark import detections

    with pytest.raises(AssertionError, match="shifted: only 0 of the 2 best detections are the same"):
        detections.same_boxes(_found(**wrong), _found(), "shifted")


def test_nothing_to_compare_is_no_equality():
    from benchmark import detections

    empty = {**_found(), "count": np.array([0])}
    with pytest.raises(AssertionError, match="no detection to compare"):
        detections.same_boxes(_found(), empty, "empty")
    with pytest.raises(AssertionError, match="only 0 of the 2"):
        detections.same_boxes(empty, _found(), "empty")


def test_dense_outputs_have_to_agree_and_to_say_something():
    from benchmark import detections

    expected = np.random.default_rng(0).normal(size=(2, 5))
    assert detections.same_dense(expected + 5e-4, expected, "near") == pytest.approx(5e-4)
    with pytest.raises(AssertionError, match="far: outputs differ by 2.0e-03"):
        detections.same_dense(expected + 2e-3, expected, "far")
    with pytest.raises(AssertionError, match="cannot be told from zeros"):
        detections.same_dense(np.zeros((2, 5)), 1e-4 * expected, "tiny")
    with pytest.raises(AssertionError, match=r"\(5, 2\) is not \(2, 5\)"):
        detections.same_dense(expected.T, expected, "turned")


def test_mask_of_one_box_by_hand():
    from benchmark import parts

    # One row of three positions, anchors 16 x 16 from x = 0, 16, 32; the box covers the second wholly and
    # a quarter of the third: IoU 16 * 16 / (20 * 16) = 0.8, and 4 / (16 + 20 - 4) = 0.125 of it.
    anchors = np.array([[[[x, 0, x + 16, 16]] for x in (0, 16, 32)]], np.float32)
    boxes, valid = np.array([[[16, 0, 36, 16], [0, 0, 16, 16]]], np.float32), np.array([[True, False]])
    np.testing.assert_array_equal(parts.numpy_mask(anchors, boxes, valid, 0.5), [[[False, True, False]]])
    np.testing.assert_array_equal(parts.numpy_mask(anchors, boxes, valid, 0.1), [[[False, True, True]]])


@pytest.fixture(name="loss_case", scope="module")
def loss_case_fixture():
    import sys

    sys.path.insert(0, str(SCRIPTS))
    try:
        from benchmark import parts, workload
    finally:
        sys.path.remove(str(SCRIPTS))
    from fgfi_tf.imitation.layer import ImitationLoss
    from fgfi_tf.models.shuffledet import ShuffleDet

    detector = ShuffleDet("shuffledet_0.25x", input_size=SIZE, dropout=0.0)
    layer = ImitationLoss([7], kernel_initializer="he_normal")
    layer.build([(None, None, None, 5)])
    batch = workload.make_batch(2, SIZE, 3)
    boxes, valid = (tf.constant(x) for x in detector.imitation_boxes(batch))
    anchors = detector.imitation_anchors(*SIZE)
    maps = parts.loss_inputs(2, SIZE, 5, 7)
    return layer, parts.loss_functions(layer, anchors), anchors[0].numpy(), boxes, valid, maps


def test_imitation_losses_are_those_of_numpy(loss_case):
    from benchmark import parts

    assert "as numpy computes them" in parts.check_losses(*loss_case)


def test_the_loss_without_adaptation_is_of_two_different_maps(loss_case):
    _, functions, _, boxes, valid, maps = loss_case
    from benchmark import parts

    loss, gradient = functions[parts.WITHOUT][0](boxes, valid, maps["adapted"], maps["teacher"])
    assert float(loss) > 0.5
    assert float(tf.reduce_max(tf.abs(gradient))) > 0.0


@pytest.mark.parametrize("index", range(4))
def test_a_wrong_mask_loss_or_gradient_is_told(loss_case, index):
    from benchmark import parts

    layer, functions, *rest = loss_case
    name = list(functions)[index]
    function, keys = functions[name]

    def wrong(*arguments):
        found = list(function(*arguments))
        found[-1] = ~found[-1] if found[-1].dtype == tf.bool else 1.1 * found[-1]
        return found

    with pytest.raises(AssertionError, match=name):
        parts.check_losses(layer, {**functions, name: (wrong, keys)}, *rest)


def test_proposals_that_differ_are_told():
    from benchmark import frcnn_equality

    boxes = np.arange(400, dtype=np.float32).reshape(100, 4)
    assert frcnn_equality.same_proposals(boxes[::-1] + 0.2, boxes) == 1.0
    with pytest.raises(AssertionError, match="only 97.0% of 100 proposals"):
        frcnn_equality.same_proposals(boxes[:97], boxes)
    with pytest.raises(AssertionError, match="among the 104"):
        frcnn_equality.same_proposals(np.concatenate([boxes, boxes[:4]]), boxes)


def test_arrays_that_differ_are_told():
    from benchmark import frcnn_equality

    frcnn_equality.close(np.array([1.0, 100.0]), np.array([1.001, 100.0]), 1e-4, "map")
    with pytest.raises(AssertionError, match="map: the two sides differ by 1.0e-02"):
        frcnn_equality.close(np.array([2.0, 100.0]), np.array([1.0, 100.0]), 1e-4, "map")


def test_a_half_precision_loss_of_something_else_is_told():
    from benchmark import steps

    steps.check_near(1.04, 1.0, "ours")
    for loss in (1.06, float("nan")):
        with pytest.raises(AssertionError, match="ours: the loss is"):
            steps.check_near(loss, 1.0, "ours")
