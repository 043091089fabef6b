"""SSD300's default boxes (numpy: they are constants of a graph).

Liu et al., SSD (ECCV 2016), section 2.2; the figures are those of the published Caffe configurations.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fgfi_tf.geometry.anchors import centre_grid


@dataclasses.dataclass(frozen=True)
class Source:
    """The boxes of one feature map of a 300 x 300 input.

    Attributes:
        size: rows and columns of the map.
        step: pixels of the input from one position to the next.
        smallest, largest: sides of the two square boxes: ``smallest``, and the geometric mean of both.
        ratios: width by height of two further boxes each: the ratio, and its inverse.
    """

    size: int
    step: int
    smallest: int
    largest: int
    ratios: tuple[int, ...]

    @property
    def boxes_per_position(self) -> int:
        """Two squares, and two boxes for each ratio."""
        return 2 + 2 * len(self.ratios)


INPUT_SIZE = 300
_LAYOUT = ((38, 8, (2,)), (19, 16, (2, 3)), (10, 32, (2, 3)), (5, 64, (2, 3)), (3, 100, (2,)), (1, 300, (2,)))


def sources(sides: tuple[int, ...]) -> tuple[Source, ...]:
    """The six maps, from the seven sides of their square boxes in pixels."""
    return tuple(
        Source(size, step, low, high, ratios)
        for (size, step, ratios), low, high in zip(_LAYOUT, sides[:-1], sides[1:], strict=True)
    )


VOC = sources((30, 60, 111, 162, 213, 264, 315))
COCO = sources((21, 45, 99, 153, 207, 261, 315))


def default_boxes(maps: tuple[Source, ...] = VOC, clip_sizes: bool = False) -> np.ndarray:
    """Every default box.

    Args:
        maps: the feature maps.
        clip_sizes: widths and heights at most that of the input, as torchvision has them; Caffe leaves them.

    Returns:
        float32 [boxes, 4], (cx, cy, w, h) as fractions of the input, by map, row, column, and within a
        position the smallest square, the larger square, then each ratio with its inverse.
    """
    parts = []
    for source in maps:
        middle = np.sqrt(source.smallest * source.largest)
        sides = [(source.smallest, source.smallest), (middle, middle)]
        for ratio in source.ratios:
            wide, narrow = source.smallest * np.sqrt(ratio), source.smallest / np.sqrt(ratio)
            sides += [(wide, narrow), (narrow, wide)]
        centres = (np.arange(source.size) + 0.5) * source.step
        parts.append(centre_grid(centres, centres, np.array(sides)).reshape(-1, 4) / INPUT_SIZE)
    found = np.concatenate(parts)
    if clip_sizes:
        found[:, 2:] = np.clip(found[:, 2:], 0.0, 1.0)
    return found.astype(np.float32)
