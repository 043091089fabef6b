"""RoIAlign in its three forms."""

import numpy as np
import pytest
import tensorflow as tf
from places import GOLDEN

from fgfi_tf.models.faster_rcnn.roi_align import KINDS, roi_align


def test_reference_form_equals_the_reference(run_mode):
    golden = np.load(GOLDEN / "frcnn/roi_align.npz")
    features, rois, upstream = (tf.constant(golden[k][None]) for k in ("features", "rois", "upstream7"))

    def pool(features, rois):
        with tf.GradientTape() as tape:
            tape.watch(features)
            pooled = roi_align(features, rois)
        return pooled, tape.gradient(pooled, features, upstream)

    pooled, gradient = run_mode(pool)(features, rois)
    np.testing.assert_allclose(pooled[0], golden["pooled7"], atol=1e-4)
    np.testing.assert_allclose(gradient[0], golden["grad_features"], atol=1e-4)


def test_each_image_gives_its_own_features():
    features = tf.random.stateless_normal([3, 9, 11, 4], [1, 2])
    rois = tf.random.stateless_uniform([3, 5, 2], [3, 4]) * 60
    rois = tf.concat([rois, rois + 70], axis=-1)
    for kind in KINDS:
        together = roi_align(features, rois, kind)
        assert together.shape == (3, 5, 7, 7, 4)
        for image in range(3):
            alone = roi_align(features[image : image + 1], rois[image : image + 1], kind)
            np.testing.assert_allclose(together[image], alone[0], atol=1e-5)


def _ramp(height, width, stride=16):
    """A map whose value is the x, and y, of each cell's centre in pixels (continuous)."""
    x, y = np.meshgrid((np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride)
    return tf.constant(np.stack([x, y], axis=-1)[None], tf.float32)


@pytest.mark.parametrize("kind", ["align", "crop_and_resize"])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_bins_of_a_ramp_hold_their_centres(kind, sampling_ratio):
    # 140 x 70 pixels from (40, 30): bins of 20 x 10, centres at 50, 70 ... and 35, 45 ...
    pooled = roi_align(
        _ramp(12, 20), tf.constant([[[40.0, 30.0, 179.0, 99.0]]]), kind, sampling_ratio=sampling_ratio
    )
    np.testing.assert_allclose(pooled[0, 0, 3, :, 0], 50 + 20 * np.arange(7), atol=1e-2)
    np.testing.assert_allclose(pooled[0, 0, :, 3, 1], 35 + 10 * np.arange(7), atol=1e-2)


def test_reference_form_on_a_ramp():
    # points every (width + 1 cell) / 7; cell k has the value 16 k + 8; averages of neighbours
    pooled = roi_align(_ramp(12, 20), tf.constant([[[32.0, 16.0, 128.0, 64.0]]]))
    points = 2 + (8 - 2 + 1) / 7 * np.arange(8)
    np.testing.assert_allclose(pooled[0, 0, 0, :, 0], 16 * (points[:-1] + points[1:]) / 2 + 8, atol=1e-3)


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


def test_align_equals_a_plain_loop():
    features = np.random.normal(size=[1, 8, 10, 3]).astype(np.float32)
    rois = np.array(
        [[[10, 20, 100, 90], [-30, -40, 60, 50], [100, 60, 250, 200], [33, 33, 33, 33]]], np.float32
    )
    pooled = roi_align(tf.constant(features), tf.constant(rois), "align")
    for index, roi in enumerate(rois[0]):
        np.testing.assert_allclose(pooled[0, index], _slow_align(features[0], roi), atol=1e-5)


def test_crop_and_resize_equals_align_inside_the_map():
    features = tf.random.stateless_normal([2, 12, 14, 3], [1, 2])
    rois = tf.constant([[[20.0, 25, 150, 140], [60, 50, 90, 99]], [[40.0, 20, 60, 170], [9, 8, 200, 180]]])

    def pool(kind):
        with tf.GradientTape() as tape:
            tape.watch(features)
            pooled = roi_align(features, rois, kind)
            loss = tf.reduce_sum(tf.square(pooled))
        return pooled, tape.gradient(loss, features)

    for a, b in zip(pool("align"), pool("crop_and_resize"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", ["reference", "align"])
def test_cells_of_the_padding_are_outside(kind):
    features = tf.random.stateless_normal([1, 8, 9, 2], [1, 2])
    padded = tf.pad(features, [[0, 0], [0, 3], [0, 4], [0, 0]], constant_values=100.0)
    rois = tf.constant([[[60.0, 50.0, 143.0, 127.0]]])
    expected = roi_align(features, rois, kind)
    result = roi_align(padded, rois, kind, content_size=tf.constant([[8, 9]]))
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_map_of_one_row_pools_to_that_row(kind):
    """Of ones, inside the picture, come ones; the published points below the only row give 0."""
    rois = tf.constant([[[16.0, 0.0, 79.0, 0.0]]])
    for features in (tf.ones([1, 1, 8, 1]), tf.pad(tf.ones([1, 1, 8, 1]), [[0, 0], [0, 2], [0, 0], [0, 0]])):
        pooled = roi_align(features, rois, kind, content_size=tf.constant([[1, 8]]))[0, 0, ..., 0]
        if kind == "reference":  # points at 0, 1/7 .. 1 rows: all but the last inside
            np.testing.assert_allclose(pooled[:6], np.ones((6, 7)), atol=1e-6)
            np.testing.assert_allclose(pooled[6], np.full(7, 0.5), atol=1e-6)
        else:
            np.testing.assert_allclose(pooled, np.ones((7, 7)), atol=1e-6)


def test_no_gradient_reaches_the_rois():
    rois = tf.Variable([[[20.0, 25.0, 90.0, 80.0]]])
    for kind in KINDS:
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(roi_align(tf.ones([1, 8, 8, 1]), rois, kind))
        assert tape.gradient(value, rois) is None


def test_half_precision_keeps_its_type():
    for kind in KINDS:
        pooled = roi_align(
            tf.ones([1, 8, 8, 1], tf.bfloat16), tf.constant([[[20.0, 25.0, 90.0, 80.0]]]), kind
        )
        assert pooled.dtype == tf.bfloat16


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown RoI pooling 'max'"):
        roi_align(tf.ones([1, 8, 8, 1]), tf.zeros([1, 1, 4]), "max")
