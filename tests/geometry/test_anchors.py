"""anchor_grid: anchors for anybody's feature map."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf import anchors as anchors_before
from fgfi_tf.geometry import anchors
from fgfi_tf.geometry.anchors import anchor_grid


def test_anchors_by_hand():
    anchors = anchor_grid(2, 3, 16, sizes=[16, 32], ratios=[1.0, 4.0])
    assert anchors.shape == (2, 3, 4, 4) and anchors.dtype == np.float32
    # Cell (row 1, column 2) has its centre at x 40, y 24. Size 16: 16 x 16, and 8 wide x 32 high.
    assert anchors[1, 2].tolist() == [
        [32, 16, 48, 32],
        [36, 8, 44, 40],
        [24, 8, 56, 40],
        [32, -8, 48, 56],
    ]
    assert anchors[0, 0, 0].tolist() == [0, 0, 16, 16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3, 16, [16], [1]), "anchor_grid: height, width, stride must be numbers above 0; got (0, 3, 16)"),
        ((2, 3, 16, [], [1]), "anchor_grid: sizes must be numbers above 0; got []"),
        ((2, 3, 16, [16], [1, -2]), "anchor_grid: ratios must be numbers above 0; got [1, -2]"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError) as raised:
        anchor_grid(*arguments)
    assert str(raised.value) == message


def test_its_earlier_name():
    assert anchors_before.anchor_grid is anchor_grid


def test_shapes_by_hand():
    """Area 32^2; half as high as wide, and the other way round. Sizes change slowest."""
    found = anchors.shapes([32, 64], [0.5, 2.0])
    root = 2**0.5
    np.testing.assert_allclose(
        found, np.array([[32 * root, 32 / root], [32 / root, 32 * root]] * 2) * [[1], [1], [2], [2]]
    )
    np.testing.assert_array_equal(anchors.centred_cell([32], [0.5], rounded=True), [[-23, -11, 23, 11]])


def test_any_cell_at_any_stride(run_mode):
    cell = np.array([[-1, -2, 3, 4], [0, 0, 1, 1]], np.float32)
    grid = run_mode(lambda h, w: anchors.repeat_cell(cell, h, w, 32))(tf.constant(2), tf.constant(3))
    assert grid.shape == (2, 3, 2, 4) and grid.dtype == tf.float32
    np.testing.assert_array_equal(grid[1, 2], [[63, 30, 67, 36], [64, 32, 65, 33]])


def test_levels_equal_torchvision(shared_path):
    golden = np.load(shared_path("golden/fpn/anchors.npz"))
    for level, size in enumerate((32, 64, 128, 256, 512)):
        for name in ("rounded", "unrounded"):
            cell = anchors.centred_cell([size], [0.5, 1.0, 2.0], rounded=name == "rounded")
            np.testing.assert_allclose(cell, golden[f"base_anchors_{name}"][level], rtol=1e-6)
        cell = anchors.centred_cell([size], [0.5, 1.0, 2.0], rounded=True)
        height, width = golden["feature_sizes_hw"][level]
        grid = anchors.repeat_cell(cell, int(height), int(width), 4 * 2**level)
        np.testing.assert_array_equal(tf.reshape(grid, [-1, 4]), golden[f"anchors_P{level + 2}"])
