"""ShuffleDet's boxes: what its deltas say, and the assignment of anchors (pure graph functions).

Boxes are (cx, cy, w, h) in pixels of the network input, with w = xmax - xmin + 1.
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.geometry import boxes as box_forms
from fgfi_tf.geometry import coding
from fgfi_tf.geometry.crowds import last_row
from fgfi_tf.geometry.iou import iou as iou_of

# IoUs of float32 boxes closer than this are one value with different rounding.
IOU_TIE = 1e-6


def decode(deltas: tf.Tensor, anchors: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Boxes from deltas, clipped to the input.

    The clipped corners are turned back with w = xmax - xmin + 1, as labels are, so a box is one
    pixel wider than its deltas say.

    Args:
        deltas: float32 [..., A, 4].
        anchors: float32 [A, 4].
        height, width: of the network input.

    Returns:
        float32 [..., A, 4] (cx, cy, w, h).
    """
    boxes = coding.decode(deltas, anchors, exp=coding.linear_exp)
    size = tf.constant([height, width], tf.float32)
    return centres_from_inclusive(box_forms.clip(boxes, size, inclusive=True))


def centres_from_inclusive(corners: tf.Tensor) -> tf.Tensor:
    """Inclusive corners [..., 4] to (cx, cy, w, h) with w = xmax - xmin + 1, cx = xmin + w / 2."""
    return box_forms.centres_from_corners(box_forms.continuous(corners))


def with_anchor(valid: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Which objects have an anchor of their own where there are ``count`` of them: bool [B, M]."""
    return valid & (tf.cumsum(tf.cast(valid, tf.int32), axis=1) <= count)


def assign_anchors(boxes: tf.Tensor, valid: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """One anchor for each box, in label order.

    Each box takes the anchor of highest IoU that no earlier box of its image took, or, where it
    overlaps no free anchor, the nearest free one by squared distance of (cx, cy, w, h).

    Equal IoUs are common (every anchor of one shape that contains a box has the same), and here
    the nearest of them is taken. The 2019 code left them to an unstable sort, whose choice
    depends on the processor and on numpy's version.

    Args:
        boxes: float32 [B, M, 4].
        valid: bool [B, M]; padding takes no anchor.
        anchors: float32 [A, 4].

    Returns:
        int32 [B, M]; 0 for padding, and for objects beyond the number of anchors (see :func:`with_anchor`).
    """
    count = tf.shape(anchors)[0]
    corners = box_forms.corners_from_centres(anchors)

    def assign_next(state, box_and_valid):
        taken, _ = state  # B x A, B
        box, is_object = box_and_valid  # B x 4, B
        iou = iou_of(box_forms.corners_from_centres(box)[:, None], corners)  # B x A
        iou = tf.where(taken, -1.0, iou)
        best = tf.reduce_max(iou, axis=1, keepdims=True)
        # Without any overlap the best is 0, and every free anchor is a candidate.
        candidate = (iou >= best - IOU_TIE) & ~taken
        distance = tf.reduce_sum(tf.square(box[:, None] - anchors[None]), axis=-1)
        index = tf.argmin(tf.where(candidate, distance, distance.dtype.max), axis=1, output_type=tf.int32)
        taken |= tf.one_hot(index, count, on_value=True, off_value=False, dtype=tf.bool) & is_object[:, None]
        return taken, tf.where(is_object, index, 0)

    batch, rows = tf.unstack(tf.shape(valid))
    # At least one: of none the scan does not know the shape of what it stacks.
    some = tf.minimum(tf.maximum(last_row(valid), 1), rows)
    shape, boxes, valid = valid.shape, boxes[:, :some], valid[:, :some]
    start = (tf.zeros([batch, count], tf.bool), tf.zeros([batch], tf.int32))
    _, indices = tf.scan(assign_next, (tf.transpose(boxes, [1, 0, 2]), tf.transpose(valid)), start)
    return tf.ensure_shape(tf.pad(tf.transpose(indices), [[0, 0], [0, rows - some]]), shape)
