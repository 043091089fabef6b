"""Against the whole shared arrays: RoIAlign in its three forms."""

import numpy as np
import pytest
import tensorflow as tf
from places import SHARED

from fgfi_tf.models.faster_rcnn.roi_align import roi_align

SHARED_FOLDER = SHARED / "golden/frcnn"
if not SHARED_FOLDER.exists():
    pytest.skip(f"the shared reference data is absent: {SHARED_FOLDER}", allow_module_level=True)


@pytest.mark.shared_data
def test_reference_form_equals_the_reference(shared_path, run_mode):
    golden = np.load(shared_path("golden/frcnn/roi_align.npz"))
    features = tf.constant(golden["features"].transpose(0, 2, 3, 1))
    rois = tf.constant(golden["rois"][None, :, 1:])
    upstream = tf.constant(golden["upstream7"].transpose(0, 2, 3, 1)[None])

    def pool(features, rois):
        with tf.GradientTape() as tape:
            tape.watch(features)
            pooled = roi_align(features, rois)
        return pooled, tape.gradient(pooled, features, upstream)

    pooled, gradient = run_mode(pool)(features, rois)
    np.testing.assert_allclose(pooled[0], golden["pooled7"].transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(gradient, golden["grad_features"].transpose(0, 2, 3, 1), atol=1e-4)


def _ramp(height, width, stride=16):
    """A map whose value is the x, and y, of each cell's centre in pixels (continuous)."""
    x, y = np.meshgrid((np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride)
    return tf.constant(np.stack([x, y], axis=-1)[None], tf.float32)


def _slow_align(features, roi, size=7, stride=16, ratio=2):
    """He et al.: a loop over bins and samples, after the text."""
    height, width, channels = features.shape
    x1, y1 = roi[0] / stride - 0.5, roi[1] / stride - 0.5
    bin_w, bin_h = ((roi[2] + 1 - roi[0]) / stride / size, (roi[3] + 1 - roi[1]) / stride / size)
    pooled = np.zeros([size, size, channels])
    for row in range(size):
        for column in range(size):
            for sy in range(ratio):
                for sx in range(ratio):
                    y = y1 + (row + (sy + 0.5) / ratio) * bin_h
                    x = x1 + (column + (sx + 0.5) / ratio) * bin_w
                    if y < -1 or y > height or x < -1 or x > width:
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    top, left = int(y), int(x)
                    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
                    fy, fx = y - top, x - left
                    pooled[row, column] += (1 - fy) * (
                        (1 - fx) * features[top, left] + fx * features[top, right]
                    )
                    pooled[row, column] += fy * (
                        (1 - fx) * features[below, left] + fx * features[below, right]
                    )
    return pooled / ratio**2
