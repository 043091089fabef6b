"""Ten steps of a training on some virtual CPUs.

Virtual devices can only be made before TensorFlow starts, and one process serves one size of a
group of replicas, so several devices are no part of the test process; one device is.
The batches: 8 images each, and what ``images`` leaves in the last; images without objects stand first,
so that the first replica often has none; the batch of step 4 has no object at all. ``order``: that of the
images of each batch, for example 01452367. ``share``: that of the imitation loss, whose weight follows it
then. ``labelled``, K:N: the first K of every N images of a replica's part have labels; of the others the
teacher alone is learnt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
import tiny_detector
from short_networks import SHUFFLEDET_UNITS

from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.imitation.weight import RunningWeight
from fgfi_tf.models import convolutions, registry
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.models.shuffledet import network
from fgfi_tf.training.optimizers import MomentumSGD, inner_optimizer
from fgfi_tf.training.strategy import build_strategy

SIZE, BATCH, BOXES = (64, 96), 8, 4
CLASSES = tiny_detector.CLASSES
# Anchors of Faster R-CNN fit into nothing smaller than this.
FRCNN_SIZE = (160, 240)
# The smallest input of SSD's six maps.
SSD_SIZE = (257, 257)
FRCNN_OPTIONS = {"width": 0.05, "dropout": 0.0, "train_pre_nms": 600, "train_post_nms": 100, "rpn_batch": 16}


def examples(count: int, image_size: tuple[int, int], order: str = "01234567") -> dict[str, np.ndarray]:
    generator, factor = np.random.default_rng(3), image_size[0] / SIZE[0]
    corner = factor * generator.uniform(0, [56, 24], (count, BOXES, 2))
    size = factor * generator.uniform(20, 40, (count, BOXES, 2))
    valid = np.arange(BOXES) < generator.integers(1, BOXES + 1, (count, 1))
    position = np.arange(count)
    valid[(position % BATCH < 2) | (position // BATCH == 3)] = False
    boxes = np.concatenate([corner, corner + size], -1) * valid[..., None]
    arrays = {
        "image": generator.uniform(0, 255, (count, *image_size, 3)).astype(np.float32),
        "content_size": np.tile(np.float32(image_size), (count, 1)),
        "boxes": boxes.astype(np.float32),
        "classes": (generator.integers(0, 3, (count, BOXES)) * valid).astype(np.int32),
        "valid": valid,
    }
    if count % BATCH:
        return arrays
    index = np.arange(count).reshape(-1, BATCH)[:, [int(digit) for digit in order]].ravel()
    return {name: array[index] for name, array in arrays.items()}


class Record(keras.callbacks.Callback):
    """Losses of every step; the velocities (which are the gradients) of the first."""

    def __init__(self):
        super().__init__()
        self.losses, self.gradients = [], {}

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append([logs[name] for name in sorted(logs)])
        self.model.reset_metrics()
        if batch == 0:
            optimizer = inner_optimizer(self.model.optimizer)
            slots = [optimizer.get_slot(v, "momentum") for v in self.model.trained_variables]
            self.gradients = {f"gradient/{i}": slot.numpy() for i, slot in enumerate(slots)}


@contextlib.contextmanager
def altered(model: str, batch_norm: str, precision: str, depth: str) -> Iterator[None]:
    """Batch norm in its inference form, precision and depth where asked for; smooth activations."""
    with pytest.MonkeyPatch.context() as patch:
        original = BatchNorm.call
        if batch_norm == "inference":
            patch.setattr(
                BatchNorm, "call", lambda self, inputs, training=False: original(self, inputs, False)
            )
        # A ReLU has either slope where rounding decides its input's sign. One such unit among hundreds of
        # thousands changes gradients below it by up to 1e-4 of the largest; a smooth one has none.
        if "shuffledet" in model:
            patch.setattr(tf.nn, "relu", tf.nn.silu)
            if depth == "short":
                patch.setattr(network, "GROUP_UNITS", SHUFFLEDET_UNITS)
        if "shuffledet" in model or "yolov2" in model:
            for name in convolutions._ACTIVATIONS:
                patch.setitem(convolutions._ACTIVATIONS, name, tf.nn.silu)
        before = keras.mixed_precision.global_policy()
        if precision != "none":
            keras.mixed_precision.set_global_policy(f"mixed_{precision}")
        try:
            yield
        finally:
            keras.mixed_precision.set_global_policy(before)


def train(
    model: str, batch_norm: str = "training", precision: str = "none", depth: str = "whole", **options: str
):
    """The losses, the first gradients and the final variables, by name."""
    tiny_detector.register()
    with altered(model, batch_norm, precision, depth):
        return _train(model, precision=precision, **options)


def _train(
    model: str,
    teacher: str = "none",
    replicas: str = "1",
    images: str = "79",
    parts: str = "1",
    precision: str = "none",
    order: str = "01234567",
    share: str = "",
    labelled: str = "1:1",
) -> dict[str, np.ndarray]:
    over = build_strategy(virtual_cpus=int(replicas))
    keras.utils.set_random_seed(3)
    two_stage = model.startswith("faster_rcnn")
    image_size, input_size, options = SIZE, SIZE, {}
    if two_stage:
        image_size, input_size, options = FRCNN_SIZE, (FRCNN_SIZE[0], 0), FRCNN_OPTIONS
    if model.startswith("ssd"):
        image_size, input_size, options = SSD_SIZE, SSD_SIZE, {"width": 1 / 32, "default_boxes": "coco"}
    with over.scope():
        student = registry.build(model, input_size=input_size, class_names=CLASSES, **options)
        if not two_stage:
            student.dropout = 0.0
        guide = imitation = None
        if teacher != "none":
            guide = registry.build(teacher, input_size=input_size, class_names=CLASSES, **options)
            imitation = ImitationLoss(guide.feature_channels, weight_decay=0.0005)
        # In a deep network with random weights, and a teacher whose statistics are not its own, rounding
        # errors grow tenfold in a step of useful length.
        rate, weight = (0.01, 1.0) if model.startswith("tiny") else (1e-5, 1e-3)
        if model.startswith("ssd"):  # of whose negatives rounding chooses some
            rate = 1e-6
        if model.startswith("yolov2"):  # whose loss counts predictions above an IoU
            rate = 1e-7
        weight = RunningWeight(float(share), decay=0.5) if share else weight
        distiller = Distiller(
            student,
            guide,
            imitation,
            imitation_weight=weight,
            gradient_accumulation=int(parts),
            labelled_share=tuple(map(int, labelled.split(":"))),
        )
        optimizer = MomentumSGD(rate, 0.9)
        if precision == "float16":
            # The first scales are too large: no device may take such an update.
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=2.0**20)
        distiller.compile(optimizer=optimizer)
    batches = (
        tf.data.Dataset.from_tensor_slices(examples(int(images), image_size, order))
        .batch(BATCH)
        .map(student.prepare_batch)
    )
    record = Record()
    distiller.fit(batches, verbose=0, callbacks=[record])
    result = {"losses": np.array(record.losses), **record.gradients}
    variables = [*student.variables, *(imitation.variables if imitation is not None else ())]
    return {**result, **{f"variable/{i}/{v.name}": v.numpy() for i, v in enumerate(variables)}}
