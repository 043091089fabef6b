"""ShuffleDet's boxes: deltas, targets and the assignment of anchors (pure graph functions).

Boxes are (cx, cy, w, h) in pixels of the network input, with w = xmax - xmin + 1.
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf import boxes as box_ops

# IoUs of float32 boxes closer than this are one value with different rounding.
IOU_TIE = 1e-6


def safe_exp(x: tf.Tensor, threshold: float = 1.0) -> tf.Tensor:
    """exp(x) up to ``threshold`` and its slope's line, exp(threshold) * x, beyond."""
    slope = tf.exp(threshold)
    return tf.where(x > threshold, slope * x, tf.exp(tf.minimum(x, threshold)))


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
    dx, dy, dw, dh = tf.unstack(deltas, axis=-1)
    ax, ay, aw, ah = tf.unstack(anchors, axis=-1)
    cx, cy = ax + dx * aw, ay + dy * ah
    half_w, half_h = 0.5 * aw * safe_exp(dw), 0.5 * ah * safe_exp(dh)
    x1 = tf.clip_by_value(cx - half_w, 0.0, width - 1.0)
    y1 = tf.clip_by_value(cy - half_h, 0.0, height - 1.0)
    x2 = tf.clip_by_value(cx + half_w, 0.0, width - 1.0)
    y2 = tf.clip_by_value(cy + half_h, 0.0, height - 1.0)
    return centres_from_inclusive(tf.stack([x1, y1, x2, y2], axis=-1))


def centres_from_inclusive(corners: tf.Tensor) -> tf.Tensor:
    """Inclusive corners [..., 4] to (cx, cy, w, h) with w = xmax - xmin + 1, cx = xmin + w / 2."""
    return box_ops.centres_from_corners(corners + tf.constant([0.0, 0.0, 1.0, 1.0]))


def encode(boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """Deltas of boxes [..., 4] against anchors [..., 4], both (cx, cy, w, h)."""
    cx, cy, w, h = tf.unstack(boxes, axis=-1)
    ax, ay, aw, ah = tf.unstack(anchors, axis=-1)
    return tf.stack([(cx - ax) / aw, (cy - ay) / ah, tf.math.log(w / aw), tf.math.log(h / ah)], axis=-1)


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
        int32 [B, M]; 0 for padding.
    """
    count = tf.shape(anchors)[0]

    def assign_next(state, box_and_valid):
        taken, _ = state  # B x A, B
        box, is_object = box_and_valid  # B x 4, B
        iou = tf.where(taken, -1.0, box_ops.iou_of_centres(box[:, None], anchors[None]))  # B x A
        best = tf.reduce_max(iou, axis=1, keepdims=True)
        # Without any overlap the best is 0, and every free anchor is a candidate.
        candidate = (iou >= best - IOU_TIE) & ~taken
        distance = tf.reduce_sum(tf.square(box[:, None] - anchors[None]), axis=-1)
        index = tf.argmin(tf.where(candidate, distance, distance.dtype.max), axis=1, output_type=tf.int32)
        taken |= tf.one_hot(index, count, on_value=True, off_value=False, dtype=tf.bool) & is_object[:, None]
        return taken, tf.where(is_object, index, 0)

    batch = tf.shape(boxes)[0]
    start = (tf.zeros([batch, count], tf.bool), tf.zeros([batch], tf.int32))
    _, indices = tf.scan(assign_next, (tf.transpose(boxes, [1, 0, 2]), tf.transpose(valid)), start)
    return tf.transpose(indices)
