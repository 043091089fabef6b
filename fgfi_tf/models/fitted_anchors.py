"""Anchor shapes from the training objects (``--anchors=auto``), and whether given ones fit them."""

from __future__ import annotations

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.geometry import shapes as anchor_shapes

# Objects are far from all anchors below this IoU, and a quarter of them is worth a warning.
FAR_IOU = 0.3
FAR_SHARE = 0.25


def fit(
    shapes: np.ndarray, published: np.ndarray, input_size: tuple[int, int], seed: int
) -> tuple[np.ndarray, str]:
    """As many shapes as are published, see ``geometry.shapes.cluster``.

    Args:
        shapes: (w, h) of every object to learn, float64 [N,2], pixels of the network input.
        published: (w, h) [K,2] in the same pixels.
        input_size: (height, width) of the network input, for the line.
        seed: of the run.

    Returns:
        float64 [K,2] in the same pixels, and a line that compares them with the published ones.

    Raises:
        UserError: too few objects of different shape.
    """
    try:
        found = anchor_shapes.cluster(shapes, len(published), seed)
    except ValueError as error:
        raise UserError(f"--anchors=auto: {error}; label more objects, or --anchors=published") from error
    before, after = (anchor_shapes.best_ious(shapes, these).mean() for these in (published, found))
    listed = ", ".join(f"{w:.0f}x{h:.0f}" for w, h in found)
    return found, (
        f"anchors of {len(shapes)} objects at {input_size[0]}x{input_size[1]}, width x height: {listed}; "
        f"mean best IoU {before:.3f} with the published ones, {after:.3f} with these"
    )


def misfit(shapes: np.ndarray, anchors: np.ndarray, could_fit: bool) -> str:
    """A line where a quarter of the objects or more are unlike every anchor, whatever their place; else "".

    ``shapes`` [N,2] and ``anchors`` [K,2] are of one unit; ``could_fit``: ``--anchors=auto`` is worth naming.
    """
    if not len(shapes):
        return ""
    best = anchor_shapes.best_ious(shapes, anchors)
    far = int((best < FAR_IOU).sum())
    if far < FAR_SHARE * len(shapes):
        return ""
    return (
        f"no anchor is like {far} of the {len(shapes)} training objects (best IoU below {FAR_IOU}; the "
        f"mean of all is {best.mean():.2f}){': --anchors=auto fits them' if could_fit else ''}"
    )
