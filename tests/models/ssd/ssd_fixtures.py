"""A narrow SSD, batches for it, the goldens."""

import numpy as np
import tensorflow as tf

from fgfi_tf.models import registry

WIDTH = 1 / 16


def golden(shared_path, name):
    return np.load(shared_path(f"golden/ssd300/{name}.npz"))


def tiny(variant="vgg16", **options):
    given = {"input_size": (300, 300), "class_names": ("a", "b", "c"), "width": WIDTH, **options}
    return registry.build(f"ssd300_{variant}", **given)


def batch_of(boxes, classes, valid=True):
    """One image of 300 x 300 with these objects, inclusive corners."""
    return {
        "image": tf.random.stateless_uniform([1, 300, 300, 3], [1, 2], 0, 255),
        "boxes": tf.constant([boxes], tf.float32),
        "classes": tf.constant([classes]),
        "valid": tf.fill([1, len(classes)], valid),
    }
