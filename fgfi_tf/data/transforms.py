"""The pieces of every input pipeline, for one image, in the graph.

Boxes are float32 [N,4] (xmin, ymin, xmax, ymax), inclusive pixel corners, as in
``fgfi_tf.data.sample``; sizes are (height, width).
"""

from __future__ import annotations

import tensorflow as tf

BOX_CORNERS = ("edges", "corners")


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """The bytes of a png or jpg file to RGB uint8 [H,W,3].

    JPEG with the accurate integer DCT: TensorFlow's default, the fast one, differs from other
    decoders by up to 9 grey levels.
    """
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")  # decodes png as well


def training_objects(
    boxes: tf.Tensor, classes: tf.Tensor, ignore: tf.Tensor, num_classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Boxes [n,4] and classes [n] of the objects to train on, in label order."""
    keep = tf.logical_and(tf.logical_not(ignore), classes < num_classes)
    return tf.boolean_mask(boxes, keep), tf.boolean_mask(classes, keep)


def pad_image(image: tf.Tensor, size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    """An image [..., h, w, 3] with zeros below and to the right, up to ``size``."""
    rest = tf.convert_to_tensor(size, tf.int32) - tf.shape(image)[-3:-1]
    outer = [[0, 0]] * (image.shape.rank - 3)
    return tf.pad(image, [*outer, [0, rest[0]], [0, rest[1]], [0, 0]])


def resize_boxes(boxes: tf.Tensor, scale: tf.Tensor, rule: str = "edges") -> tf.Tensor:
    """Boxes [..., 4] of an image that is resized by ``scale``, float32 [2] (y, x).

    ``"edges"`` scales the width with its + 1, ``"corners"`` the inclusive corners themselves
    (see ``fgfi_tf.data.sample``).
    """
    if rule not in BOX_CORNERS:
        raise ValueError(f"box_corners is {rule!r}, not one of {', '.join(BOX_CORNERS)}")
    scale_xyxy = tf.gather(scale, [1, 0, 1, 0])
    if rule == "corners":
        return boxes * scale_xyxy
    far = tf.constant([0.0, 0.0, 1.0, 1.0])
    return (boxes + far) * scale_xyxy - far


def flip_boxes(boxes: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Boxes [N,4] in the mirrored image: pixel column x becomes width - 1 - x."""
    last = tf.cast(width, boxes.dtype) - 1.0
    xmin, ymin, xmax, ymax = tf.unstack(boxes, axis=-1)
    return tf.stack([last - xmax, ymin, last - xmin, ymax], axis=-1)


def pad_objects(
    boxes: tf.Tensor, classes: tf.Tensor, max_boxes: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Zero rows up to ``max_boxes`` = M: boxes [M,4], classes int32 [M], valid bool [M].

    An image with more objects is an error of the graph, never a silent loss of labels.
    """
    count = tf.shape(boxes)[0]
    check = tf.debugging.assert_less_equal(
        count, max_boxes, message="more objects in an image than max_boxes"
    )
    with tf.control_dependencies([check] if check is not None else []):
        rest = max_boxes - count
    boxes = tf.ensure_shape(tf.pad(boxes, [[0, rest], [0, 0]]), (max_boxes, 4))
    classes = tf.ensure_shape(tf.pad(classes, [[0, rest]]), (max_boxes,))
    return boxes, classes, tf.range(max_boxes) < count
