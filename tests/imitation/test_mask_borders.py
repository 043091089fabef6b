"""Which side of a box belongs to the mask of the ablation "G"."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.imitation import masks


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([5.0, 5, 25, 25], [(0, 0), (0, 1), (1, 0), (1, 1)]),  # from 5 on, up to 25
        ([5.01, 5, 25, 25], [(0, 1), (1, 1)]),
        ([5.0, 5.01, 25, 25], [(1, 0), (1, 1)]),
        ([5.0, 5, 25.01, 25], [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        ([5.0, 5, 25, 25.01], [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]),
    ],
)
def test_first_border_belongs_to_the_box_and_last_does_not(box, expected, run_mode):
    # 3 x 3 positions with centres 5, 15, 25
    y, x = np.meshgrid(np.arange(3) * 10, np.arange(3) * 10, indexing="ij")
    anchors = tf.constant(np.stack([x, y, x + 10, y + 10], -1)[:, :, None].astype(np.float32))
    (mask,) = run_mode(lambda b: masks.gt_box_masks([anchors], b, tf.constant([[True]])))(
        tf.constant([[box]])
    )
    assert [tuple(place) for place in np.argwhere(mask[0])] == expected
