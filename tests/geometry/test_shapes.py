"""Shapes of boxes: IoU, k-means on it, text."""

from __future__ import annotations

import numpy as np
import pytest

from fgfi_tf.geometry import shapes


def test_iou_of_shapes_by_hand():
    """2 x 4 and 4 x 2 share 2 x 2 of 12; 2 x 4 lies in 4 x 8, 8 of its 32."""
    found = shapes.shape_iou([[2, 4], [1, 1]], [[4, 2], [2, 4], [4, 8]])
    np.testing.assert_allclose(found, [[4 / 12, 1.0, 8 / 32], [1 / 8, 1 / 8, 1 / 32]])
    np.testing.assert_allclose(shapes.best_ious([[2, 4], [1, 1]], [[4, 2], [4, 8]]), [1 / 3, 1 / 8])


@pytest.mark.parametrize("seed", range(5))
def test_clusters_that_anybody_sees(seed):
    """Three groups: their means, by area, whatever the seed."""
    groups = [[[10, 20], [12, 20], [11, 23]], [[100, 30], [104, 34]], [[90, 95], [100, 100], [110, 105]]]
    mixed = np.random.default_rng(seed).permutation(np.concatenate(groups))
    found = shapes.cluster(mixed, 3, seed)
    np.testing.assert_allclose(found, [[11, 21], [102, 32], [100, 100]])


def test_clustering_is_a_function_of_shapes_and_seed():
    drawn = np.random.default_rng(3).uniform(5, 200, (120, 2))
    found = shapes.cluster(drawn, 9, 7)
    np.testing.assert_array_equal(found, shapes.cluster(drawn, 9, 7))
    assert found.shape == (9, 2) and np.all(np.diff(found.prod(axis=1)) >= 0)
    # better than anchors that are spread evenly over the same range
    sides = np.linspace(40, 170, 3)
    evenly = np.stack(np.meshgrid(sides, sides), -1).reshape(-1, 2)
    assert shapes.best_ious(drawn, found).mean() > shapes.best_ious(drawn, evenly).mean()


def test_as_many_shapes_as_centres_are_the_centres():
    """Repeated shapes are no centres of their own."""
    found = shapes.cluster([[3, 1], [1, 1], [3, 1], [1, 1], [4, 4]], 3, 0)
    np.testing.assert_array_equal(found, [[1, 1], [3, 1], [4, 4]])


@pytest.mark.parametrize(("drawn", "different"), [([], 0), ([[1, 2]] * 30, 1), ([[1, 2], [2, 1]], 2)])
def test_too_few_shapes(drawn, different):
    with pytest.raises(ValueError, match=f"3 anchor shapes cannot be found among {different} different ones"):
        shapes.cluster(drawn, 3, 0)


def test_text_of_shapes():
    given = [[0.25, 0.5], [1 / 3, 1.5]]
    assert shapes.to_text(given) == "0.250000x0.500000,0.333333x1.500000"
    np.testing.assert_allclose(shapes.parse(shapes.to_text(given)), given, atol=5e-7)


@pytest.mark.parametrize(
    "text", ["", "0.5", "0.5x", "0.5x0.5,1", "axb", "0x1", "-1x1", "nanx1", "infx1", "1x1x1"]
)
def test_what_is_no_shape(text):
    with pytest.raises(ValueError, match="shapes w x h, each above 0, are expected"):
        shapes.parse(text)
