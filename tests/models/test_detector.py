"""What the detector contract gives to every detector."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.models.detector import Detector

CONTENT = tf.constant([[33.0, 96.0], [64.0, 48.0], [0.0, 0.0]])
# Rows and columns of each picture at strides 16 and 32, rounded up.
HELD = (((3, 6), (4, 3), (0, 0)), ((2, 3), (2, 2), (0, 0)))


class Levels(Detector):
    """Two maps, of stride 16 and 32."""

    def imitation_anchors(self, height, width):
        return tuple(tf.zeros([height // s, width // s, 3, 4]) for s in (16, 32))


@pytest.mark.parametrize("changing", [False, True])
def test_the_picture_in_a_padded_input(changing):
    detector = Levels()
    detector.resize = "letterbox"
    batch = {"content_size": CONTENT}
    if changing:
        found = tf.function(lambda h, w: detector.imitation_valid_mask(batch, h, w))(
            *map(tf.constant, (64, 96))
        )
    else:
        found = detector.imitation_valid_mask(batch, 64, 96)
    for area, held in zip(found, HELD, strict=True):
        assert area.dtype == tf.bool
        for picture, (rows, columns) in zip(area.numpy(), held, strict=True):
            expected = np.zeros_like(picture)
            expected[:rows, :columns] = True
            np.testing.assert_array_equal(picture, expected)


def test_whole_positions_are_not_rounded_up():
    # 112 of 416 pixels are 7 of 26 rows; 112 / 416 * 26 in float32 is above 7
    detector = Levels()
    detector.resize = "letterbox"
    for pixels in range(16, 417, 16):
        (area, _) = detector.imitation_valid_mask({"content_size": tf.constant([[pixels, 416.0]])}, 416, 416)
        assert area.numpy()[0, :, 0].sum() == pixels // 16


def test_no_padding():
    assert Levels().imitation_valid_mask({"content_size": CONTENT}, 64, 96) is None
