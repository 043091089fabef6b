"""anchor_grid: anchors for anybody's feature map."""

import numpy as np
import pytest

from fgfi_tf.anchors import anchor_grid


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
