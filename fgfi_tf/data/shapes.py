"""Sizes of network inputs that keep an image's shape, and where long images are cut."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class ShapeRule:
    """How images become network inputs.

    Attributes:
        short_side: pixels of the shorter side after resizing.
        long_side_cap: the longer side stays within this, 0 for no limit. The published runs had none.
        max_aspect: training crops longer images to this ratio of long to short side, 0 for never.
        pad_multiple: padded sides are multiples of this; more than 1 means fewer different shapes.
    """

    short_side: int = 600
    long_side_cap: int = 0
    max_aspect: float = 2.0
    pad_multiple: int = 1

    def __post_init__(self):
        if self.short_side < 32:
            raise UserError(f"the short side must be at least 32 pixels, not {self.short_side}")
        if self.long_side_cap and self.long_side_cap < self.short_side:
            raise UserError(
                f"the cap of the long side, {self.long_side_cap}, is below the short side, {self.short_side}"
            )
        if self.max_aspect and self.max_aspect < 1:
            raise UserError(f"the largest aspect ratio must be at least 1, not {self.max_aspect}")

    def scales(self, sizes: np.ndarray) -> np.ndarray:
        """Network pixels per image pixel, float32 [N], of image sizes (H, W) [N,2]."""
        scale = self.short_side / sizes.min(axis=1)
        if self.long_side_cap:
            scale = np.minimum(scale, self.long_side_cap / sizes.max(axis=1))
        return scale.astype(np.float32)

    def resized(self, sizes: np.ndarray) -> np.ndarray:
        """Sizes after resizing, int32 [N,2]."""
        return np.maximum(np.rint(sizes * self.scales(sizes)[:, None].astype(np.float64)), 1).astype(np.int32)

    def cropped(self, resized: np.ndarray) -> np.ndarray:
        """Sizes after cropping resized images to ``max_aspect``, int32 [N,2]."""
        if not self.max_aspect:
            return resized
        limit = np.ceil(resized.min(axis=1, keepdims=True) * self.max_aspect)
        return np.minimum(resized, limit).astype(np.int32)

    def padded(self, largest: tf.Tensor) -> tf.Tensor:
        """Sides [..., 2] rounded up to ``pad_multiple``."""
        return -(-largest // self.pad_multiple) * self.pad_multiple


def crop_start(boxes: tf.Tensor, size: tf.Tensor, content: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Where to cut ``content`` out of ``size`` (h, w), int32 [2], along the longer side.

    All boxes stay inside where they fit, at a random place; where they do not, the cut begins within their
    extent.
    """
    axis = tf.cast(size[1] > content[1], tf.int32)  # 1: cut along x
    length, kept = tf.gather(size, axis), tf.gather(content, axis)
    low = tf.cast(tf.reduce_min(tf.gather(boxes, 1 - axis, axis=1)), tf.int32)
    high = tf.cast(tf.reduce_max(tf.gather(boxes, 3 - axis, axis=1)), tf.int32)
    extent = high - low + 1
    fits = extent < kept
    first = tf.where(fits, tf.maximum(high - kept, 0), low)
    last = tf.where(fits, tf.minimum(low, length - kept), low + (extent - kept) // 2)
    last = tf.minimum(last, length - kept + 1)
    drawn = tf.random.stateless_uniform(
        [], key, minval=0, maxval=tf.maximum(last - first, 1), dtype=tf.int32, alg=streams.ALGORITHM
    )
    start = tf.where(low == 0, 0, first + drawn)
    start = tf.where(length > kept, tf.clip_by_value(start, 0, length - kept), 0)
    return tf.where(axis == 1, tf.stack([0, start]), tf.stack([start, 0]))


def cut_boxes(boxes: tf.Tensor, start: tf.Tensor, size: tf.Tensor, content: tf.Tensor) -> tf.Tensor:
    """Boxes [N,4] of an image of ``size`` in its part ``content`` from ``start`` (y, x), int32 [2] each.

    They are limited to the part along a side that was cut, and left as they are along the other.
    """
    shift = tf.cast(tf.gather(start, [1, 0, 1, 0]), tf.float32)
    last = tf.where(size > content, tf.cast(content, tf.float32) - 1.0, tf.float32.max)
    return tf.clip_by_value(boxes - shift, 0.0, tf.gather(last, [1, 0, 1, 0]))
