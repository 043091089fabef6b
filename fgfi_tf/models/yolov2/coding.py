"""YOLOv2's predictions taken apart, and their scores (pure graph functions, float32).

A prediction's channels are, for each anchor, x, y, w, h, objectness, classes; anchors outermost.
"""

from __future__ import annotations

import tensorflow as tf

# (width, height) in cells of 32 pixels: the published shapes.
VOC_ANCHORS = (
    (1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071),
)  # fmt: skip
COCO_ANCHORS = (
    (0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828),
)  # fmt: skip


def split_predictions(predictions: tf.Tensor, num_anchors: int) -> dict[str, tf.Tensor]:
    """[B, h, w, anchors * (5 + classes)] to its parts, [B, h, w, anchors, ...].

    Returns:
        float32 ``xy`` and ``wh`` [..., 2], ``objectness`` [...] and ``classes`` [..., C], all raw.
    """
    shape = tf.shape(predictions)
    values = tf.cast(predictions, tf.float32)
    channels = predictions.shape[-1] // num_anchors
    values = tf.reshape(values, [shape[0], shape[1], shape[2], num_anchors, channels])
    xy, wh, objectness, classes = tf.split(values, [2, 2, 1, channels - 5], axis=-1)
    return {"xy": xy, "wh": wh, "objectness": objectness[..., 0], "classes": classes}


def scores_of(objectness: tf.Tensor, classes: tf.Tensor, threshold: float = 0.005) -> tf.Tensor:
    """Objectness times class probability [..., C]; 0 where either does not exceed the threshold."""
    found = tf.sigmoid(objectness)
    scores = found[..., None] * tf.nn.softmax(classes)
    return tf.where((found[..., None] > threshold) & (scores > threshold), scores, 0.0)
