"""Intersection over union, in float32; 0 where the union is empty.

Boxes are corners (xmin, ymin, xmax, ymax), continuous or inclusive: see ``boxes``.
"""

from __future__ import annotations

import tensorflow as tf


def iou(a: tf.Tensor, b: tf.Tensor, inclusive: bool = False) -> tf.Tensor:
    """IoU of boxes [..., 4] and [..., 4], elementwise with broadcasting: [...]."""
    extra = 1.0 if inclusive else 0.0
    ax1, ay1, ax2, ay2 = tf.unstack(a, axis=-1)
    bx1, by1, bx2, by2 = tf.unstack(b, axis=-1)
    width = tf.maximum(_length(tf.maximum(ax1, bx1), tf.minimum(ax2, bx2), extra), 0.0)
    height = tf.maximum(_length(tf.maximum(ay1, by1), tf.minimum(ay2, by2), extra), 0.0)
    a_area = _length(ax1, ax2, extra) * _length(ay1, ay2, extra)
    b_area = _length(bx1, bx2, extra) * _length(by1, by2, extra)
    return _ratio(width * height, a_area, b_area)


def pairwise_iou(first: tf.Tensor, second: tf.Tensor, inclusive: bool = False) -> tf.Tensor:
    """IoU of all boxes [..., N, 4] with all [..., M, 4]: [..., N, M]."""
    return iou(first[..., :, None, :], second[..., None, :, :], inclusive)


def shape_iou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """IoU of all sizes (w, h) [..., N, 2] with all [M, 2], both centred at one place: [..., N, M]."""
    shared = tf.reduce_prod(tf.minimum(first[..., None, :], second), axis=-1)
    return _ratio(shared, tf.reduce_prod(first, axis=-1)[..., None], tf.reduce_prod(second, axis=-1))


def best_iou_per_position(anchors: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """The best IoU of each box with the anchors of each position of a grid; corners are continuous.

    On a grid the x coordinates of anchors depend on the column and the shape only, the y coordinates on the
    row and the shape only. Every detector family has such grids, and it makes the intersection of a box with
    all anchors an outer product.

    Args:
        anchors: float32 [h, w, K, 4], a grid.
        boxes: float32 [B, M, 4].

    Returns:
        float32 [B, M, h, w]; 0 for an empty box.
    """
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    anchor_x1, anchor_x2 = anchors[0, :, :, 0], anchors[0, :, :, 2]  # w x K
    anchor_y1, anchor_y2 = anchors[:, 0, :, 1], anchors[:, 0, :, 3]  # h x K
    x1, y1, x2, y2 = (c[..., None] for c in tf.unstack(boxes, axis=-1))  # B x M x 1
    box_area = ((x2 - x1) * (y2 - y1))[..., None]  # B x M x 1 x 1

    best = None
    for k in range(anchors.shape[2]):
        # B x M x w and B x M x h
        along_x = tf.maximum(tf.minimum(anchor_x2[:, k], x2) - tf.maximum(anchor_x1[:, k], x1), 0.0)
        along_y = tf.maximum(tf.minimum(anchor_y2[:, k], y2) - tf.maximum(anchor_y1[:, k], y1), 0.0)
        area = (anchor_x2[0, k] - anchor_x1[0, k]) * (anchor_y2[0, k] - anchor_y1[0, k])
        found = _ratio(along_y[..., :, None] * along_x[..., None, :], area, box_area)  # B x M x h x w
        best = found if best is None else tf.maximum(best, found)
    return best


def _length(low: tf.Tensor, high: tf.Tensor, extra: float) -> tf.Tensor:
    return high - low + extra if extra else high - low


def _ratio(intersection: tf.Tensor, first_area: tf.Tensor, second_area: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(intersection, first_area + second_area - intersection)
