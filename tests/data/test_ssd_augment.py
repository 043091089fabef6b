"""SSD's augmentation: colours, canvas, crops, mirror images; worked out by hand."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.data import policies, ssd_augment
from fgfi_tf.data.augment import Augmentation
from fgfi_tf.data.ssd_augment import FILL, SSDAugmentation, chosen_window, crop_windows, cut, expanded
from fgfi_tf.errors import UserError

PLAIN = SSDAugmentation(expand=1.0, crop=False, flip=0.0)


def color(pixel, coins, values, first=0.0, policy=PLAIN):
    """One pixel through the colour steps; ``coins``: which of brightness, contrast, saturation, hue."""
    draw = [0.0 if letter in coins else 0.9 for letter in "bcsh"] + list(values) + [first]
    image = tf.constant([[pixel]], tf.float32)
    return policy.colored(image, tf.constant(draw, tf.float32))[0, 0].numpy()


def test_no_coin_no_change():
    np.testing.assert_allclose(color([10.5, 200, 90], "", [0.9] * 4), [10.5, 200, 90], rtol=1e-6)


@pytest.mark.parametrize(
    "draw, expected", [(0.0, [0, 168, 58]), (0.5, [10, 200, 90]), (0.75, [26, 216, 106])]
)
def test_brightness_adds_and_clips(draw, expected):
    np.testing.assert_allclose(color([10, 200, 90], "b", [draw, 0, 0, 0]), expected, atol=1e-4)


def test_contrast_multiplies_before_or_after_by_a_coin():
    np.testing.assert_allclose(color([10, 200, 90], "c", [0, 0.0, 0, 0]), [5, 100, 45])
    # Saturation 1.5 of (100, 200, 150): V stays 200, 50 below becomes 75, 100 becomes 150.
    np.testing.assert_allclose(color([100, 200, 150], "s", [0, 0, 1.0, 0]), [50, 200, 125], atol=1e-4)
    # Contrast 1.5 before it clips at 255: (150, 255, 225), then 105 and 30 below become 157.5 and 45.
    both = [0, 1.0, 1.0, 0]
    np.testing.assert_allclose(color([100, 200, 150], "cs", both, 0.0), [97.5, 255, 210], atol=1e-3)
    np.testing.assert_allclose(color([100, 200, 150], "cs", both, 0.9), [75, 255, 187.5], atol=1e-3)


@pytest.mark.parametrize("draw", [0.0, 0.8])
def test_hue_turns_by_up_to_18_degrees(draw):
    pixel = np.array([180.0, 40.0, 90.0])
    h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
    expected = np.array(colorsys.hsv_to_rgb((h + (2 * draw - 1) * 18 / 360) % 1, s, v)) * 255
    np.testing.assert_allclose(color(pixel, "h", [0, 0, 0, draw]), expected, atol=0.01)


@pytest.mark.parametrize(
    "draw, canvas, offset",
    [
        ([0.5, 0.9, 0.9, 0.9], [20, 30], [0, 0]),  # not this one
        ([0.0, 0.0, 0.9, 0.9], [20, 30], [0, 0]),  # by a factor of 1
        ([0.4, 0.5, 0.0, 0.999], [50, 75], [0, 45]),  # of 2.5: 31 x 46 places
        ([0.4, 1.0 / 3, 0.5, 0.5], [40, 60], [10, 15]),
    ],
)
def test_the_canvas(run_mode, draw, canvas, offset):
    found = run_mode(lambda size, draw: expanded(size, draw, 4.0))(tf.constant([20, 30]), tf.constant(draw))
    assert [value.numpy().tolist() for value in found] == [canvas, offset]


def test_windows_by_hand():
    canvas = tf.constant([100, 200])
    draw = tf.constant(
        [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.999, 0.999], [1.0, 0.3, 0.7, 0.7], [2 / 7, 0.2, 0, 0]]
    )
    found = crop_windows(canvas, draw).numpy()
    # Scale 0.3: 30 x 60 pixels; aspect 0.5 makes that 30 * sqrt(2) x 60 / sqrt(2), aspect 2 the inverse.
    assert found[0].tolist() == [0, 0, 42, 42]
    assert found[1].tolist() == [79, 116, 100, 200]
    assert found[2].tolist() == [0, 0, 100, 200]  # scale 1 is all of it
    # Scale 0.5, aspect 0.5 + 0.2 * 1.5 = 0.8.
    assert found[3].tolist() == [0, 0, 55, 89]
    many = crop_windows(canvas, tf.random.stateless_uniform([500, 4], [1, 2])).numpy()
    sides = (many[:, 2:] - many[:, :2]) / [100, 200]
    assert (many[:, :2] >= 0).all() and (many[:, 2:] <= [100, 200]).all()
    assert 0.19 < sides.min() and (sides[:, 1] / sides[:, 0] < 2.2).all()


WHOLE = tf.constant([0, 0, 100, 100])
BOXES = tf.constant([[10.0, 10.0, 30.0, 30.0]])


def windows_of(**given):
    """Windows of two tries for each IoU (r1, r3, .. and r0 for any): those given, else outside the object."""
    found = np.tile([[60, 60, 90, 90]], [6, 2, 1])
    for name, tries in given.items():
        found[("r1", "r3", "r5", "r7", "r9", "r0").index(name)] = tries
    return tf.constant(found, tf.int32)


def test_a_window_is_the_first_that_fits_of_an_iou_drawn():
    exact, near, centre = [10, 10, 30, 30], [10, 10, 30, 40], [15, 15, 90, 90]
    windows = windows_of(r5=[centre, near], r9=[near, near], r0=[[60, 60, 90, 90], centre])
    for largest, expected in (
        (0, [0, 0, 100, 100]),
        (3, near),  # 400 of 600 pixels; the first try has less than half
        (6, centre),  # any overlap, but an object's centre lies inside
        (5, [0, 0, 100, 100]),  # .9 is not reached, so the next largest that there is: here the whole
    ):
        draw = np.linspace(0.1, 0.01, 7)
        draw[largest] = 0.9
        found = chosen_window(WHOLE, windows, BOXES, tf.constant(draw, tf.float32))
        assert found.numpy().tolist() == expected
    only = chosen_window(WHOLE, windows_of(r9=[centre, exact]), BOXES, tf.linspace(0.0, 0.5, 7))
    assert only.numpy().tolist() == exact


def test_without_objects_the_whole_is_taken(run_mode):
    draw = tf.linspace(0.0, 0.5, 7)
    found = run_mode(chosen_window)(WHOLE, windows_of(), tf.zeros([0, 4]), draw)
    assert found.numpy().tolist() == WHOLE.numpy().tolist()


def test_objects_are_cut_and_those_with_a_centre_outside_are_dropped(run_mode):
    boxes = tf.constant([[10.0, 10.0, 30.0, 30.0], [0.0, 0.0, 25.0, 24.0], [20.0, 0.0, 80.0, 80.0]])
    found, classes = run_mode(cut)(boxes, tf.constant([1, 2, 3]), tf.constant([15, 12, 45, 60]))
    np.testing.assert_allclose(found, [[0, 0, 18, 15], [8, 0, 48, 30]])
    assert classes.numpy().tolist() == [1, 3]


def picture(height=20, width=30):
    """Each pixel tells its place."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 7)], -1).astype(np.uint8)


def augment(policy, seed, boxes):
    found = policy.augment(
        tf.constant(picture()),
        tf.constant(boxes, tf.float32),
        tf.range(len(boxes)),
        tf.constant([1, seed], tf.int64),
    )
    return [value.numpy() for value in found]


def test_boxes_stay_on_their_objects(run_mode):
    """Whatever is drawn: every box that is left holds the pixels that it held, or a part of them."""
    policy = SSDAugmentation(brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0)
    given = np.float32([[4, 5, 9, 12], [15, 3, 28, 17]])
    call, sizes, flips = run_mode(policy.augment), set(), 0
    for seed in range(25):
        image, boxes, classes = (
            value.numpy()
            for value in call(
                tf.constant(picture()), tf.constant(given), tf.range(2), tf.constant([3, seed], tf.int64)
            )
        )
        assert len(classes) >= 1 and (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [image.shape[1] - 1, image.shape[0] - 1]).all()
        sizes.add(image.shape[:2])
        filled = np.isclose(image, FILL).all(-1)
        for box, index in zip(boxes.astype(int), classes, strict=True):
            inside = image[box[1] : box[3] + 1, box[0] : box[2] + 1].reshape(-1, 3)
            first, last = given[index][:2], given[index][2:]
            assert (inside[:, :2] >= first - 1e-3).all() and (inside[:, :2] <= last + 1e-3).all()
            held = ((image[..., :2] >= first - 1e-3) & (image[..., :2] <= last + 1e-3)).all(-1) & ~filled
            assert held.sum() == len(inside)
        columns = image[..., 0][:, ~filled.all(0)]
        flips += int((np.diff(columns[~filled.all(1)][0].astype(int)) < 0).any())
    assert len(sizes) > 10 and 3 < flips < 22
    assert any(height > 40 for height, _ in sizes) and any(height < 20 for height, _ in sizes)


def test_a_canvas_that_would_be_too_large_shrinks_the_picture(run_mode, monkeypatch):
    """20 x 30 on a canvas of 40 x 60, which may be as large as 30 x 30: 12 x 18, sqrt(900 / 2400) of it."""
    monkeypatch.setattr(ssd_augment, "CANVAS", 30)
    boxes = tf.constant([[5.0, 10.0, 20.0, 20.0]])
    image = tf.cast(tf.round(picture()), tf.uint8)
    call = run_mode(ssd_augment.shrunk)
    found, smaller = call(image, boxes, tf.constant([40, 60]))
    assert found.shape == (12, 18, 3) and found.dtype == tf.uint8
    np.testing.assert_allclose(smaller, [[3, 6, 12, 12]], rtol=1e-6)
    np.testing.assert_allclose(found[0, :, 0], 30 / 18 * (np.arange(18) + 0.5) - 0.5, atol=1.0)  # its columns
    same, kept = call(image, boxes, tf.constant([30, 30]))
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(kept, boxes)


def test_the_key_alone_decides():
    policy = SSDAugmentation()
    boxes = [[4, 5, 9, 12]]
    first, second, other = (augment(policy, seed, boxes) for seed in (5, 5, 6))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


def test_images_without_objects(run_mode):
    shapes, call = set(), run_mode(SSDAugmentation().augment)
    for seed in range(6):
        key = tf.constant([1, seed], tf.int64)
        found = call(tf.constant(picture()), tf.zeros([0, 4]), tf.zeros([0], tf.int32), key)
        image, boxes, classes = (value.numpy() for value in found)
        assert boxes.shape == (0, 4) and classes.shape == (0,)
        assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255
        shapes.add(image.shape[:2])
    assert (20, 30) in shapes and all(height >= 20 for height, _ in shapes)


def test_nothing_to_do_changes_nothing():
    policy = SSDAugmentation(0.0, (1.0, 1.0), (1.0, 1.0), 0.0, 1.0, False, 0.0)
    image, boxes, classes = augment(policy, 1, [[4, 5, 9, 12]])
    np.testing.assert_allclose(image, picture(), atol=1e-4)
    assert boxes.tolist() == [[4, 5, 9, 12]] and classes.tolist() == [0]


def test_options_by_name():
    found = policies.augmentation("ssd", {"contrast": "0.9,1", "expand": 2.0, "crop": False})
    assert found == SSDAugmentation(contrast=(0.9, 1.0), expand=2.0, crop=False)
    assert policies.augmentation("ssd") == SSDAugmentation()
    assert type(found.off()) is Augmentation
    for name, value, message in (
        ("expand", 0.5, "--expand=0.5: must be at least 1"),
        ("hue", -1.0, "--hue=-1.0: must be at least 0"),
        ("flip", 2.0, "--flip=2.0: must lie in [0, 1]"),
        ("contrast", "2", "--contrast=2: two numbers are expected, lowest and highest, not negative"),
    ):
        with pytest.raises(UserError) as raised:
            policies.augmentation("ssd", {name: value})
        assert str(raised.value) == message
    assert ssd_augment.CROP_IOUS == (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
