"""Faster R-CNN in the distiller: a student that imitates a VGG16 learns two pictures."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig

SMALL = {"width": 0.08, "train_pre_nms": 600, "train_post_nms": 100, "test_pre_nms": 600, "rpn_batch": 64}


def _batch():
    """Two grey pictures, each with one bright square of another class."""
    images = np.full([2, 208, 240, 3], 110.0, np.float32)
    boxes = np.array([[[30, 20, 165, 155]], [[70, 50, 210, 190]]], np.float32)
    for image, (x1, y1, x2, y2), color in zip(
        images, boxes[:, 0].astype(int), ([250, 60, 60], [40, 60, 250]), strict=True
    ):
        image[y1 : y2 + 1, x1 : x2 + 1] = color
    return {
        "image": tf.constant(images),
        "boxes": tf.constant(boxes),
        "classes": tf.constant([[0], [1]]),
        "valid": tf.constant([[True], [True]]),
        "content_size": tf.constant([[208.0, 240.0]] * 2),
        "scale": tf.ones([2, 2]),
        "image_id": tf.constant(["a", "b"]),
        "image_size": tf.constant([[208, 240]] * 2),
    }


@pytest.mark.slow
def test_student_learns_and_imitates():
    keras.utils.set_random_seed(4)
    classes = ("red", "blue")
    student = FasterRCNN(FasterRCNNConfig(class_names=classes, dropout=0.0, **SMALL))
    teacher = FasterRCNN(FasterRCNNConfig(backbone="vgg16", class_names=classes, **SMALL))
    imitation = ImitationLoss(teacher.feature_channels, **student.imitation_options())
    distiller = Distiller(student, teacher, imitation, imitation_weight=0.2, seed=1, clip_norm=10.0)
    distiller.compile(keras.optimizers.legacy.SGD(0.01, momentum=0.9))
    batch = _batch()
    step = tf.function(distiller.train_step, autograph=False)
    history = []
    for _ in range(110):
        distiller.reset_metrics()
        history.append({name: float(value) for name, value in step(batch).items()})
    first, last = history[0], history[-1]
    assert {"rpn_class", "rpn_box", "rcnn_class", "rcnn_box", "imitation_loss"} <= set(first)
    detection = [sum(v for k, v in h.items() if k.startswith(("rpn", "rcnn"))) for h in (first, last)]
    assert detection[1] < 0.15 * detection[0]
    assert last["imitation_loss"] < 0.2 * first["imitation_loss"]
    found = student.detect(student(student.preprocess(batch["image"])), batch)
    np.testing.assert_array_equal(found["classes"][:, 0], [0, 1])
    np.testing.assert_allclose(found["boxes"][:, 0], batch["boxes"][:, 0], atol=20)
