"""Against the whole shared arrays: Anchors and box coding against hand-made values and the reference's."""

import numpy as np
import pytest
import tensorflow as tf
from places import SHARED

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry.anchors import repeat_cell, rounded_cell
from fgfi_tf.geometry.iou import pairwise_iou
from fgfi_tf.models.faster_rcnn import box_coding

SHARED_FOLDER = SHARED / "golden/frcnn"
if not SHARED_FOLDER.exists():
    pytest.skip(f"the shared reference data is absent: {SHARED_FOLDER}", allow_module_level=True)


@pytest.mark.shared_data
@pytest.mark.parametrize("height", [37, 38])
def test_grid_equals_the_reference(shared_path, height):
    golden = np.load(shared_path("golden/frcnn/anchors.npz"))
    np.testing.assert_array_equal(rounded_cell(), golden["base"])
    grid = tf.reshape(repeat_cell(rounded_cell(), height, 50, 16), [-1, 4])
    np.testing.assert_array_equal(grid, golden[f"grid_{height}x50"])


@pytest.mark.shared_data
def test_box_coding_equals_the_reference(shared_path, run_mode):
    golden = np.load(shared_path("golden/frcnn/bbox_transform.npz"))
    ex, gt = tf.constant(golden["ex"]), tf.constant(golden["gt"])
    encoded = run_mode(box_coding.encode)(ex, gt)
    np.testing.assert_allclose(encoded, golden["encoded"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        box_coding.decode(ex, tf.constant(golden["encoded"])), golden["roundtrip"], rtol=1e-5, atol=1e-3
    )
    deltas = tf.reshape(tf.constant(golden["raw_deltas84"]), [200, 21, 4]) * golden["stds"] + golden["means"]
    decoded = run_mode(box_coding.decode)(ex[:, None], deltas)
    np.testing.assert_allclose(tf.reshape(decoded, [200, 84]), golden["decoded84"], rtol=1e-5, atol=1e-3)
    clipped = forms.clip(decoded, tf.constant(golden["im_info"][:, None, :2]), inclusive=True)
    np.testing.assert_allclose(tf.reshape(clipped, [200, 84]), golden["clipped84"], rtol=1e-5, atol=1e-3)
    iou = pairwise_iou(ex[:60], gt[:40], inclusive=True)
    np.testing.assert_allclose(iou, golden["iou"], rtol=1e-5, atol=1e-6)
