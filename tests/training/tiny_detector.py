"""A detector of two layers that obeys the whole contract: the trainer is tested with it in seconds."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from fgfi_tf.geometry import nms
from fgfi_tf.models import registry
from fgfi_tf.models.declaration import Declaration
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.dropout import stateless_dropout
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.options import Option, fraction
from fgfi_tf.replica import global_counts

STRIDE = 16
CLASSES = ("Car", "Pedestrian", "Cyclist")


class TinyDetector(Detector):
    """One strided convolution, batch norm, one head: a class and a box for each cell of 16 pixels."""

    loss_names = ("class_loss", "box_loss", "confidence_loss", "weight_decay")
    declaration = Declaration(
        options=(Option("dropout", 0.0, "Share dropped of the feature.", check=fraction),)
    )

    def __init__(self, channels=8, *, input_size, class_names, weight_decay=0.001, dropout=0.0, name="tiny"):
        super().__init__(name=name)
        self.input_size, self.class_names = tuple(input_size), tuple(class_names)
        self.weight_decay, self.dropout = weight_decay, dropout
        self.feature_channels = (channels,)
        self.stem = keras.layers.Conv2D(channels, STRIDE, strides=STRIDE, use_bias=False, name="stem")
        self.norm = BatchNorm(name="bn")
        self.head = keras.layers.Conv2D(len(class_names) + 1 + 4, 1, name="head")
        self(tf.zeros([1, *input_size, 3]))

    def preprocess(self, images):
        return tf.cast(images, tf.float32) / 127.5 - 1.0

    def call(self, inputs, training=False, seed=None):
        feature = tf.nn.relu(self.norm(self.stem(inputs), training=training))
        top = stateless_dropout(feature, self.dropout, seed) if training and self.dropout else feature
        return {"features": (feature,), "predictions": tf.cast(self.head(top), tf.float32)}

    def _cells(self, batch):
        """Of each object [B, M]: its cell, and its box relative to the cell [B, M, 4]."""
        width = self.input_size[1] // STRIDE
        centres = (batch["boxes"][..., :2] + batch["boxes"][..., 2:] + 1.0) / 2.0
        cell = tf.clip_by_value(
            tf.cast(centres // STRIDE, tf.int32), 0, [width - 1, self.input_size[0] // STRIDE - 1]
        )
        middle = (tf.cast(cell, tf.float32) + 0.5) * STRIDE
        size = batch["boxes"][..., 2:] - batch["boxes"][..., :2] + 1.0
        return cell[..., 1] * width + cell[..., 0], tf.concat([(centres - middle) / STRIDE, size / 32.0], -1)

    def detection_losses(self, outputs, batch):
        cell, target = self._cells(batch)
        flat = tf.reshape(outputs["predictions"], [tf.shape(cell)[0], -1, len(self.class_names) + 5])
        valid = tf.cast(batch["valid"], tf.float32)  # B x M
        objects, images = global_counts(batch)
        objects = tf.maximum(objects, 1.0)
        at = tf.gather(flat, cell, batch_dims=1)  # B x M x (C + 5)
        classes, box = at[..., : len(self.class_names)], at[..., -4:]
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["classes"], classes)
        confidence = tf.square(tf.sigmoid(flat[..., len(self.class_names)]))  # B x cells
        found = tf.math.softplus(-at[..., len(self.class_names)])
        return {
            "class_loss": tf.reduce_sum(valid * entropy) / objects,
            "box_loss": tf.reduce_sum(valid[..., None] * tf.square(box - target)) / objects,
            "confidence_loss": tf.reduce_sum(confidence) / images / 10.0
            + tf.reduce_sum(valid * found) / objects,
        }

    def regularization_losses(self):
        return (
            {"weight_decay": self.weight_decay * tf.nn.l2_loss(self.head.kernel)} if self.weight_decay else {}
        )

    def imitation_anchors(self, height, width):
        y, x = tf.meshgrid(tf.range(height // STRIDE), tf.range(width // STRIDE), indexing="ij")
        corner = tf.cast(tf.stack([x, y], -1) * STRIDE, tf.float32)
        return (tf.concat([corner - 8.0, corner + 24.0], -1)[:, :, None],)

    def detect(self, outputs, batch):
        flat = outputs["predictions"]
        shape = tf.shape(flat)
        y, x = tf.meshgrid(tf.range(shape[1]), tf.range(shape[2]), indexing="ij")
        middle = (tf.cast(tf.stack([x, y], -1), tf.float32) + 0.5) * STRIDE
        centre, size = middle + flat[..., -4:-2] * STRIDE, tf.maximum(flat[..., -2:] * 32.0, 1.0)
        boxes = tf.reshape(tf.concat([centre - size / 2, centre + size / 2], -1), [shape[0], -1, 4])
        scale = tf.tile(tf.reverse(batch["scale"], [-1]), [1, 2])[:, None]
        count = len(self.class_names)
        probability = tf.nn.softmax(flat[..., :count]) * tf.sigmoid(flat[..., count : count + 1])
        scores, classes = tf.reduce_max(probability, -1), tf.argmax(probability, -1, output_type=tf.int32)
        return nms.class_nms(
            boxes / scale,
            tf.reshape(scores, [shape[0], -1]),
            tf.reshape(classes, [shape[0], -1]),
            count,
            iou_threshold=0.5,
            max_per_class=20,
            max_total=20,
        )


NAMES = ("tiny", "tiny_plain", "tiny_teacher")


def register(kind: type = TinyDetector) -> None:
    """Adds ``tiny`` (with dropout) and ``tiny_teacher`` (wider) to the known detectors."""
    plain = kind.declaration
    dropping = dataclasses.replace(plain, options=(dataclasses.replace(plain.options[0], default=0.3),))
    for name, channels, declared in (
        ("tiny", 8, dropping),
        ("tiny_plain", 8, plain),
        ("tiny_teacher", 12, plain),
    ):
        build = functools.partial(kind, channels)
        registry.register(name, kind, build=build, declaration=declared, replace=True)


def unregister() -> None:
    """Takes them away again."""
    for name in NAMES:
        registry.unregister(name)


def write_kitti(root: Path, frames: int = 12, empty: tuple[int, ...] = (3, 7)) -> Path:
    """Bright rectangles on dark noise in the raw KITTI layout, 64 x 96 pixels; ``empty`` frames hold none."""
    generator = np.random.default_rng(0)
    for name in ("training/image_2", "training/label_2", "ImageSets"):
        (root / name).mkdir(parents=True)
    for i in range(frames):
        image = generator.integers(0, 80, (64, 96, 3)).astype(np.uint8)
        lines = []
        for _ in range(0 if i in empty else generator.integers(1, 4)):
            kind, width, height = generator.integers(0, 3), *generator.integers(26, 40, 2)
            x, y = generator.integers(0, 96 - width), generator.integers(0, 64 - height)
            image[y : y + height, x : x + width] = np.eye(3)[kind] * 200 + 50
            box = f"{x}.00 {y}.00 {x + width - 1}.00 {y + height - 1}.00"
            lines.append(f"{CLASSES[kind]} 0.00 0 0.00 {box} 1.50 1.50 1.50 0.00 0.00 10.00 0.00\n")
        Image.fromarray(image).save(root / f"training/image_2/{i:06d}.png")
        (root / f"training/label_2/{i:06d}.txt").write_text("".join(lines))
    ids = [f"{i:06d}\n" for i in range(frames)]
    (root / "ImageSets/train.txt").write_text("".join(ids[: frames * 3 // 4]))
    (root / "ImageSets/val.txt").write_text("".join(ids[frames * 3 // 4 :]))
    return root


if __name__ == "__main__":
    # scripts/train.py with the tiny detectors, for tests that kill the process.
    import runpy
    import sys

    register()
    script = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name="__main__")
