"""Augmentation policies: what is done to training images before they are resized, in the graph.

A policy is a value; what it draws is a function of a key. Its options stand in ``fgfi_tf.data.policies``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data import policies, transforms

#: RGB means of ImageNet, which the networks subtract: filled areas are zero to them.
FILL = (123.68, 116.779, 103.939)


class Augmentation:
    """Base of the policies, and the one that does nothing.

    Attributes:
        mirror_images: an epoch holds every image and its mirror image.
        only_with_objects: images without an object to train on are left out.
        samples_boxes: where an image has more objects than a batch has room for, a random choice of them is
            taken; elsewhere a smaller room is an error.
        keeps_size: :meth:`augment` leaves the size of every image as it is.
    """

    mirror_images: bool = False
    only_with_objects: bool = False
    samples_boxes: bool = False
    keeps_size: bool = True

    @classmethod
    def from_options(cls, **options: Any) -> Augmentation:
        """The policy of the values of its options. Raises UserError for impossible ones."""
        return cls(**options)

    def off(self) -> Augmentation:
        """What ``--noaugment`` leaves of it."""
        return Augmentation()

    def augment(
        self, image: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor, key: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Changes an image, uint8 [H,W,3] RGB, and its objects: boxes float32 [N,4], classes int32 [N].

        Gives an image [H',W',3], 0..255, of any dtype, with its boxes [N',4] (inclusive pixel corners) and
        their classes [N']; the same ``key``, int64 [2], gives the same.
        """
        return image, boxes, classes


@dataclasses.dataclass(frozen=True)
class VocAugmentation(Augmentation):
    """The published recipe of Faster R-CNN on VOC: mirror images, and at most 20 objects of an image.

    Its crop of long images belongs to the resize policy, which needs it without augmentation as well.

    Attributes:
        flip: 0.5 for mirror images, 0 for none.
    """

    flip: float = 0.5
    only_with_objects = True
    samples_boxes = True

    @property
    def mirror_images(self) -> bool:
        """Whether an epoch holds mirror images."""
        return self.flip > 0

    def off(self) -> VocAugmentation:
        """Only what chooses images and objects."""
        return VocAugmentation(flip=0.0)


@dataclasses.dataclass(frozen=True)
class KittiAugmentation(Augmentation):
    """The published recipe of ShuffleDet on KITTI (images of 375 x 1242), in its order.

    brightness -> contrast -> saturation -> random shift -> flip. Pixel values are clipped to 0..255 after
    each colour step as in the published code, but not rounded between them.

    Attributes:
        brightness: a whole number from -brightness to brightness is added to every pixel.
        contrast: pixels are multiplied by a factor drawn from this range.
        saturation: S of HSV is multiplied by a factor drawn from this range, at most to 1.
        shift_x, shift_y: pixels of the image file by which the left and the upper border move at most, out
            (then filled with FILL) or in (then cut, but never into an object).
        flip: the probability of a mirrored image.
    """

    brightness: int = 50
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.3, 1.7)
    shift_x: int = 150
    shift_y: int = 100
    flip: float = 0.5
    keeps_size = False

    @classmethod
    def from_options(
        cls, brightness: int, contrast: str, saturation: str, drift: str, flip: float
    ) -> KittiAugmentation:
        """From the values of the flags; ``drift`` is the random shift."""
        ranges = policies.number_range(contrast), policies.number_range(saturation)
        return cls(brightness, *ranges, *policies.pair(drift), flip)

    def augment(
        self, image: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor, key: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """In one pass; the shift changes the size: H' is H - dy and W' is W - dx."""
        draw = streams.uniform([6], key)
        shift = shift_offsets(boxes, draw[3:5], self, tf.shape(image)[:2])  # (dy, dx)
        flipped = draw[5] < self.flip
        # Cutting and mirroring commute with colours and are cheaper on bytes, so they come first;
        # the filled border comes last, since the reference's fill has no colour steps.
        image = image[tf.maximum(shift[0], 0) :, tf.maximum(shift[1], 0) :]
        image = tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)
        planes = change_colors(tf.unstack(image, axis=-1), draw[:3], self)  # 3 of H x W
        planes = tf.stack(_fill_border(planes, tf.maximum(-shift, 0), flipped))  # 3 x H' x W'
        image = tf.transpose(planes, [1, 2, 0])  # cheaper than to stack the planes along the last axis
        boxes = boxes - tf.cast(tf.gather(shift, [1, 0, 1, 0]), tf.float32)
        boxes = tf.cond(flipped, lambda: transforms.flip_boxes(boxes, tf.shape(image)[1]), lambda: boxes)
        return image, boxes, classes


def shift_offsets(boxes: tf.Tensor, draw: tf.Tensor, config: KittiAugmentation, size: tf.Tensor) -> tf.Tensor:
    """Whole pixels (dy, dx), int32 [2], that the upper and left border move inwards.

    Uniform over -shift .. min(shift, the first whole pixel of the topmost / leftmost box), so that
    no box [N,4] is cut at the top or left; the other borders stay. ``draw`` [2] is in [0, 1). An image of
    ``size`` (h, w), int32 [2], without boxes keeps half of its height and width at least.
    """
    most = tf.constant([config.shift_y, config.shift_x], tf.float32)
    first = tf.floor(tf.reduce_min(tf.gather(boxes, [1, 0], axis=1), axis=0))  # inf without boxes
    first = tf.where(tf.math.is_finite(first), first, tf.cast(size // 2, tf.float32))
    high = tf.clip_by_value(first, 0.0, most)
    return tf.cast(tf.floor(-most + draw * (high + most + 1.0)), tf.int32)


def change_colors(planes: list[tf.Tensor], draw: tf.Tensor, config: KittiAugmentation) -> list[tf.Tensor]:
    """Brightness, contrast and saturation of RGB planes, uint8 [H,W] to float32 [H,W].

    Planes, because arithmetic between channels is several times slower where the innermost axis
    is only 3 long. ``draw`` [3] is in [0, 1). With brightness b and contrast c, the reference's
    min(c * clip(x + b, 0, 255), 255) is clip(c * x + c * b, 0, min(255 c, 255)).
    """
    brightness = tf.floor(draw[0] * (2.0 * config.brightness + 1.0)) - float(config.brightness)
    contrast = config.contrast[0] + draw[1] * (config.contrast[1] - config.contrast[0])
    saturation = config.saturation[0] + draw[2] * (config.saturation[1] - config.saturation[0])
    lowest, highest = contrast * brightness, tf.minimum(255.0 * contrast, 255.0)
    planes = [tf.clip_by_value(_linear(x, contrast, lowest), 0.0, highest) for x in planes]
    planes = scale_saturation(planes, saturation)
    # Rounding may leave 0..255. One pass; tf.clip_by_value takes two.
    return [tf.raw_ops.ClipByValue(t=x, clip_value_min=0.0, clip_value_max=255.0) for x in planes]


def scale_saturation(planes: list[tf.Tensor], factor: tf.Tensor) -> list[tf.Tensor]:
    """S of HSV times ``factor``, at most 1, with H and V as they are.

    In HSV a channel is x = V - S * V * f with f from the hue alone, so scaling S by k is
    x' = V - k * (V - x); S reaches 1 at k = V / (V - min), where the smallest channel is 0. ``planes`` are
    red, green and blue, float32 [H,W], not negative; so is the factor.
    """
    red, green, blue = planes
    value = tf.maximum(tf.maximum(red, green), blue)  # H x W

    def more() -> list[tf.Tensor]:
        smallest = tf.minimum(tf.minimum(red, green), blue)
        k = tf.minimum(factor, value / tf.maximum(value - smallest, 1e-6))  # H x W
        rest = value - k * value
        return [rest + k * x for x in planes]

    def less() -> list[tf.Tensor]:
        rest = (1.0 - factor) * value
        return [rest + factor * x for x in planes]

    return tf.cond(factor > 1.0, more, less)


def _linear(plane: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """scale * plane + offset of a uint8 plane, float32, in one pass (a cast, a product, a sum take three)."""
    quantized = tf.bitcast(plane, tf.quint8)
    return tf.quantization.dequantize(quantized, offset, offset + 255.0 * scale, mode="MIN_COMBINED")


def _fill_border(planes: list[tf.Tensor], border: tf.Tensor, flipped: tf.Tensor) -> list[tf.Tensor]:
    """``border`` = (rows above, columns left) of FILL; the columns go to the right where flipped."""
    left = tf.where(flipped, 0, border[1])
    paddings = [[border[0], 0], [left, border[1] - left]]
    return [tf.pad(x, paddings, constant_values=fill) for x, fill in zip(planes, FILL, strict=True)]
