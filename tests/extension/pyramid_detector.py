"""A detector as a stranger writes it: two maps with anchors of their own, one file, public names only.

``--extensions=pyramid_detector.py --model=pyramid`` trains it, as teacher and as student.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry import coding, nms
from fgfi_tf.geometry.anchors import anchor_grid
from fgfi_tf.geometry.iou import pairwise_iou
from fgfi_tf.models.declaration import Declaration
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.models.pixels import SIGNED
from fgfi_tf.models.registry import register
from fgfi_tf.options import Option, positive
from fgfi_tf.replica import global_counts, global_sum

STRIDES = (8, 16)
SIZES = ((12.0, 16.0), (24.0, 32.0))  # sides of the anchors of each map, in pixels of the network input
RATIOS = (0.5, 1.0, 2.0)
POSITIVE_IOU = 0.5


class PyramidDetector(Detector):
    """A stem and two strided stages; a head on each of the maps of stride 8 and 16.

    Args:
        channels: of the map of stride 8; the other has twice as many.
        imitated: ``both`` maps, or the ``coarse`` one alone, as for a teacher that has one map of stride 16.
        input_size: (height, width) of the network input, multiples of 16.
        class_names: what it detects.
        weight_decay: of the heads' kernels.
    """

    loss_names = ("objectness_loss", "class_loss", "box_loss", "weight_decay")
    pixels = SIGNED
    declaration = Declaration(
        options=(
            Option("channels", 8, "Channels of the map of stride 8.", check=positive),
            Option("imitated", "both", "Which maps are imitated.", ("both", "coarse")),
        ),
        input_size=(48, 64),
        augmentation="none",
        dataset="drawings",
        recipe={"learning_rate": 0.01, "optimizer": "adam", "batch_size": 4},
        teacher="pyramid",
    )

    def __init__(self, *, input_size, class_names, weight_decay=0.0, channels=8, imitated="both"):
        super().__init__(name="pyramid")
        self.input_size, self.class_names = tuple(input_size), tuple(class_names)
        self.weight_decay, self.imitated = weight_decay, imitated
        self.stages, self.norms, self.heads = [], [], []
        outputs = len(SIZES[0]) * len(RATIOS) * (1 + len(self.class_names) + 4)
        for stride, width in ((4, channels), (2, channels), (2, 2 * channels)):
            self.stages.append(
                keras.layers.Conv2D(width, stride + 1, strides=stride, padding="same", use_bias=False)
            )
            self.norms.append(BatchNorm())
        self.heads = [keras.layers.Conv2D(outputs, 3, padding="same") for _ in STRIDES]
        first = -1 if imitated == "coarse" else 0
        self.feature_channels, self.feature_strides = (channels, 2 * channels)[first:], STRIDES[first:]
        self(tf.zeros([1, *self.input_size, 3]))  # creates the variables

    @classmethod
    def check_input_size(cls, size):
        """Both maps have whole positions."""
        if size[0] % STRIDES[-1] or size[1] % STRIDES[-1]:
            raise UserError(f"{size[0]}x{size[1]}: the pyramid takes multiples of {STRIDES[-1]}")

    def call(self, inputs, training=False, seed=None):
        """[B, H, W, 3] to ``features`` and ``raw`` [B, A, 1 + classes + 4], the anchors of both maps."""
        x, maps = tf.cast(inputs, self.compute_dtype), []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = tf.nn.relu(norm(stage(x), training=training))
            maps.append(x)
        maps = maps[1:]  # of stride 8 and 16
        last = 1 + len(self.class_names) + 4
        rows = [
            tf.reshape(tf.cast(head(m), tf.float32), [tf.shape(m)[0], -1, last])
            for head, m in zip(self.heads, maps, strict=True)
        ]
        features = maps[1:] if self.imitated == "coarse" else maps
        return {"features": tuple(features), "raw": tf.concat(rows, axis=1)}

    def grids(self, height, width):
        """The anchors of both maps, [h, w, K, 4] each, continuous corners in pixels of the input."""
        return [
            anchor_grid(height // stride, width // stride, stride, sizes, RATIOS)
            for stride, sizes in zip(STRIDES, SIZES, strict=True)
        ]

    def imitation_anchors(self, height, width):
        """Those of the imitated maps."""
        grids = self.grids(height, width)
        return tuple(map(tf.constant, grids[1:] if self.imitated == "coarse" else grids))

    def all_anchors(self):
        """[A, 4], in the order of ``raw``."""
        return tf.concat([tf.reshape(grid, [-1, 4]) for grid in self.grids(*self.input_size)], axis=0)

    def prepare_batch(self, batch):
        """Adds what the losses compare with: of each anchor its object, or none."""
        truth, anchors = forms.continuous(batch["boxes"]), self.all_anchors()
        overlap = pairwise_iou(anchors[None], truth)  # B x A x M
        overlap = tf.where(batch["valid"][:, None], overlap, -1.0)
        best = tf.reduce_max(overlap, axis=1, keepdims=True)  # every object has its best anchor
        taken = (overlap >= POSITIVE_IOU) | ((overlap == best) & (best > 0.0))
        score = tf.where(taken, overlap, -1.0)
        return {
            **batch,
            "object": tf.argmax(score, axis=-1, output_type=tf.int32),  # B x A
            "positive": tf.reduce_any(taken, axis=-1),  # B x A
        }

    def detection_losses(self, outputs, batch):
        """Sums over this replica's share, divided by counts of the global batch."""
        objectness, logits, deltas = tf.split(outputs["raw"], [1, len(self.class_names), 4], axis=-1)
        positive = tf.cast(batch["positive"], tf.float32)  # B x A
        matched = global_sum(tf.reduce_sum(positive)) + 1.0
        _, images = global_counts(batch)
        truth = forms.centres_from_corners(batch["boxes"], inclusive=True)  # B x M x 4
        anchors = forms.centres_from_corners(self.all_anchors())
        truth = tf.gather(truth, batch["object"], batch_dims=1)  # B x A x 4
        target = coding.encode(tf.where(batch["positive"][..., None], truth, anchors), anchors)
        classes = tf.gather(batch["classes"], batch["object"], batch_dims=1)  # B x A
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
        found = tf.nn.sigmoid_cross_entropy_with_logits(positive, objectness[..., 0])
        return {
            "objectness_loss": tf.reduce_sum(tf.reduce_mean(found, axis=-1)) / images,
            "class_loss": tf.reduce_sum(positive * entropy) / matched,
            "box_loss": tf.reduce_sum(positive[..., None] * tf.abs(deltas - target)) / matched,
        }

    def regularization_losses(self):
        """L2 of the heads."""
        norms = [tf.nn.l2_loss(tf.cast(head.kernel, tf.float32)) for head in self.heads]
        return {"weight_decay": self.weight_decay * tf.add_n(norms)}

    def detect(self, outputs, batch):
        """The 30 best boxes after suppression within each class, in pixels of the image file."""
        objectness, logits, deltas = tf.split(outputs["raw"], [1, len(self.class_names), 4], axis=-1)
        anchors = forms.centres_from_corners(self.all_anchors())
        centres = anchors[:, :2] + deltas[..., :2] * anchors[:, 2:]
        boxes = tf.concat([centres, anchors[:, 2:] * coding.capped_exp(deltas[..., 2:])], axis=-1)
        scale = tf.tile(tf.reverse(batch["scale"], [-1]), [1, 2])[:, None]  # B x 1 x (x, y, x, y)
        found = nms.suppress(
            forms.corners_from_centres(boxes / scale)[:, :, None],
            tf.sigmoid(objectness) * tf.nn.softmax(logits),
            iou_threshold=0.45,
            max_per_class=20,
            max_total=30,
        )
        return {
            **found,
            "boxes": forms.clip(found["boxes"], tf.cast(batch["image_size"], tf.float32)[:, None]),
        }


register("pyramid", PyramidDetector)
