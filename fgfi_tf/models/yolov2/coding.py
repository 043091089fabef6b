"""YOLOv2's predictions taken apart, and their scores (pure graph functions, float32).

A prediction's channels are, for each anchor, x, y, w, h, objectness, classes; anchors outermost.
"""

from __future__ import annotations

import numpy as np
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


def predicted_parts(
    features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, num_anchors: int
) -> dict[str, tf.Tensor]:
    """The last convolution in four, one for each part of the predictions.

    Args:
        features: [B, h, w, F], h and w known.
        kernel: [1, 1, F, anchors * (5 + classes)]; bias: [anchors * (5 + classes)].
        num_anchors: see above.

    Returns:
        ``xy``, ``wh`` [B, N, 2], ``objectness`` [B, N, 1] and ``classes`` [B, N, C], all raw, of the N =
        h * w * anchors predictions by row, column and anchor.
    """
    height, width, depth = features.shape[1:]
    channels = kernel.shape[-1] // num_anchors
    kernel = tf.reshape(kernel, [depth, num_anchors, channels])
    bias = tf.reshape(bias, [num_anchors, channels])
    found = {}
    for name, start, end in (("xy", 0, 2), ("wh", 2, 4), ("objectness", 4, 5), ("classes", 5, channels)):
        part = tf.reshape(kernel[..., start:end], [1, 1, depth, num_anchors * (end - start)])
        values = tf.nn.conv2d(features, part, 1, "SAME")
        values = tf.nn.bias_add(values, tf.reshape(bias[:, start:end], [-1]))
        found[name] = tf.reshape(values, [-1, height * width * num_anchors, end - start])
    return found


def cells_and_shapes(height: int, width: int, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each prediction: (column, row) of its cell, (w, h) of its anchor in cells; float32 [N, 2] each."""
    rows, columns = np.mgrid[:height, :width]
    cells = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    shapes = np.tile(anchors, (height * width, 1))
    return np.repeat(cells, len(anchors), axis=0).astype(np.float32), shapes.astype(np.float32)


def scores_of(objectness: tf.Tensor, classes: tf.Tensor, threshold: float = 0.005) -> tf.Tensor:
    """Objectness times class probability [..., C]; 0 where either does not exceed the threshold."""
    found = tf.sigmoid(objectness)
    scores = found[..., None] * tf.nn.softmax(classes)
    return tf.where((found[..., None] > threshold) & (scores > threshold), scores, 0.0)
