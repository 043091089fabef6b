"""YOLOv2's augmentation and its network inputs of many sizes."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
import wider_fixtures

from fgfi_tf import streams
from fgfi_tf.data import pipeline, policies, registry
from fgfi_tf.data.augment import Augmentation
from fgfi_tf.data.augment_darknet import DarknetAugmentation, change_colors, place
from fgfi_tf.data.varying import VARYING_LETTERBOX
from fgfi_tf.errors import UserError


def test_options_by_name():
    given = {"jitter": 0.2, "hue": 0.0, "saturation": 1.0, "exposure": 2.0, "flip": 0, "canvas": 99}
    assert policies.augmentation("yolo", given) == DarknetAugmentation(0.2, 0.0, 1.0, 2.0, 0, 99)
    assert policies.augmentation("yolo") == DarknetAugmentation(0.3, 0.1, 1.5, 1.5, 0.5, 2048)
    assert type(DarknetAugmentation().off()) is Augmentation
    for values, message in (
        ({"saturation": 0.5}, "--saturation=0.5: must be at least 1"),
        ({"exposure": 0.9}, "--exposure=0.9: must be at least 1"),
        ({"jitter": 1.0}, "--jitter=1.0: must be at least 0 and below 1"),
        ({"hue": -0.1}, "--hue=-0.1: must be at least 0"),
        ({"canvas": 0}, "--canvas=0: must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            policies.augmentation("yolo", values)


def test_a_picture_on_grey_by_hand(run_mode):
    """2 x 4 pixels at their size, one row and no column from the corner of 4 x 4."""
    image = tf.cast(tf.reshape(tf.range(24), [2, 4, 3]), tf.uint8)
    found = run_mode(place)(image, tf.constant([2.0, 4.0]), tf.constant([1.0, 0.0]), tf.constant(4.0))
    np.testing.assert_array_equal(found[1:3], image)
    assert np.all(found[0] == 127.5) and np.all(found[3] == 127.5)


def test_colours_are_those_of_hsv():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (3, 5, 3)).astype(np.float32)
    found = change_colors(tf.constant(image), tf.constant(-0.1), tf.constant(1.5), tf.constant(0.7)).numpy()
    for pixel, changed in zip(image.reshape(-1, 3) / 255, found.reshape(-1, 3) / 255, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        s, v, h = s * 1.5, v * 0.7, (h - 0.1) % 1.0
        # HSV to RGB by its formula: S may be above 1, and what falls below 0 is cut
        expected = [v - v * s * max(0, min(k, 4 - k, 1)) for k in ((n + 6 * h) % 6 for n in (5, 3, 1))]
        np.testing.assert_allclose(changed, np.clip(expected, 0, 1), atol=1e-5)


def test_without_its_parts_it_only_pads():
    """30 x 60: the square of 60 with the picture somewhere between top and bottom."""
    image = tf.cast(tf.random.stateless_uniform([30, 60, 3], [1, 2], maxval=255), tf.uint8)
    boxes, classes = tf.constant([[3.0, 5.0, 12.0, 20.0]]), tf.constant([1])
    plain = DarknetAugmentation(0.0, 0.0, 1.0, 1.0, 0.0)
    tops = set()
    for i in range(8):
        found, moved, _ = plain.augment(image, boxes, classes, streams.key_of(0, streams.Use.EXAMPLE, i))
        assert found.shape == (60, 60, 3)
        top = int(moved[0, 1]) - 5
        tops.add(top)
        np.testing.assert_allclose(found[top : top + 30], tf.cast(image, tf.float32), atol=1e-3)
        np.testing.assert_array_equal(moved, [[3, 5 + top, 12, 20 + top]])
    assert len(tops) > 3 and min(tops) >= 0 and max(tops) <= 30


def test_a_smaller_canvas_holds_the_picture_and_its_boxes():
    """30 x 60 into a square of 20: 10 x 20, a third of every length."""
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[6:24, 15:45] = 255
    boxes, classes = tf.constant([[15.0, 6.0, 44.0, 23.0]]), tf.constant([1])
    plain = DarknetAugmentation(0.0, 0.0, 1.0, 1.0, 0.0, canvas=20)
    key = streams.key_of(0, streams.Use.EXAMPLE, 1)
    found, moved, _ = tf.function(plain.augment)(tf.constant(picture), boxes, classes, key)
    assert found.shape == (20, 20, 3)
    rows, columns = (np.flatnonzero((found.numpy()[..., 0] == 255).any(axis)) for axis in (1, 0))
    assert (len(rows), list(columns)) == (6, list(range(5, 15)))
    np.testing.assert_allclose(moved, [[5, rows[0], 14, rows[-1]]], atol=1e-5)
    assert np.mean(found[..., 0] == 127.5) == 0.5


def test_boxes_follow_the_pixels():
    """A white box on black stays where its box is, whatever is drawn, mirrored or not."""
    picture = np.zeros((160, 200, 3), np.uint8)
    picture[32:96, 40:160] = 255
    boxes, classes = tf.constant([[40.0, 32.0, 159.0, 95.0]]), tf.constant([0])
    policy = DarknetAugmentation(hue=0.0, saturation=1.0, exposure=1.0)
    augment = tf.function(policy.augment)
    ratios, sides = [], []
    for i in range(24):
        key = streams.key_of(7, streams.Use.EXAMPLE, i)
        image, moved, _ = augment(tf.constant(picture), boxes, classes, key)
        white = np.argwhere(image.numpy()[..., 0] > 200)
        (top, left), (bottom, right) = white.min(0), white.max(0)
        np.testing.assert_allclose(moved[0], [left, top, right, bottom], atol=1.2)
        ratios.append((right - left + 1) / (bottom - top + 1) / (120 / 64))
        sides.append(left < 200 - right)
    again, _, _ = policy.augment(tf.constant(picture), boxes, classes, key)
    np.testing.assert_allclose(again, image, atol=1e-2)
    # the aspect ratio lies within 0.7 / 1.3 and 1.3 / 0.7 of the picture's
    assert 0.5 < min(ratios) < 0.85 and 1.2 < max(ratios) < 1.95 and len(set(sides)) == 2


def test_sizes_are_darknets():
    """All of the ten squares from 320 to 608, each for ten steps, by the seed."""
    sizes = [VARYING_LETTERBOX.training_size((416, 416), 3, step).numpy() for step in range(0, 600, 10)]
    assert {tuple(size) for size in sizes} == {(side, side) for side in range(320, 609, 32)}
    for step in (1, 9):
        np.testing.assert_array_equal(
            VARYING_LETTERBOX.training_size((416, 416), 3, tf.constant(step, tf.int64)), sizes[0]
        )
    others = [VARYING_LETTERBOX.training_size((416, 416), 4, step).numpy() for step in range(0, 50, 10)]
    assert not np.array_equal(others, sizes[:5])
    assert VARYING_LETTERBOX.largest_input((416, 416)) == (608, 608)
    assert VARYING_LETTERBOX.largest_input((32, 64)) == (32, 96)
    wide = {tuple(VARYING_LETTERBOX.training_size((128, 256), 0, s).numpy()) for s in range(0, 300, 10)}
    assert {h for h, _ in wide} == {96, 128, 160, 192} and {w for _, w in wide} == {
        192,
        224,
        256,
        288,
        320,
        352,
        384,
    }
    assert not VARYING_LETTERBOX.fixed_size


def test_batches_of_a_size_that_changes(tmp_path):
    data = registry.open_split("wider", wider_fixtures.write_wider(tmp_path), "train", progress=False)
    options = {
        "resize": VARYING_LETTERBOX,
        "input_size": (64, 64),
        "batch_size": 2,
        "seed": 5,
        "augmentation": DarknetAugmentation(),
    }
    stream = pipeline.training_batches(data, **options)
    assert stream.element_spec["image"].shape.as_list() == [2, None, None, 3]  # one trace for all sizes
    whole = list(stream.take(22).as_numpy_iterator())
    sides = [batch["image"].shape[1:3] for batch in whole]
    assert all(len(set(sides[i : i + 10])) == 1 for i in (0, 10, 20)) and len(set(sides)) > 1
    for batch in whole:
        assert np.all(batch["content_size"] == batch["image"].shape[1:3])  # squares fill the input
        assert np.all(batch["boxes"] >= -0.01) and np.all(batch["boxes"] <= batch["image"].shape[1])
    later = pipeline.training_batches(data, start_step=19, **options).take(3).as_numpy_iterator()
    for expected, batch in zip(whole[19:], later, strict=False):
        for key, value in expected.items():
            np.testing.assert_array_equal(batch[key], value, err_msg=key)
    (batch,) = pipeline.evaluation_batches(data, resize=VARYING_LETTERBOX, input_size=(64, 64), batch_size=6)
    assert batch["image"].shape == (6, 64, 64, 3) and np.all(batch["content_size"] == [48, 64])
