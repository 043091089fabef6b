"""Anchor grids of every family, and of anybody's map (numpy, where they are constants of a graph)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# ShuffleDet's anchor shapes (w, h), in pixels of a 1248 x 384 input; clustered on KITTI.
SHUFFLEDET_SHAPES = (
    (36, 37), (366, 174), (115, 59), (162, 87), (38, 90), (258, 173), (224, 108), (78, 170), (72, 43),
)  # fmt: skip
SHUFFLEDET_INPUT = (384, 1248)


def shuffledet_anchors(
    height: int, width: int, stride: int = 16, shapes: np.ndarray | None = None
) -> np.ndarray:
    """ShuffleDet's anchors as (cx, cy, w, h).

    The centres divide the input evenly, (i + 1) * width / (columns + 1), and are not the centres
    of the cells. The shapes scale with the input, relative to 384 x 1248.

    Args:
        height, width: of the network input, pixels, multiples of ``stride``.
        stride: input pixels per position of the feature map.
        shapes: (w, h) [K,2] as shares of the input's width and height; the published nine where None.

    Returns:
        float32 [height / stride, width / stride, K, 4], pixels of the network input.
    """
    rows, columns = height // stride, width // stride
    cx = np.arange(1, columns + 1) * float(width) / (columns + 1)
    cy = np.arange(1, rows + 1) * float(height) / (rows + 1)
    if shapes is None:
        scale = np.array([width / SHUFFLEDET_INPUT[1], height / SHUFFLEDET_INPUT[0]])
        sides = np.array(SHUFFLEDET_SHAPES) * scale
    else:
        sides = np.asarray(shapes) * [width, height]
    return centre_grid(cx, cy, sides).astype(np.float32)


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

    Returns float32 [height, width, len(sizes) * len(ratios), 4], pixels of the network input; sizes change
    slowest. Raises ValueError for a number that is not above 0, or none at all.
    """
    given = {"height, width, stride": (height, width, stride), "sizes": sizes, "ratios": ratios}
    for name, values in given.items():
        if not len(values) or not all(value > 0 for value in values):
            raise ValueError(f"anchor_grid: {name} must be numbers above 0; got {values}")
    columns, rows = (np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride
    centres = centre_grid(columns, rows, shapes(sizes, ratios))
    half = centres[..., 2:] / 2.0
    return np.concatenate([centres[..., :2] - half, centres[..., :2] + half], axis=-1).astype(np.float32)


def shapes(sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """(w, h) of an anchor for every size and ratio (height over width): float64 [K, 2], areas size^2."""
    root = np.sqrt(np.asarray(ratios, np.float64))
    side = np.asarray(sizes, np.float64)[:, None]
    return np.stack([side / root, side * root], axis=-1).reshape(-1, 2)


def centre_grid(cx: np.ndarray, cy: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Boxes of ``shapes`` [K, 2] at every centre: (cx, cy, w, h), float64 [rows, columns, K, 4]."""
    boxes = np.empty((len(cy), len(cx), len(shapes), 4))
    boxes[..., 0], boxes[..., 1] = cx[None, :, None], cy[:, None, None]
    boxes[..., 2:] = shapes
    return boxes


def rounded_cell(
    base_size: int = 16,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    scales: Sequence[float] = (8.0, 16.0, 32.0),
) -> np.ndarray:
    """Anchors of the published Faster R-CNN in the cell at the origin, inclusive corners; ratio outer.

    Each ratio (height over width) keeps the area of the ``base_size`` square up to rounding of the sides to
    whole pixels; scales then multiply the sides about the centre of that square. float32 [K, 4].
    """
    widths = np.round(np.sqrt(base_size**2 / np.asarray(ratios)))
    heights = np.round(widths * ratios)
    sides = np.stack([widths, heights], axis=-1)[:, None, :] * np.asarray(scales)[None, :, None]
    reach = 0.5 * (sides.reshape(-1, 2) - 1)  # K x 2 (w, h)
    centre = 0.5 * (base_size - 1)
    return np.concatenate([centre - reach, centre + reach], axis=-1).astype(np.float32)


def centred_cell(sizes: Sequence[float], ratios: Sequence[float], rounded: bool = False) -> np.ndarray:
    """Anchors around the origin, continuous corners, float32 [K, 4]; ``rounded`` to pixels (torchvision)."""
    half = shapes(sizes, ratios) / 2.0
    cell = np.concatenate([-half, half], axis=-1)
    return (np.round(cell) if rounded else cell).astype(np.float32)


def repeat_cell(
    cell: np.ndarray,
    height: int | tf.Tensor,
    width: int | tf.Tensor,
    stride: int | tuple[int | tf.Tensor, int | tf.Tensor],
) -> tf.Tensor:
    """``cell`` [K, 4] moved to every position of a map, in the graph: its size may change from step to step.

    Args:
        cell: the anchors of the first position, corners.
        height, width: of the feature map, positions.
        stride: input pixels per position; (down, across) where these differ.

    Returns:
        float32 [height, width, K, 4].
    """
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    x, y = tf.meshgrid(tf.range(width) * across, tf.range(height) * down)  # height x width
    shifts = tf.cast(tf.stack([x, y, x, y], axis=-1), tf.float32)
    return shifts[:, :, None, :] + tf.constant(cell)
