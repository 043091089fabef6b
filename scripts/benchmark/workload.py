"""What the cases share: networks with seeded weights, a batch of made-up street images, our training step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmark.options import LEARNING_RATE, MOMENTUM
from fgfi_tf.geometry.anchors import SHUFFLEDET_INPUT, SHUFFLEDET_SHAPES
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.shuffledet import ShuffleDet
from fgfi_tf.training.optimizers import MomentumSGD

TEACHER = "shuffledet_1x"
# KITTI has 34,856 cars, pedestrians and cyclists in 7,481 frames.
OBJECTS_PER_IMAGE = 5


def make_batch(
    batch_size: int, size: tuple[int, int], objects: int = OBJECTS_PER_IMAGE, seed: int = 0
) -> dict[str, np.ndarray]:
    """A training batch of noise images whose boxes have the sizes of KITTI's objects.

    The widths and heights are those of ShuffleDet's anchors, which were clustered on KITTI, times
    a log-normal factor; the size of the mask follows from them.

    Returns:
        What a detector's ``prepare_batch`` takes of ``fgfi_tf.data.sample``'s batch.
    """
    random = np.random.default_rng(seed)
    height, width = size
    count = (batch_size, objects)
    scale = np.array([width, height]) / np.array(SHUFFLEDET_INPUT[::-1])
    shapes = np.array(SHUFFLEDET_SHAPES)[random.integers(0, len(SHUFFLEDET_SHAPES), count)] * scale
    shapes = np.clip(shapes * random.lognormal(0.0, 0.2, (*count, 2)), 8.0, [width / 2, height / 2])
    first = random.uniform(0.0, 1.0, (*count, 2)) * ([width, height] - shapes)
    return {
        "image": random.uniform(0.0, 255.0, (batch_size, height, width, 3)).astype(np.float32),
        "boxes": np.concatenate([first, first + shapes - 1.0], axis=-1).astype(np.float32),
        "classes": random.integers(0, 3, count).astype(np.int32),
        "valid": np.ones(count, bool),
        "scale": np.ones((batch_size, 2), np.float32),
        "image_size": np.tile(np.array(size, np.int32), (batch_size, 1)),
    }


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """What is built inside computes in ``float32``, ``bfloat16`` or ``float16``, as by the trainer's flag."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32" if name == "float32" else f"mixed_{name}")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Inside, GPUs multiply in float32, so that frameworks can be compared; PyTorch's process does so too.

    Else both round to TensorFloat-32: TensorFlow by default, PyTorch by ``benchmark.torch_device``.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)


def seeded_detector(variant: str, size: tuple[int, int], seed: int = 0) -> ShuffleDet:
    """A detector without dropout whose moving statistics are not the initial ones either."""
    keras.utils.set_random_seed(seed)
    detector = ShuffleDet(variant, input_size=size, dropout=0.0)
    randomise(detector, seed)
    return detector


def randomise(detector: Detector, seed: int) -> None:
    """Batch norms that are not the initial ones."""
    random = np.random.default_rng(seed)
    for weight in detector.weights:
        if "gamma" in weight.name or "moving_variance" in weight.name:
            weight.assign(random.uniform(0.8, 1.2, weight.shape))
        elif "beta" in weight.name or "moving_mean" in weight.name:
            weight.assign(random.normal(0.0, 0.1, weight.shape))


def seeded_pair(student: str, size: tuple[int, int]) -> tuple[ShuffleDet, ShuffleDet]:
    """A student and the teacher ``TEACHER``, as :func:`seeded_detector` makes them."""
    return seeded_detector(student, size, seed=0), seeded_detector(TEACHER, size, seed=1)


def make_imitation(student: Detector, teacher: Detector, compute: str = "auto") -> ImitationLoss:
    """The imitation layer between two detectors; its initial kernel is larger than in training,
    so that the loss has a gradient worth comparing."""
    layer = ImitationLoss(
        teacher.feature_channels,
        compute=compute,
        activation="relu",  # as published, and as PyTorch's side has it
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02, seed=0),
    )
    layer.build([(None, None, None, channels) for channels in student.feature_channels])
    return layer


def make_distiller(
    student: Detector, teacher: Detector | None, distiller_class: type[Distiller] = Distiller
) -> Distiller:
    """A compiled distiller as the trainer builds it: the teacher in folded form."""
    if teacher is None:
        distiller = distiller_class(student)
    else:
        distiller = distiller_class(student, teacher.inference_copy(), make_imitation(student, teacher))
    distiller.compile(MomentumSGD(LEARNING_RATE, MOMENTUM))
    return distiller


def prepared(detector: Detector, batch: dict[str, np.ndarray]) -> dict:
    """The batch with targets, as the input pipeline gives it, in numpy."""
    prepare = tf.function(lambda batch: detector.prepare_batch(detector.prepare_images(batch)))
    return tf.nest.map_structure(lambda value: value.numpy(), prepare(batch))


def training_step(distiller: Distiller, batch: dict, xla: bool = False) -> Callable[[], float]:
    """One update of the compiled training step on a batch that is in memory."""
    constant = tf.nest.map_structure(tf.constant, batch)
    step = tf.function(distiller.train_step, jit_compile=xla or None)
    return lambda: float(step(constant)["loss"])
