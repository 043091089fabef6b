"""SSD's augmentation: colours, zooming out, a crop that overlaps an object by so much, mirror images.

Liu et al. (ECCV 2016), sections 2.2 and 3.6, with the figures of the published Caffe configurations.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data import policies, transforms
from fgfi_tf.data.augment import Augmentation, scale_saturation
from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry.iou import pairwise_iou

#: RGB that the network subtracts: what zooming out surrounds the picture with.
FILL = (123.0, 117.0, 104.0)
# The least IoU with some object that a crop may have to have; 0: none.
CROP_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
TRIES = 50
SMALLEST_SCALE, MOST_ASPECT = 0.3, 2.0
#: Largest side, in pixels, of a square as large as a canvas: photos of 12 megapixels zoomed out four times
#: would take gigabytes.
CANVAS = 3072
# What an example's key is folded with for each of its draws.
_COLOR, _EXPAND, _CROP, _CHOICE, _FLIP = range(2, 7)


@dataclasses.dataclass(frozen=True)
class SSDAugmentation(Augmentation):
    """The published recipe of SSD, in its order; each colour step and zooming out with probability 0.5.

    Pixel values are clipped to 0..255 after each colour step, but not rounded between them. Interpolation
    is that of the resize policy; the published code draws one at random. A picture whose canvas would be
    larger than ``CANVAS`` squared is shrunk first, which no picture of VOC, COCO or KITTI is.

    Attributes:
        brightness: a number from -brightness to brightness is added to every pixel.
        contrast: pixels are multiplied by a factor drawn from this range, before or after the next two steps.
        saturation: S of HSV is multiplied by a factor drawn from this range, at most to 1.
        hue: H of HSV is turned by up to so many degrees, to either side.
        expand: the picture is put on a canvas of up to so many times its sides; 1 for never.
        crop: whether a part is cut out.
        flip: the probability of a mirrored image.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    expand: float = 4.0
    crop: bool = True
    flip: float = 0.5
    keeps_size = False

    @classmethod
    def from_options(cls, contrast: str, saturation: str, **options) -> SSDAugmentation:
        """From the values of the flags."""
        ranges = {"contrast": contrast, "saturation": saturation}
        return cls(**options, **{name: policies.number_range(text) for name, text in ranges.items()})

    def augment(
        self, image: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor, key: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """In one pass: only what the crop leaves of picture and canvas is computed."""
        draw = streams.uniform([4], streams.fold(key, _EXPAND))
        canvas, _ = expanded(tf.shape(image)[:2], draw, self.expand)
        image, boxes = shrunk(image, forms.continuous(boxes), canvas)
        canvas, offset = expanded(tf.shape(image)[:2], draw, self.expand)
        boxes += tf.cast(tf.tile(offset[::-1], [2]), tf.float32)
        window = tf.concat([[0, 0], canvas], axis=0)  # (y, x, y, x), whole pixels of the canvas
        if self.crop:
            windows = crop_windows(
                canvas, streams.uniform([len(CROP_IOUS), TRIES, 4], streams.fold(key, _CROP))
            )
            choice = streams.uniform([len(CROP_IOUS) + 1], streams.fold(key, _CHOICE))
            window = chosen_window(window, windows, boxes, choice)
            boxes, classes = cut(boxes, classes, window)
        image = self.colored(_part(image, offset, window), streams.uniform([9], streams.fold(key, _COLOR)))
        image = _on_canvas(image, offset, window)
        boxes, flipped = forms.inclusive(boxes), streams.uniform([], streams.fold(key, _FLIP)) < self.flip
        image = tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)
        boxes = tf.cond(flipped, lambda: transforms.flip_boxes(boxes, tf.shape(image)[1]), lambda: boxes)
        return image, boxes, classes

    def colored(self, image: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        """The colour steps of an image [H,W,3], 0..255, float32.

        ``draw`` [9] in [0, 1): whether brightness, contrast, saturation and hue change; how; whether contrast
        goes before the last two.
        """
        coins, values = tf.unstack(draw[:4] < 0.5), tf.unstack(draw[4:8])
        brightness = tf.where(coins[0], (2.0 * values[0] - 1.0) * self.brightness, 0.0)
        contrast = tf.where(coins[1], _between(self.contrast, values[1]), 1.0)
        saturation = tf.where(coins[2], _between(self.saturation, values[2]), 1.0)
        first = draw[8] < 0.5
        image = _clipped(tf.cast(image, tf.float32) + brightness)
        image = _clipped(image * tf.where(first, contrast, 1.0))
        image = _clipped(tf.stack(scale_saturation(tf.unstack(image, axis=-1), saturation), axis=-1))
        turn = (2.0 * values[3] - 1.0) * self.hue / 360.0
        image = tf.cond(
            coins[3], lambda: _clipped(tf.raw_ops.AdjustHue(images=image, delta=turn)), lambda: image
        )
        return _clipped(image * tf.where(first, 1.0, contrast))


def shrunk(image: tf.Tensor, boxes: tf.Tensor, canvas: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A picture [H,W,3] and its boxes, continuous corners [N,4], so small that its canvas (h, w) may be."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = CANVAS / tf.sqrt(tf.reduce_prod(tf.cast(canvas, tf.float32)))
    new = tf.cast(tf.maximum(tf.floor(size * scale), 1.0), tf.int32)

    def smaller() -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.round(tf.image.resize(image, new, method="area"))
        return tf.cast(pixels, image.dtype), boxes * tf.tile((tf.cast(new, tf.float32) / size)[::-1], [2])

    return tf.cond(scale < 1.0, smaller, lambda: (image, boxes))


def expanded(size: tf.Tensor, draw: tf.Tensor, most: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The canvas of a picture of ``size`` (h, w), and where (y, x) the picture lies on it, int32 [2] each.

    ``draw`` [4] in [0, 1): whether, the factor 1 .. ``most`` on both sides, the place.
    """
    factor = tf.where(draw[0] < 0.5, 1.0 + draw[1] * (most - 1.0), 1.0)
    canvas = tf.cast(tf.cast(size, tf.float32) * factor, tf.int32)
    canvas = tf.maximum(canvas, size)  # rounding
    room = tf.cast(canvas - size + 1, tf.float32)
    return canvas, tf.minimum(tf.cast(draw[2:] * room, tf.int32), canvas - size)


def crop_windows(canvas: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """Windows (y1, x1, y2, x2) of a canvas (h, w), int32 [..., 4]; ``draw`` [..., 4] is in [0, 1).

    As shares of the canvas, their sides are scale * sqrt(aspect) and scale / sqrt(aspect), the scale uniform
    over 0.3 .. 1, the aspect over 0.5 .. 2 as far as the window fits.
    """
    scale = SMALLEST_SCALE + draw[..., 0] * (1.0 - SMALLEST_SCALE)
    low = tf.maximum(1.0 / MOST_ASPECT, tf.square(scale))
    high = tf.minimum(MOST_ASPECT, 1.0 / tf.square(scale))
    root = tf.sqrt(low + draw[..., 1] * (high - low))
    sides = tf.stack([scale / root, scale * root], axis=-1)  # (h, w)
    pixels = tf.clip_by_value(tf.cast(sides * tf.cast(canvas, tf.float32), tf.int32), 1, canvas)
    room = tf.cast(canvas - pixels + 1, tf.float32)
    start = tf.minimum(tf.cast(draw[..., 2:] * room, tf.int32), canvas - pixels)
    return tf.concat([start, start + pixels], axis=-1)


def chosen_window(whole: tf.Tensor, windows: tf.Tensor, boxes: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """One of the whole canvas and the first fitting window for each of ``CROP_IOUS``, at random: int32 [4].

    A window fits where its IoU with some object is the one asked for, and an object's centre lies inside; for
    an IoU that no try reaches there is none.

    Args:
        whole: the canvas, int32 [4].
        windows: int32 [IoUs, tries, 4].
        boxes: continuous corners [N,4].
        draw: [1 + IoUs] in [0, 1): the largest of those there are wins.
    """
    corners = tf.cast(tf.gather(windows, [1, 0, 3, 2], axis=-1), tf.float32)
    iou = pairwise_iou(corners, boxes)  # IoUs x tries x N
    reached = tf.reduce_max(iou, axis=-1) >= tf.constant(CROP_IOUS)[:, None]
    fits = reached & tf.reduce_any(_centre_inside(boxes, corners[:, :, None]), axis=-1)
    first = tf.argmax(tf.cast(fits, tf.int32), axis=-1)  # of each IoU
    candidates = tf.concat([whole[None], tf.gather(windows, first, batch_dims=1)], axis=0)
    there = tf.concat([[True], tf.reduce_any(fits, axis=-1)], axis=0)
    return candidates[tf.argmax(tf.where(there, draw, -1.0))]


def cut(boxes: tf.Tensor, classes: tf.Tensor, window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Objects whose centre lies in a window (y1, x1, y2, x2), cut at it, in its own pixels."""
    corners = tf.cast(tf.gather(window, [1, 0, 3, 2]), tf.float32)
    kept = _centre_inside(boxes, corners)
    boxes, classes = tf.boolean_mask(boxes, kept), tf.boolean_mask(classes, kept)
    origin = tf.tile(corners[:2], [2])
    return tf.clip_by_value(boxes - origin, 0.0, tf.tile(corners[2:] - corners[:2], [2])), classes


def _centre_inside(boxes: tf.Tensor, corners: tf.Tensor) -> tf.Tensor:
    """bool [..., N]: whether centres of boxes [N,4] lie in windows [..., 4]."""
    centres = 0.5 * (boxes[..., :2] + boxes[..., 2:])
    inside = (centres > corners[..., :2]) & (centres < corners[..., 2:])
    return tf.reduce_all(inside, axis=-1)


def _part(image: tf.Tensor, offset: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """What of an image that lies at ``offset`` (y, x) is inside a window of the canvas."""
    size = tf.shape(image)[:2]
    first = tf.clip_by_value(window[:2] - offset, 0, size)
    last = tf.clip_by_value(window[2:] - offset, 0, size)
    return image[first[0] : last[0], first[1] : last[1]]


def _on_canvas(part: tf.Tensor, offset: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The window, with FILL around what :func:`_part` left of the picture."""
    before = tf.clip_by_value(offset - window[:2], 0, window[2:] - window[:2])
    after = window[2:] - window[:2] - before - tf.shape(part)[:2]
    paddings = tf.stack([before, after], axis=-1)  # 2 x 2
    planes = tf.unstack(part, axis=-1)
    return tf.stack(
        [tf.pad(plane, paddings, constant_values=fill) for plane, fill in zip(planes, FILL, strict=True)],
        axis=-1,
    )


def _between(span: tuple[float, float], draw: tf.Tensor) -> tf.Tensor:
    return span[0] + draw * (span[1] - span[0])


def _clipped(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(image, 0.0, 255.0)
