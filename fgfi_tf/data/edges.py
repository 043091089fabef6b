"""Boxes at the edges of their image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fgfi_tf.errors import UserError

#: So far a box of a label may reach over the edge of its image, in pixels: real KITTI labels do by 0.52
#: (frame 006828), and tools that count from 0 or from 1 when they should not by 1.
BORDER_TOLERANCE = 1.0


def cut_to_image(boxes: np.ndarray, image_size: tuple[int, int], path: Path) -> tuple[np.ndarray, int]:
    """Cuts boxes of a label file to the pixels of the image, and counts those that were cut.

    Args:
        boxes: float64 [N,4], inclusive corners (xmin, ymin, xmax, ymax), 0-based.
        image_size: (H, W).
        path: the label file, for the message.

    Returns:
        boxes with x in [0, W - 1] and y in [0, H - 1], and how many of them were changed.

    Raises:
        UserError: a box reaches over the edge by more than ``BORDER_TOLERANCE``.
    """
    height, width = image_size
    last = np.array([width, height, width, height]) - 1.0
    outside = ((boxes < -BORDER_TOLERANCE) | (boxes > last + BORDER_TOLERANCE)).any(axis=1)  # N
    if outside.any():
        corners = " ".join(f"{value:g}" for value in boxes[np.argmax(outside)])
        raise UserError(
            f"{path}: the box {corners} (xmin ymin xmax ymax, counted from 0) is outside the image, "
            f"which is {width} wide and {height} high"
        )
    cut = np.clip(boxes, 0.0, last)
    return cut, int((cut != boxes).any(axis=1).sum())
