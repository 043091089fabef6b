"""Anchor grids of the detector families (numpy: they are constants of a graph)."""

from __future__ import annotations

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
