"""Anchors and box coding against hand-made values and the reference's."""

import numpy as np
import pytest
import tensorflow as tf
from places import GOLDEN

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry.anchors import repeat_cell, rounded_cell
from fgfi_tf.geometry.iou import pairwise_iou
from fgfi_tf.models.faster_rcnn import box_coding


def test_the_nine_anchors_of_the_first_cell():
    expected = [
        (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199),
        (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263),
        (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359),
    ]  # fmt: skip
    np.testing.assert_array_equal(rounded_cell(), np.array(expected, np.float32))


def test_grid_is_row_column_anchor(run_mode):
    grid = run_mode(lambda h, w: repeat_cell(rounded_cell(), h, w, 16))(tf.constant(3), tf.constant(4))
    assert grid.shape == (3, 4, 9, 4) and grid.dtype == tf.float32
    np.testing.assert_array_equal(grid[2, 1, 3], [-56 + 16, -56 + 32, 71 + 16, 71 + 32])


@pytest.mark.parametrize("height", [37, 38])
def test_grid_is_the_base_moved_by_16_pixels_a_cell(height):
    """The grids of 600 x 800 and 608 x 800 pixels, anchor by anchor."""
    base = rounded_cell().tolist()
    expected = [
        (x1 + 16 * column, y1 + 16 * row, x2 + 16 * column, y2 + 16 * row)
        for row in range(height)
        for column in range(50)
        for x1, y1, x2, y2 in base
    ]
    np.testing.assert_array_equal(tf.reshape(repeat_cell(rounded_cell(), height, 50, 16), [-1, 4]), expected)


def test_inside_excludes_the_first_pixel_beyond():
    boxes = tf.constant([[0.0, 0, 9, 9], [0, 0, 10, 9], [0, 0, 9, 10], [-1, 0, 5, 5], [0, -1, 5, 5]])
    result = forms.inside(boxes, tf.constant([[10.0, 10.0], [10.0, 11.0], [11.0, 10.0]]))
    expected = [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, False, True, False, False],
    ]
    np.testing.assert_array_equal(result, expected)


def test_encode_and_decode_by_hand(run_mode):
    anchor = tf.constant([[0.0, 0.0, 9.0, 19.0]])  # 10 x 20, centre (5, 10)
    box = tf.constant([[2.0, 4.0, 21.0, 13.0]])  # 20 x 10, centre (12, 9)
    deltas = run_mode(box_coding.encode)(anchor, box)
    np.testing.assert_allclose(deltas, [[0.7, -0.05, np.log(2), -np.log(2)]], rtol=1e-6)
    # decoding leaves out the - 1 of x2 and y2
    np.testing.assert_allclose(run_mode(box_coding.decode)(anchor, deltas), [[2, 4, 22, 14]], rtol=1e-6)


def test_clip_limits_to_the_last_pixel_of_each_image():
    boxes = tf.constant([[[-3.0, -4.0, 50.0, 60.0]], [[5.0, 6.0, 50.0, 60.0]]])
    clipped = forms.clip(boxes, tf.constant([[[20.0, 30.0]], [[100.0, 200.0]]]), inclusive=True)
    np.testing.assert_array_equal(clipped, [[[0, 0, 29, 19]], [[5, 6, 50, 60]]])


def test_one_pixel_boxes_have_their_own_rules():
    candidates = tf.constant([[[3.0, 3, 3, 3], [0, 0, 9, 9]]])
    truths = tf.constant([[[3.0, 3, 3, 3], [0, 0, 9, 9], [0, 0, 9, 9]]])
    iou = box_coding.target_iou(candidates, truths, tf.constant([[True, True, False]]))
    np.testing.assert_array_equal(iou, [[[-1, -1, -1], [0, 1, 0]]])


def test_box_coding_equals_the_reference(run_mode):
    golden = np.load(GOLDEN / "frcnn/bbox_transform.npz")
    ex, gt = tf.constant(golden["ex"]), tf.constant(golden["gt"])
    encoded = run_mode(box_coding.encode)(ex, gt)
    np.testing.assert_allclose(encoded, golden["encoded"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        box_coding.decode(ex, tf.constant(golden["encoded"])), golden["roundtrip"], rtol=1e-5, atol=1e-3
    )
    # five classes of the network-like deltas
    deltas = golden["raw_deltas"].reshape(-1, 5, 4) * golden["stds"] + golden["means"]
    decoded = run_mode(box_coding.decode)(ex[:, None], tf.constant(deltas))
    np.testing.assert_allclose(decoded, golden["decoded"].reshape(-1, 5, 4), rtol=1e-5, atol=1e-3)
    clipped = forms.clip(decoded, tf.constant(golden["im_info"][:, None, :2]), inclusive=True)
    np.testing.assert_allclose(clipped, golden["clipped"].reshape(-1, 5, 4), rtol=1e-5, atol=1e-3)
    iou = pairwise_iou(tf.constant(golden["iou_ex"]), tf.constant(golden["iou_gt"]), inclusive=True)
    np.testing.assert_allclose(iou, golden["iou"], rtol=1e-5, atol=1e-6)
