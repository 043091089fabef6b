"""Darknet's augmentation for detection (``load_data_detection`` of pjreddie/darknet), in the graph."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data import transforms
from fgfi_tf.data.augment import Augmentation

GREY = 127.5


@dataclasses.dataclass(frozen=True)
class DarknetAugmentation(Augmentation):
    """The published recipe of YOLOv2: another aspect ratio, a random place on grey, colours, mirror images.

    The result is a square, as large as the longer side of the picture or ``canvas``, so that it suits square
    network inputs. Darknet's is of the network's size.

    Attributes:
        jitter: width and height each change by up to this share of themselves, for the aspect ratio alone.
        hue: the hue moves by up to +- this share of the circle.
        saturation, exposure: S and V of HSV are multiplied or divided by a factor from 1 to this.
        flip: the probability of a mirrored image.
        canvas: the largest side of the square, pixels: what it takes grows with its area.
    """

    jitter: float = 0.3
    hue: float = 0.1
    saturation: float = 1.5
    exposure: float = 1.5
    flip: float = 0.5
    canvas: int = 2048
    keeps_size = False

    def augment(
        self, image: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor, key: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """To float32 [S,S,3]; no box is lost, as all of the picture is in it."""
        draw = streams.uniform([10], key)
        size = tf.cast(tf.shape(image)[:2], tf.float32)  # h, w
        changed = size * (1.0 + self.jitter * (2.0 * draw[:2] - 1.0))
        side = tf.minimum(tf.reduce_max(size), self.canvas)
        # As large as fits into the square.
        new = tf.maximum(tf.floor(side * changed / tf.reduce_max(changed) + 1e-3), 1.0)
        offset = tf.floor((side - new) * draw[2:4])  # y, x
        image = place(image, new, offset, side)
        image = change_colors(
            image,
            self.hue * (2.0 * draw[4] - 1.0),
            _factor(self.saturation, draw[5], draw[6]),
            _factor(self.exposure, draw[7], draw[8]),
        )
        boxes = transforms.resize_boxes(boxes, new / size) + tf.gather(offset, [1, 0, 1, 0])
        flipped = draw[9] < self.flip
        image = tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)
        return image, tf.where(flipped, transforms.flip_boxes(boxes, side), boxes), classes


def place(image: tf.Tensor, new: tf.Tensor, offset: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """An image, resized to ``new`` (h, w), at ``offset`` (y, x) of a grey square: float32 [side,side,3].

    Sizes are whole numbers in float32.
    """
    new, offset, side = (tf.cast(value, tf.int32) for value in (new, offset, side))
    resized = tf.image.resize(image, new, method="bilinear", antialias=False)
    behind = side - new - offset
    paddings = [[offset[0], behind[0]], [offset[1], behind[1]], [0, 0]]
    return tf.ensure_shape(tf.pad(resized, paddings, constant_values=GREY), [None, None, 3])


def change_colors(image: tf.Tensor, hue: tf.Tensor, saturation: tf.Tensor, exposure: tf.Tensor) -> tf.Tensor:
    """H + hue, S * saturation, V * exposure of an image [H,W,3] in 0..255; S and V may pass 1, RGB is cut."""
    hsv = tf.image.rgb_to_hsv(image / 255.0)
    h, s, v = tf.split(hsv, 3, axis=-1)
    h += hue
    # Not h % 1, nor unstacked: an eighth of the function's time on CPUs.
    changed = tf.concat([h - tf.floor(h), s * saturation, v * exposure], axis=-1)
    return 255.0 * tf.clip_by_value(tf.image.hsv_to_rgb(changed), 0.0, 1.0)


def _factor(largest: float, draw: tf.Tensor, divides: tf.Tensor) -> tf.Tensor:
    factor = 1.0 + (largest - 1.0) * draw
    return tf.where(divides < 0.5, 1.0 / factor, factor)
