"""Feature levels: their anchors, which part of them is picture, and which of them a region belongs to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from fgfi_tf.geometry.anchors import repeat_cell, rounded_cell
from fgfi_tf.models.pixels import content_mask


@dataclasses.dataclass(frozen=True, eq=False)
class Level:
    """One feature map of a backbone.

    Attributes:
        stride: input pixels per position; a picture of h pixels has h // stride rows of positions.
        cell: anchors of the first position, float32 [K,4], corners in input pixels.
        rounds_up: a picture has as many rows as it takes to cover it, as networks leave it that pad where
            they halve.
        stretched: anchors are as far apart as the input's pixels divided by the map's positions, rounded
            down, which is less than ``stride`` where the map has a row for part of a stride (torchvision).
    """

    stride: int
    cell: np.ndarray
    rounds_up: bool = False
    stretched: bool = False

    def cells(self, pixels: int | tf.Tensor) -> int | tf.Tensor:
        """Rows of positions of a picture of so many pixels; columns alike."""
        return -(-pixels // self.stride) if self.rounds_up else pixels // self.stride

    def anchors(
        self, height: int | tf.Tensor, width: int | tf.Tensor, pixels: Sequence[int | tf.Tensor] = ()
    ) -> tf.Tensor:
        """Those of a map of ``height`` x ``width`` positions: float32 [height,width,K,4].

        ``pixels``: (h, w) of the network input; needed where the level is ``stretched``.
        """
        if self.stretched:
            return repeat_cell(self.cell, height, width, (pixels[0] // height, pixels[1] // width))
        return repeat_cell(self.cell, height, width, self.stride)

    def within(self, content: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
        """Which cells of a ``height`` x ``width`` grid lie in pictures of ``content`` [B,2] (h, w), pixels.

        Returns:
            bool [B,height,width].
        """
        return content_mask(self.cells(tf.cast(content, tf.int32)), height, width)

    def has_anchor_inside(self, pictures: np.ndarray) -> np.ndarray:
        """Whether an anchor of any position lies wholly inside each picture of (h, w) [M,2]: bool [M]."""
        sides = np.asarray(pictures)[:, None, ::-1]  # M x 1 x (w, h)
        # the first column and row where an anchor does not begin before the picture; K x 2
        first = np.maximum(np.ceil(-self.cell[:, :2] / self.stride), 0)
        fits = (first < self.cells(sides)) & (self.cell[:, 2:] + first * self.stride < sides)
        return fits.all(axis=-1).any(axis=-1)


def published(strides: Sequence[int]) -> tuple[Level, ...]:
    """Levels with the nine anchors of the published models, whose smallest are 8 strides large."""
    return tuple(Level(stride, rounded_cell(stride)) for stride in strides)


def level_of(rois: tf.Tensor, strides: Sequence[int], canonical_size: float = 224.0) -> tf.Tensor:
    """The level that each RoI is pooled from (Lin et al. 2017, equation 1).

    A region of ``canonical_size`` belongs to stride 16, one of half the size to half the stride.

    Args:
        rois: float32 [...,4], corners; w = x2 - x1.
        strides: of the levels, each twice the one before.
        canonical_size: square root of the area, pixels.

    Returns:
        int32 [...], index into ``strides``.

    Raises:
        ValueError: for other strides.
    """
    if list(strides) != [strides[0] * 2**index for index in range(len(strides))]:
        raise ValueError(f"each level's stride must be twice the one before, not {list(strides)}")
    sizes = tf.maximum(rois[..., 2:] - rois[..., :2], 0.0)
    size = tf.sqrt(sizes[..., 0] * sizes[..., 1])
    # A little above a boundary is above it whatever the rounding; no size at all is the finest level's.
    doublings = tf.math.log(tf.maximum(size, 1e-6) / canonical_size) / math.log(2.0) + 1e-6
    index = tf.floor(doublings + (4.0 - math.log2(strides[0])))
    return tf.cast(tf.clip_by_value(index, 0.0, len(strides) - 1.0), tf.int32)
