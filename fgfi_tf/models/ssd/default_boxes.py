"""SSD's default boxes (numpy: they are constants of a graph).

Liu et al., SSD (ECCV 2016), section 2.2; the figures are those of the published Caffe configurations for
inputs of 300 x 300. Inputs of another size have the maps that the network makes of them, the same strides,
and boxes whose sides are the same shares of the shorter side.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fgfi_tf.geometry.anchors import centre_grid


@dataclasses.dataclass(frozen=True)
class Source:
    """The boxes of one feature map, as at an input of 300 x 300.

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
# Below it the last map would have no position.
SMALLEST_INPUT = 257
_LAYOUT = ((38, 8, (2,)), (19, 16, (2, 3)), (10, 32, (2, 3)), (5, 64, (2, 3)), (3, 100, (2,)), (1, 300, (2,)))


def sources(sides: tuple[int, ...]) -> tuple[Source, ...]:
    """The six maps, from the seven sides of their square boxes in pixels."""
    return tuple(
        Source(size, step, low, high, ratios)
        for (size, step, ratios), low, high in zip(_LAYOUT, sides[:-1], sides[1:], strict=True)
    )


VOC = sources((30, 60, 111, 162, 213, 264, 315))
COCO = sources((21, 45, 99, 153, 207, 261, 315))
#: What ``--default_boxes`` says: the sides, and whether widths and heights are clipped.
KINDS = {"voc": (VOC, False), "coco": (COCO, False), "torchvision": (COCO, True)}


def map_sizes(pixels: int) -> tuple[int, ...]:
    """Rows of the six maps of an input of so many rows: halved, rounded up, then two 3 x 3 unpadded."""
    found = [pixels]
    for _ in range(6):
        found.append(-(-found[-1] // 2))
    return (*found[3:], found[-1] - 2, found[-1] - 4)


def steps(pixels: int) -> tuple[float, ...]:
    """Pixels from one position of each map to the next; the last two maps, without border, span it all."""
    rows = map_sizes(pixels)
    return (8.0, 16.0, 32.0, 64.0, pixels / rows[4], pixels / rows[5])


def grids(
    maps: tuple[Source, ...] = VOC,
    clip_sizes: bool = False,
    input_size: tuple[int, int] = (INPUT_SIZE, INPUT_SIZE),
) -> list[np.ndarray]:
    """The default boxes of each map.

    Args:
        maps: the feature maps, as at 300 x 300.
        clip_sizes: widths and heights at most that of the input, as torchvision has them; Caffe leaves them.
        input_size: (height, width) of the network input, at least ``SMALLEST_INPUT``.

    Returns:
        float32 [rows, columns, K, 4] each, (cx, cy, w, h) as fractions of the input; within a position the
        smallest square, the larger square, then each ratio with its inverse.
    """
    sides = np.array(input_size[::-1], np.float64)  # (w, h)
    scale = min(input_size) / INPUT_SIZE
    rows, columns = (map_sizes(pixels) for pixels in input_size)
    found = []
    for level, source in enumerate(maps):
        cy, cx = (
            (np.arange(count[level]) + 0.5) * steps(pixels)[level]
            for count, pixels in zip((rows, columns), input_size, strict=True)
        )
        grid = centre_grid(cx, cy, scale * _shapes(source)) / np.tile(sides, 2)
        if clip_sizes:
            grid[..., 2:] = np.clip(grid[..., 2:], 0.0, 1.0)
        found.append(grid.astype(np.float32))
    return found


def default_boxes(
    maps: tuple[Source, ...] = VOC,
    clip_sizes: bool = False,
    input_size: tuple[int, int] = (INPUT_SIZE, INPUT_SIZE),
) -> np.ndarray:
    """Every default box, float32 [boxes, 4], by map, row and column; see :func:`grids`."""
    return np.concatenate([grid.reshape(-1, 4) for grid in grids(maps, clip_sizes, input_size)])


def _shapes(source: Source) -> np.ndarray:
    """(w, h) [K, 2] in pixels of an input of 300 x 300."""
    middle = np.sqrt(source.smallest * source.largest)
    sides = [(source.smallest, source.smallest), (middle, middle)]
    for ratio in source.ratios:
        wide, narrow = source.smallest * np.sqrt(ratio), source.smallest / np.sqrt(ratio)
        sides += [(wide, narrow), (narrow, wide)]
    return np.array(sides)
