"""Augmentations against numbers worked out by hand and a literal HSV rendering."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.data import augment
from fgfi_tf.data.augment import KittiAugmentation

NONE = KittiAugmentation(
    brightness=0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), shift_x=0, shift_y=0, flip=0.0
)


def image_of(height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(image, boxes, config, seed=(1, 2), run_mode=lambda f: f):
    """The augmented image as [H',W',3] and its boxes."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    out, boxes, _ = run_mode(config.augment)(
        tf.constant(image), tf.constant(boxes), tf.zeros(len(boxes), tf.int32), tf.constant(seed, tf.int64)
    )
    return out.numpy(), boxes.numpy()


def colors(pixel, draw, config):
    planes = [tf.constant([[c]], tf.uint8) for c in pixel]
    return [float(p[0, 0]) for p in augment.change_colors(planes, tf.constant(draw, tf.float32), config)]


def test_nothing_to_do_changes_nothing(run_mode):
    image, box = image_of(), [[1, 2, 3, 4]]
    out, boxes = run(image, box, NONE, run_mode=run_mode)
    np.testing.assert_array_equal(out, image.astype(np.float32))
    np.testing.assert_array_equal(boxes, np.float32(box))


@pytest.mark.parametrize("draw, shift", [(0.0, -50), (0.5, 0), (0.999999, 50), (0.25, -25)])
def test_brightness_adds_a_whole_number_and_clips(draw, shift):
    config = KittiAugmentation(contrast=(1.0, 1.0), saturation=(1.0, 1.0))
    expected = [float(np.clip(c + shift, 0, 255)) for c in (10, 100, 240)]
    assert colors((10, 100, 240), (draw, 0.5, 0.5), config) == pytest.approx(expected, abs=1e-4)


def test_contrast_multiplies_what_brightness_left_and_clips():
    """Brightness +50 clips 240 to 255 before contrast 0.5 halves it: 127.5, not 145."""
    config = KittiAugmentation(saturation=(1.0, 1.0))
    assert colors((0, 100, 240), (0.999999, 0.0, 0.0), config) == pytest.approx([25, 75, 127.5], abs=1e-3)
    # brightness -50 clips 10 to 0; contrast 1.5 takes 240 - 50 to 285, clipped to 255
    assert colors((10, 100, 240), (0.0, 1.0, 0.0), config) == pytest.approx([0, 75, 255], abs=1e-3)


def test_saturation_by_hand():
    """(200, 100, 150): V = 200, S = 0.5. Factor 0.5 halves the distances to V; 1.7 takes S to 0.85;
    3 would take it to 1.5, so it stops at 1, where the smallest channel is 0."""
    planes = [tf.constant([[c]], tf.float32) for c in (200.0, 100.0, 150.0)]
    for factor, expected in (
        (0.5, (200, 150, 175)),
        (1.7, (200, 30, 115)),
        (3.0, (200, 0, 100)),
        (0.0, (200,) * 3),
    ):
        out = [float(p[0, 0]) for p in augment.scale_saturation(planes, tf.constant(factor))]
        assert out == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("factor", [0.3, 0.9, 1.0, 1.2, 1.7])
def test_saturation_equals_the_way_over_hsv(factor):
    pixels = np.concatenate(
        [image_of(6, 8).reshape(-1, 3), [[0, 0, 0], [255, 255, 255], [7, 7, 7], [255, 0, 0]]]
    )
    planes = [tf.constant(pixels[None, :, c], tf.float32) for c in range(3)]
    out = np.stack([p.numpy()[0] for p in augment.scale_saturation(planes, tf.constant(factor))], -1)
    for pixel, result in zip(pixels, out, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb(h, min(s * factor, 1), v))
        np.testing.assert_allclose(result, expected, atol=2e-3)


def offsets(boxes, draw, size=(60, 90)):
    boxes = tf.constant(np.asarray(boxes, np.float32).reshape(-1, 4))
    config = KittiAugmentation(shift_x=15, shift_y=10)
    return (
        augment.shift_offsets(boxes, tf.constant(draw, tf.float32), config, tf.constant(size))
        .numpy()
        .tolist()
    )


def test_drift_reaches_its_whole_range_and_never_into_a_box():
    assert offsets([], (0.0, 0.0)) == [-10, -15]
    assert offsets([], (0.99999, 0.99999)) == [10, 15]  # no boxes: the whole range
    boxes = [[7.9, 30, 40, 50], [20, 3.2, 30, 9]]  # leftmost 7.9, topmost 3.2
    assert offsets(boxes, (0.99999, 0.99999)) == [3, 7]
    assert offsets(boxes, (0.0, 0.0)) == [-10, -15]
    assert offsets([[-0.5, 0, 5, 5]], (0.99999, 0.99999)) == [0, 0]
    # 0.5 of the 14 values -10 .. 3, and of the 23 values -15 .. 7
    assert offsets(boxes, (0.5, 0.5)) == [-3, -4]


def test_drift_leaves_something_of_small_pictures_without_objects(run_mode):
    assert offsets([], (0.99999, 0.99999), size=(9, 31)) == [4, 15]
    assert offsets([[5, 6, 7, 8]], (0.99999, 0.99999), size=(9, 31)) == [6, 5]
    image, none = tf.constant(image_of(9, 31)), (tf.zeros([0, 4]), tf.zeros([0], tf.int32))
    moved = run_mode(lambda key: KittiAugmentation().augment(image, *none, key)[0])
    shapes = [moved(tf.constant([seed, 3], tf.int64)).shape[:2] for seed in range(12)]
    assert min(min(shape) for shape in shapes) >= 5 and len({tuple(shape) for shape in shapes}) > 6


def test_drift_moves_picture_and_boxes_together():
    image, box = image_of(20, 30), [4.0, 5.0, 9.0, 12.0]
    config = KittiAugmentation(
        brightness=0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), shift_x=6, shift_y=4, flip=0.0
    )
    seen = set()
    for seed in range(12):
        out, boxes = run(image, box, config, (3, seed))
        dy, dx = 20 - out.shape[0], 30 - out.shape[1]
        seen.add((dy, dx))
        assert -4 <= dy <= 4 and -6 <= dx <= 4
        np.testing.assert_allclose(boxes[0], [4 - dx, 5 - dy, 9 - dx, 12 - dy])
        np.testing.assert_array_equal(out[5 - dy : 13 - dy, 4 - dx : 10 - dx], image[5:13, 4:10])
        if dy < 0:
            np.testing.assert_allclose(out[:-dy], np.broadcast_to(augment.FILL, out[:-dy].shape), rtol=1e-6)
        if dx < 0:
            np.testing.assert_allclose(
                out[:, :-dx], np.broadcast_to(augment.FILL, out[:, :-dx].shape), rtol=1e-6
            )
    assert len(seen) > 6


def test_flip_mirrors_picture_and_boxes(run_mode):
    """Width 8: the box over columns 1..3 is over columns 7 - 3 .. 7 - 1 of the mirrored image."""
    image = image_of()
    config = KittiAugmentation(
        brightness=0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), shift_x=0, shift_y=0, flip=1.0
    )
    out, boxes = run(image, [1, 2, 3, 4], config, run_mode=run_mode)
    np.testing.assert_array_equal(out, image[:, ::-1].astype(np.float32))
    np.testing.assert_array_equal(boxes, [[4, 2, 6, 4]])


def test_flip_and_drift_together_keep_the_box_on_its_object():
    """The pixels inside the box are the object's, whatever the seed."""
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:13, 4:10] = 255
    config = KittiAugmentation(
        brightness=0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), shift_x=6, shift_y=4, flip=0.5
    )
    mirrored = 0
    for seed in range(20):
        out, boxes = run(image, [4, 5, 9, 12], config, (0, seed))
        x0, y0, x1, y1 = boxes[0].astype(int)
        inside = out[y0 : y1 + 1, x0 : x1 + 1]
        assert inside.shape == (8, 6, 3) and (inside == 255).all() and (out == 255).all(-1).sum() == 48
        mirrored += x0 > out.shape[1] / 2
    assert 3 <= mirrored <= 17


def test_the_seed_alone_decides(run_mode):
    image, box = image_of(40, 60), [[10, 10, 20, 20]]
    first = run(image, box, KittiAugmentation(), (5, 7), run_mode)
    again = run(image, box, KittiAugmentation(), (5, 7), run_mode)
    np.testing.assert_array_equal(first[0], again[0])
    others = [run(image, box, KittiAugmentation(), seed, run_mode)[0] for seed in ((5, 8), (6, 7))]
    assert all(o.shape != first[0].shape or (o != first[0]).any() for o in others)


def test_images_without_objects_are_augmented(run_mode):
    out, boxes = run(image_of(200, 300), [], KittiAugmentation(), run_mode=run_mode)
    assert boxes.shape == (0, 4) and np.isfinite(out).all() and out.min() > -1e-3 and out.max() <= 255
