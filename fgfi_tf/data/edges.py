"""Boxes at the edges of their image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fgfi_tf.data.dataset import Frame
from fgfi_tf.errors import UserError

#: So far a box of a label may reach over the edge of its image: by a pixel (real KITTI labels do by 0.52, in
#: frame 006828, and tools that count from 0 or from 1 when they should not by 1), or this share of the side.
BORDER_PIXELS, BORDER_SHARE = 1.0, 0.01


def boxes_in_image(
    frame: Frame, image_size: tuple[int, int], anywhere: bool = False
) -> tuple[np.ndarray, int]:
    """A frame's boxes, cut to its picture, and how many were cut: see :func:`cut_to_image`.

    Labels that give a size must give the upright picture's own. Those that give the size before the EXIF
    orientation are refused: nothing tells whether their boxes were drawn on the picture as it is stored or as
    it is shown.

    Raises:
        UserError: another size, or as :func:`cut_to_image`.
    """
    said = frame.image_size
    if said is not None and tuple(said) != tuple(image_size):
        swapped = tuple(said) == tuple(image_size)[::-1]
        hint = "; where EXIF turns a picture, the upright one counts, for boxes too" if swapped else ""
        raise UserError(
            f"{frame.label_path}: says {said[1]} x {said[0]}, "
            f"but {frame.image_path} is {image_size[1]} x {image_size[0]}{hint}"
        )
    return cut_to_image(frame.boxes, image_size, frame.label_path, anywhere)


def outside(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Which boxes [N,4] hold no pixel of an image: bool [N]."""
    height, width = image_size
    return (boxes[:, :2] >= [width, height]).any(axis=1) | (boxes[:, 2:] < 0).any(axis=1)


def cut_to_image(
    boxes: np.ndarray, image_size: tuple[int, int], path: Path | None, anywhere: bool = False
) -> tuple[np.ndarray, int]:
    """Cuts boxes of a label file to the pixels of the image, and counts those that were cut.

    A box thinner than a pixel is widened to one: it lies on one.

    Args:
        boxes: float64 [N,4], inclusive corners (xmin, ymin, xmax, ymax), 0-based.
        image_size: (H, W).
        path: the label file, for the message.
        anywhere: boxes may reach over the edge however far (``Dataset.cuts_boxes``).

    Returns:
        boxes with x in [0, W - 1] and y in [0, H - 1], and how many of them were changed.

    Raises:
        UserError: a number that is not finite; a box that is upside down, that lies outside by more than a
            pixel, or that reaches over the edge by more than that and a hundredth of the image's side.
    """
    height, width = image_size
    size = np.array([width, height, width, height], np.float64)
    over = np.maximum(BORDER_PIXELS, BORDER_SHARE * size)  # 4
    finite = np.isfinite(boxes).all(axis=1)  # N
    beyond = (boxes[:, :2] > size[:2] - 1.0 + BORDER_PIXELS) | (boxes[:, 2:] < -BORDER_PIXELS)  # N x 2
    upside_down = (boxes[:, 2:] + 1 < boxes[:, :2]).any(axis=1)
    too_far = ((boxes < -over) | (boxes > size - 1.0 + over)).any(axis=1) | beyond.any(axis=1)
    too_far &= not anywhere
    wrong = np.flatnonzero(~finite | upside_down | too_far)
    if len(wrong):
        first = wrong[0]
        corners = " ".join(f"{value:g}" for value in boxes[first])
        problem = f"is outside the image, which is {width} wide and {height} high"
        if not finite[first]:
            problem = "is not of finite numbers"
        elif upside_down[first]:
            problem = "is upside down"
        more = f" (and {len(wrong) - 1} more in this picture)" if len(wrong) > 1 else ""
        raise UserError(f"{path}: the box {corners} (xmin ymin xmax ymax, counted from 0) {problem}{more}")
    cut = np.clip(boxes, 0.0, size - 1.0)
    cut[:, 2:] = np.maximum(cut[:, 2:], cut[:, :2])
    return cut, int((cut != boxes).any(axis=1).sum())
