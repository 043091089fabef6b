"""Anchor grids of the detector families, and of anybody's map (numpy: they are constants of a graph)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# ShuffleDet's anchor shapes (w, h), in pixels of a 1248 x 384 input; clustered on KITTI.
SHUFFLEDET_SHAPES = (
    (36, 37),
    (366, 174),
    (115, 59),
    (162, 87),
    (38, 90),
    (258, 173),
    (224, 108),
    (78, 170),
    (72, 43),
)
SHUFFLEDET_INPUT = (384, 1248)


def shuffledet_anchors(height: int, width: int, stride: int = 16) -> np.ndarray:
    """ShuffleDet's anchors as (cx, cy, w, h).

    The centres divide the input evenly, (i + 1) * width / (columns + 1), and are not the centres
    of the cells. The shapes scale with the input, relative to 384 x 1248.

    Args:
        height, width: of the network input, pixels, multiples of ``stride``.
        stride: input pixels per position of the feature map.

    Returns:
        float32 [height / stride, width / stride, 9, 4], pixels of the network input.
    """
    rows, columns = height // stride, width // stride
    cx = np.arange(1, columns + 1) * float(width) / (columns + 1)
    cy = np.arange(1, rows + 1) * float(height) / (rows + 1)
    scale = np.array([width / SHUFFLEDET_INPUT[1], height / SHUFFLEDET_INPUT[0]])
    shapes = np.array(SHUFFLEDET_SHAPES) * scale
    anchors = np.empty((rows, columns, len(shapes), 4), np.float64)
    anchors[..., 0] = cx[None, :, None]
    anchors[..., 1] = cy[:, None, None]
    anchors[..., 2:] = shapes
    return anchors.astype(np.float32)


def anchor_grid(
    height: int, width: int, stride: int, sizes: Sequence[float], ratios: Sequence[float]
) -> np.ndarray:
    """Anchors for a feature map of any network, as continuous corners (xmin, ymin, xmax, ymax).

    The centres are those of the cells, (column + 0.5) * stride. At each there is an anchor for every size and
    ratio: its area is size^2, its height is ratio times its width.

    Args:
        height, width: of the feature map, positions.
        stride: input pixels per position.
        sizes: side lengths of the square anchors, pixels of the network input.
        ratios: heights over widths; 2 is upright, like a pedestrian.

    Returns:
        float32 [height, width, len(sizes) * len(ratios), 4], pixels of the network input; sizes change
        slowest.

    Raises:
        ValueError: for a number that is not above 0, or none at all.
    """
    given = {"height, width, stride": (height, width, stride), "sizes": sizes, "ratios": ratios}
    for name, values in given.items():
        if not len(values) or not all(value > 0 for value in values):
            raise ValueError(f"anchor_grid: {name} must be numbers above 0; got {values}")
    root = np.sqrt(np.asarray(ratios, np.float64))
    side = np.asarray(sizes, np.float64)[:, None]
    half = np.stack([side / root, side * root], axis=-1).reshape(-1, 2) / 2.0  # K x (width, height)
    x, y = np.meshgrid((np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride)
    centre = np.stack([x, y], axis=-1)[:, :, None]  # h x w x 1 x 2
    return np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)
