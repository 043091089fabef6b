"""Forms of a box, IoU, coding and suppression, by hand and against torchvision's arrays."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.geometry import boxes, coding, nms
from fgfi_tf.geometry.iou import iou, pairwise_iou, shape_iou


def test_forms_by_hand(run_mode):
    corners = tf.constant([[2.0, 4.0, 11.0, 9.0]])
    np.testing.assert_array_equal(run_mode(boxes.centres_from_corners)(corners), [[6.5, 6.5, 9, 5]])
    np.testing.assert_array_equal(
        run_mode(boxes.centres_from_corners)(corners, inclusive=True), [[7, 7, 10, 6]]
    )
    np.testing.assert_array_equal(
        run_mode(boxes.corners_from_centres)(tf.constant([[7.0, 7, 10, 6]])), [[2, 4, 12, 10]]
    )
    np.testing.assert_array_equal(boxes.continuous(corners), [[2, 4, 12, 10]])
    np.testing.assert_array_equal(boxes.inclusive(boxes.continuous(corners)), corners)


def test_clip_by_hand():
    found = [
        boxes.clip(tf.constant([[-3.0, -4, 50, 60]]), tf.constant([[20.0, 30.0]]), i) for i in (False, True)
    ]
    np.testing.assert_array_equal(found, [[[0, 0, 30, 20]], [[0, 0, 29, 19]]])


@pytest.mark.parametrize("inclusive", [False, True])
def test_iou_of_both_conventions(run_mode, inclusive):
    """Ten pixels by ten and their neighbours: one ends where the other begins; a box of one pixel."""
    first = tf.constant([[0.0, 0, 9, 9], [5.0, 0, 14, 9]])
    second = tf.constant([[5.0, 0, 14, 9], [9.0, 0, 18, 9], [9.0, 5, 9, 5]])
    found = run_mode(pairwise_iou)(first, second, inclusive)
    assert found.shape == (2, 3)
    if inclusive:
        expected = [[50 / 150, 10 / 190, 1 / 100], [1, 60 / 140, 1 / 100]]
    else:
        expected = [[36 / 126, 0, 0], [1, 45 / 117, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        run_mode(iou)(first, second[:2], inclusive), [expected[0][0], expected[1][1]], rtol=1e-6
    )


def test_empty_boxes_have_no_iou():
    nothing = tf.zeros([2, 3, 4])
    np.testing.assert_array_equal(pairwise_iou(nothing, nothing), np.zeros((2, 3, 3)))
    np.testing.assert_array_equal(shape_iou(tf.zeros([2, 2]), tf.constant([[1.0, 2.0]])), [[0], [0]])


def test_shapes_share_their_centre():
    found = shape_iou(tf.constant([[[4.0, 2.0]]]), tf.constant([[2.0, 4.0], [4.0, 2.0], [8.0, 1.0]]))
    np.testing.assert_allclose(found, [[[4 / 12, 1, 4 / 12]]], rtol=1e-6)


@pytest.mark.parametrize("deviations", [None, coding.DEVIATIONS])
def test_coding_by_hand(run_mode, deviations):
    reference, box = tf.constant([[5.0, 10.0, 10.0, 20.0]]), tf.constant([[12.0, 9.0, 20.0, 10.0]])
    expected = np.array([[0.7, -0.05, np.log(2), -np.log(2)]]) / (deviations or 1.0)
    deltas = run_mode(coding.encode)(box, reference, deviations)
    np.testing.assert_allclose(deltas, expected, rtol=1e-6)
    corners = run_mode(coding.decode)(deltas, reference, deviations)
    np.testing.assert_allclose(corners, [[2, 4, 22, 14]], rtol=1e-5)


def test_sizes_that_would_explode():
    reference = tf.constant([[0.0, 0.0, 2.0, 2.0]])
    deltas = tf.constant([[0.0, 0.0, 0.5, 40.0]])
    capped = coding.decode(deltas, reference, exp=coding.capped_exp)
    np.testing.assert_allclose(capped[0, 2:] - capped[0, :2], [2 * np.exp(0.5), 125], rtol=1e-6)
    linear = coding.decode(deltas, reference, exp=coding.linear_exp)
    np.testing.assert_allclose(linear[0, 2:] - linear[0, :2], [2 * np.exp(0.5), 80 * np.e], rtol=1e-6)


@pytest.mark.parametrize(("name", "deviations"), [("1111", None), ("10_10_5_5", coding.DEVIATIONS)])
def test_coding_equals_torchvision(shared_path, run_mode, name, deviations):
    golden = np.load(shared_path("golden/fpn/box_coder.npz"))
    references = boxes.centres_from_corners(tf.constant(golden["boxes"]))
    truths = boxes.centres_from_corners(tf.constant(golden["truths"]))
    encoded = run_mode(coding.encode)(truths, references, deviations)
    np.testing.assert_allclose(encoded, golden[f"encoded_{name}"], rtol=1e-5, atol=1e-4)
    decoded = run_mode(lambda d: coding.decode(d, references, deviations, coding.capped_exp))(
        tf.constant(golden[f"decode_input_{name}"])
    )
    np.testing.assert_allclose(decoded, golden[f"decoded_{name}"], rtol=1e-5, atol=1e-2)


BOXES = [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 20], [50, 50, 60, 60]]


def test_suppression_within_a_class(run_mode):
    """The IoU of the first two is 0.9, of the first and the third 0.5, of the second and the third 0.45."""
    found = run_mode(nms.class_nms)(
        tf.constant([BOXES] * 2),
        tf.constant([[0.9, 0.8, 0.7, 0.0], [0.9, 0.8, 0.7, 0.6]]),
        tf.constant([[1, 1, 1, 1], [1, 0, 1, 1]]),
        2,
        iou_threshold=0.5,
        max_per_class=3,
        max_total=4,
    )
    np.testing.assert_array_equal(found["count"], [2, 4])
    np.testing.assert_array_equal(found["boxes"][0], [BOXES[0], BOXES[2], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(found["boxes"][1], BOXES)
    np.testing.assert_array_equal(found["classes"], [[1, 1, 0, 0], [1, 0, 1, 1]])
    np.testing.assert_allclose(found["scores"][0], [0.9, 0.7, 0, 0])


@pytest.mark.parametrize("kind", nms.KINDS)
def test_best_boxes(run_mode, kind):
    scores = tf.constant([[0.9, 0.8, 0.0, -np.inf]])
    found = run_mode(lambda: nms.best_boxes(tf.constant([BOXES]), scores, 3, 0.7, kind))()
    assert found["boxes"].shape == (1, 3, 4)
    np.testing.assert_array_equal(found["count"], [2])
    np.testing.assert_array_equal(found["boxes"][0, :2], [BOXES[0], BOXES[2]])
    np.testing.assert_allclose(found["scores"][0, :2], [0.9, 0.0])
