"""The region loss of YOLOv2 (the training rules of Darknet's region layer), float32, in the graph.

With the squared terms halved, its gradients are those of Darknet. There are three rules over all predictors
(the anchors of all cells):

1. A predictor whose box has an IoU of at most 0.6 with every ground truth learns objectness 0, any other
   nothing.
2. During the first 12,800 images every predictor learns its anchor's shape and its cell's centre, weakly.
3. A ground truth's predictor, the anchor of its centre's cell whose shape fits best, learns the box
   (weighted by 2 - w h), its IoU with the ground truth as objectness, and the class; rules 1 and 2 leave it
   alone. Where two ground truths have the same predictor, the later one has it.
"""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.geometry import boxes as box_forms
from fgfi_tf.geometry.coding import decode_in_cells
from fgfi_tf.geometry.crowds import over_truths
from fgfi_tf.geometry.iou import iou, pairwise_iou, shape_iou
from fgfi_tf.models.yolov2 import coding

OBJECT_SCALE, NO_OBJECT_SCALE, CLASS_SCALE, COORDINATE_SCALE = 5.0, 1.0, 1.0, 1.0
IGNORE_IOU = 0.6
PRIOR_SCALE = 0.01
PRIOR_IMAGES = 12_800


def region_losses(
    predictions: tf.Tensor,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    valid: tf.Tensor,
    anchors: tf.Tensor,
    images_seen: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """The terms of the loss, each summed over the images.

    Args:
        predictions: [B, h, w, A * (5 + C)], raw.
        boxes: float32 [B, M, 4], (cx, cy, w, h) as fractions of the network input.
        classes: int32 [B, M].
        valid: bool [B, M], False for padding.
        anchors: float32 [A, 2], (width, height) in cells.
        images_seen: scalar, images trained on, those of this step included.

    Returns:
        float32 scalars ``no_object_loss``, ``prior_loss``, ``box_loss``, ``object_loss``, ``class_loss``.
    """
    boxes, classes, valid = map(tf.convert_to_tensor, (boxes, classes, valid))
    raw = coding.split_predictions(predictions, anchors.shape[0])
    decoded = decode_in_cells(raw["xy"], raw["wh"], anchors)  # B x h x w x A x 4
    shape = tf.shape(decoded)
    predictors = shape[1] * shape[2] * shape[3]
    flat = {
        "boxes": tf.reshape(decoded, [shape[0], predictors, 4]),
        "xy": tf.reshape(raw["xy"], [shape[0], predictors, 2]),
        "wh": tf.reshape(raw["wh"], [shape[0], predictors, 2]),
        "objectness": tf.reshape(raw["objectness"], [shape[0], predictors]),
        "classes": tf.reshape(raw["classes"], [shape[0], predictors, raw["classes"].shape[-1]]),
    }
    index, cell_xy, cell_wh = assign(boxes, anchors, shape[1], shape[2])
    has_it, taken = _last_on_each(index, valid, predictors)
    overlapping = best_iou(tf.stop_gradient(flat["boxes"]), boxes, valid) > IGNORE_IOU  # B x P
    return {
        **_background(flat, overlapping, taken, images_seen),
        **_foreground(flat, boxes, classes, has_it, index, cell_xy, cell_wh),
    }


def assign(
    boxes: tf.Tensor, anchors: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Each ground truth's predictor and what it should predict.

    Returns:
        ``index`` int32 [B, M] into the predictors (row, column, anchor), ``xy`` [B, M, 2] the offset in the
        cell and ``wh`` [B, M, 2] the logarithm of the size by the anchor's (0 for an empty box).
    """
    size = tf.cast(tf.stack([width, height]), tf.float32)
    centres, sizes = boxes[..., :2] * size, boxes[..., 2:] * size  # in cells
    cell = tf.clip_by_value(tf.floor(centres), 0.0, size - 1.0)
    best = tf.argmax(shape_iou(sizes, anchors), axis=-1, output_type=tf.int32)  # B x M
    column, row = tf.unstack(tf.cast(cell, tf.int32), axis=-1)
    index = (row * width + column) * anchors.shape[0] + best
    ratio = sizes / tf.gather(anchors, best)
    return index, centres - cell, tf.math.log(tf.where(ratio > 0.0, ratio, 1.0))


def best_iou(predicted: tf.Tensor, boxes: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """float32 [B, P]: each predicted box's best IoU with any ground truth; 0 without one. No gradient.

    ``predicted`` [B, P, 4], ``boxes`` [B, M, 4] (cx, cy, w, h). The ground truths are taken a few at a
    time, so the memory does not grow with their number.
    """
    predicted, boxes = box_forms.corners_from_centres(predicted), box_forms.corners_from_centres(boxes)

    def of_some(state: tuple, _: tf.Tensor, boxes: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor]:
        found = tf.where(valid[:, None], pairwise_iou(predicted, boxes), 0.0)  # B x P x rows
        return (tf.maximum(state[0], tf.reduce_max(found, axis=-1)),)

    return over_truths(of_some, (tf.zeros(tf.shape(predicted)[:2]),), boxes, valid)[0]


def _last_on_each(index: tf.Tensor, valid: tf.Tensor, predictors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which ground truths [B, M] have their predictor (the last of several), which predictors [B, P] one."""
    batch, count = tf.unstack(tf.shape(index))
    images = tf.tile(tf.range(batch)[:, None], [1, count])
    order = tf.where(valid, tf.range(count)[None], -1)  # B x M
    places = tf.stack([images, index], axis=-1)
    last = tf.tensor_scatter_nd_max(tf.fill([batch, predictors], -1), places, order)  # B x P
    return valid & (tf.gather_nd(last, places) == order), last >= 0


def _background(flat: dict, overlapping: tf.Tensor, taken: tf.Tensor, images_seen: tf.Tensor) -> dict:
    objectness = tf.sigmoid(flat["objectness"])
    silent = tf.cast(~taken & ~overlapping, tf.float32)
    offsets = tf.reduce_sum(tf.square(tf.sigmoid(flat["xy"]) - 0.5), axis=-1)
    sizes = tf.reduce_sum(tf.square(flat["wh"]), axis=-1)
    early = tf.cast(tf.cast(images_seen, tf.int64) < PRIOR_IMAGES, tf.float32)
    free = tf.cast(~taken, tf.float32)
    return {
        "no_object_loss": 0.5 * NO_OBJECT_SCALE * tf.reduce_sum(silent * tf.square(objectness)),
        "prior_loss": 0.5 * PRIOR_SCALE * early * tf.reduce_sum(free * (offsets + sizes)),
    }


def _foreground(
    flat: dict,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    has_it: tf.Tensor,
    index: tf.Tensor,
    cell_xy: tf.Tensor,
    cell_wh: tf.Tensor,
) -> dict:
    def own(name: str) -> tf.Tensor:
        return tf.gather(flat[name], index, batch_dims=1)  # B x M x ...

    weight = COORDINATE_SCALE * (2.0 - boxes[..., 2] * boxes[..., 3])
    offsets = tf.reduce_sum(tf.square(tf.sigmoid(own("xy")) - cell_xy), axis=-1)
    sizes = tf.reduce_sum(tf.square(own("wh") - cell_wh), axis=-1)
    overlap = iou(*map(box_forms.corners_from_centres, (own("boxes"), boxes)))
    found = tf.square(tf.stop_gradient(overlap) - tf.sigmoid(own("objectness")))
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=own("classes"))

    def total(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.where(has_it, values, 0.0))

    return {
        "box_loss": 0.5 * total(weight * (offsets + sizes)),
        "object_loss": 0.5 * OBJECT_SCALE * total(found),
        "class_loss": CLASS_SCALE * total(entropy),
    }
