"""The imitation masks, on grids small enough to work out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.imitation import masks


def grid(height, width, stride, sizes):
    """Anchors [h, w, K, 4] of the given widths and heights, centred in the cells."""
    anchors = np.zeros([height, width, len(sizes), 4], np.float32)
    for row in range(height):
        for column in range(width):
            cx, cy = (column + 0.5) * stride, (row + 0.5) * stride
            for k, (w, h) in enumerate(sizes):
                anchors[row, column, k] = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    return tf.constant(anchors)


def test_iou_of_every_position_by_hand(run_mode):
    anchors = grid(1, 3, 10, [(10, 10), (20, 10)])
    boxes = tf.constant([[[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]]])
    # Box 0 is the first anchor of column 0 (1); in column 1 it meets [0, 20] x [0, 10] shifted:
    # anchor 2 there is [5, 25], intersection 5 of a union of 25; column 2's [15, 35] misses it.
    # Box 1: column 0: [0, 10] gives 5 / 15, [-5, 15] gives 10 / 20; column 1: [10, 20] gives
    # 5 / 15, [5, 25] gives 10 / 20; column 2: [20, 30] misses, [15, 35] touches only.
    expected = [[[[1.0, 0.2, 0.0]], [[0.5, 0.5, 0.0]]]]
    np.testing.assert_allclose(run_mode(masks.best_iou_per_position)(anchors, boxes), expected, atol=1e-6)


def test_threshold_is_relative_to_each_box_and_strict(run_mode):
    anchors = grid(1, 3, 10, [(10, 10), (20, 10)])
    boxes = tf.constant([[[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]]])
    both = tf.constant([[True, True]])
    first = tf.constant([[True, False]])

    def mask(valid, psi):
        function = run_mode(lambda b, v: masks.fine_grained_masks([anchors], b, v, psi))
        return function(boxes, valid)[0].numpy().tolist()

    assert mask(first, 0.5) == [[[True, False, False]]]
    assert mask(first, 0.1) == [[[True, True, False]]]  # 0.2 > 0.1
    assert mask(first, 0.2) == [[[True, False, False]]]  # 0.2 is not greater than 0.2
    assert mask(both, 0.5) == [[[True, True, False]]]  # the second box's best is 0.5: 0.5 > 0.25
    assert mask(both, 1.0) == [[[False, False, False]]]
    assert mask(both, 0.0) == [[[True, True, False]]]  # what overlaps nothing stays out


def test_padding_and_images_without_objects_have_no_mask(run_mode):
    anchors = grid(2, 2, 8, [(8, 8)])
    boxes = tf.constant([[[0.0, 0.0, 8.0, 8.0]], [[0.0, 0.0, 8.0, 8.0]], [[4.0, 4.0, 4.0, 4.0]]])
    valid = tf.constant([[True], [False], [True]])  # an object, padding, an empty box
    mask = run_mode(lambda b, v: masks.fine_grained_masks([anchors], b, v)[0])(boxes, valid)
    assert mask.numpy().sum(axis=(1, 2)).tolist() == [1, 0, 0]
    none = masks.fine_grained_masks([anchors], tf.zeros([1, 0, 4]), tf.zeros([1, 0], tf.bool))[0]
    assert not none.numpy().any()


def test_a_box_marks_the_level_it_fits():
    """Feature pyramids: the best IoU is taken over the anchors of all levels."""
    fine, coarse = grid(4, 4, 8, [(8, 8)]), grid(2, 2, 16, [(16, 16)])
    small, large = [0.0, 0.0, 8.0, 8.0], [16.0, 16.0, 32.0, 32.0]
    valid = tf.constant([[True]])
    on_fine, on_coarse = masks.fine_grained_masks([fine, coarse], tf.constant([[small]]), valid)
    assert on_fine.numpy().sum() == 1 and on_fine.numpy()[0, 0, 0]
    assert on_coarse.numpy().sum() == 0  # IoU 64 / 256 = 0.25 with the best 1
    on_fine, on_coarse = masks.fine_grained_masks([fine, coarse], tf.constant([[large]]), valid)
    assert on_fine.numpy().sum() == 0
    assert on_coarse.numpy().sum() == 1 and on_coarse.numpy()[0, 1, 1]


def test_ground_truth_region_holds_the_centres_inside_a_box(run_mode):
    anchors = grid(2, 3, 10, [(4, 4), (8, 2)])  # centres at x 5, 15, 25 and y 5, 15
    boxes = tf.constant([[[5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 30.0, 20.0]]])
    valid = tf.constant([[True, False]])
    mask = run_mode(lambda b, v: masks.gt_box_masks([anchors], b, v)[0])(boxes, valid)
    assert mask.numpy().tolist() == [[[True, False, False], [False, False, False]]]  # 15 is outside [5, 15)


def test_full_region_is_everywhere():
    anchors = grid(2, 3, 10, [(4, 4)])
    mask = masks.imitation_masks([anchors], tf.zeros([2, 1, 4]), tf.zeros([2, 1], tf.bool), region="full")[0]
    assert mask.shape == (2, 2, 3) and mask.numpy().all()


def test_unknown_region_is_refused():
    with pytest.raises(
        ValueError, match="imitation region must be one of fine_grained, gt_box, full; got 'box'"
    ):
        masks.imitation_masks([], tf.zeros([1, 1, 4]), tf.zeros([1, 1], tf.bool), region="box")


def test_the_grid_form_agrees_with_all_pairs():
    """Random boxes against a plain numpy IoU with every anchor."""
    rng = np.random.default_rng(3)
    anchors = grid(5, 7, 16, [(36, 37), (115, 59), (20, 90)])
    corner = rng.uniform(-20, 100, [2, 6, 2])
    boxes = np.concatenate([corner, corner + rng.uniform(1, 90, [2, 6, 2])], axis=-1).astype(np.float32)
    a, b = anchors.numpy().astype(np.float64), boxes.astype(np.float64)[:, :, None, None, None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=-1)
    union = (
        np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1) - intersection
    )
    expected = (intersection / union).max(axis=-1)
    np.testing.assert_allclose(masks.best_iou_per_position(anchors, tf.constant(boxes)), expected, atol=1e-6)


def test_padding_is_in_no_mask_and_sets_no_threshold():
    # Cells of 16 pixels in a row, one 16 x 16 anchor each; the box fills cell 2 and a quarter of cell 1.
    x = np.arange(3, dtype=np.float32) * 16
    anchors = tf.constant(np.stack([x, 0 * x, x + 16, 0 * x + 16], -1)[None, :, None])
    boxes, valid = tf.constant([[[28.0, 0.0, 48.0, 16.0]]]), tf.constant([[True]])
    (whole,) = masks.imitation_masks([anchors], boxes, valid)
    # IoU 16/20 with cell 2 and 4/32 with cell 1, which is below half of 0.8
    np.testing.assert_array_equal(whole, [[[False, False, True]]])
    valid_mask = [tf.constant([[[True, True, False]]])]
    for region, expected in (
        ("fine_grained", [False, True, False]),  # now the best of those that are left
        ("gt_box", [False, False, False]),
        ("full", [True, True, False]),
    ):
        (mask,) = masks.imitation_masks([anchors], boxes, valid, valid_mask, region=region)
        np.testing.assert_array_equal(mask, [[expected]], err_msg=region)
