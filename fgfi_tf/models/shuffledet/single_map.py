"""What detectors with ShuffleDet's head share: one map at stride 16, one convolution that predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.data import policies
from fgfi_tf.errors import UserError
from fgfi_tf.geometry import anchors as anchor_grids
from fgfi_tf.geometry import coding as box_coding
from fgfi_tf.geometry import nms
from fgfi_tf.geometry import shapes as anchor_shapes
from fgfi_tf.geometry.boxes import clip, corners_from_centres
from fgfi_tf.geometry.suppression import RawHead, Suppression
from fgfi_tf.models import builtin, fitted_anchors
from fgfi_tf.models.detector import Batch, Detector, Outputs
from fgfi_tf.models.dropout import stateless_dropout
from fgfi_tf.models.pixels import Pixels
from fgfi_tf.models.shuffledet import coding, losses
from fgfi_tf.replica import global_counts

STRIDE = 16
# Detection: the best boxes by score, suppressed within their class.
TOP_DETECTIONS = 64
NMS_IOU = 0.4
MAX_PER_CLASS = 50


class SingleMapDetector(Detector):
    """A one-stage detector with ShuffleDet's anchors, targets, losses and detections.

    A subclass gives the backbone; ``variant`` is the first argument of its constructor.

    Args:
        variant: which network of a family it is.
        backbone: a layer, preprocessed images [B, H, W, 3] to the map [B, H / 16, W / 16, C] that is
            imitated and that the head predicts from; with ``fold_from(other)`` where ``folded``.
        pixels: what the backbone is given.
        input_size: (height, width) of the network input, multiples of 16. The anchors scale
            with it.
        class_names: what it detects.
        weight_decay: of the predicting kernel.
        dropout: share of the feature dropped in front of it while training.
        anchors: ``"published"``, or shapes as ``geometry.shapes.parse`` reads them, widths and heights as
            shares of the input's.
        folded: inference form, not trainable; see :meth:`inference_copy`.
        name: as in Keras; of the variant where it is not given.
        probe_size: (height, width) of an input that the backbone takes, to create the variables with.

    Raises:
        UserError: for an impossible size or dropout, or anchors that only training decides (``"auto"``).
    """

    feature_strides = (STRIDE,)
    loss_names = ("class_loss", "confidence_loss", "box_loss", "weight_decay")

    def __init__(
        self,
        variant: str,
        backbone: keras.layers.Layer,
        pixels: Pixels,
        *,
        input_size: tuple[int, int] = anchor_grids.SHUFFLEDET_INPUT,
        class_names: Sequence[str] = builtin.KITTI_CLASSES,
        weight_decay: float = 0.0005,
        dropout: float = 0.0,
        anchors: str = builtin.PUBLISHED,
        folded: bool = False,
        name: str | None = None,
        probe_size: tuple[int, int] = (STRIDE, STRIDE),
    ):
        self.check_input_size(input_size)
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must be in [0, 1), not {dropout}")
        if anchors == builtin.AUTO:
            raise UserError("--anchors=auto: only a training can find them; give shapes here")
        super().__init__(name=name or variant.replace(".", "_"))
        self.variant = variant
        self.input_size, self.class_names = tuple(input_size), tuple(class_names)
        if len(self.class_names) == 1:  # nothing to tell apart
            self.loss_names = tuple(name for name in self.loss_names if name != "class_loss")
        self.weight_decay, self.dropout, self.folded = weight_decay, dropout, folded
        self.anchor_option = anchors
        self.anchors = self.anchor_grid(*self.input_size)  # h x w x K x 4, centres
        self.pixels, self.backbone = pixels, backbone
        self.head = keras.layers.Conv2D(
            self.anchors.shape[2] * (len(self.class_names) + 1 + 4),
            3,
            padding="same",
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=1e-4),
            name="conv12",
        )
        self(tf.zeros([1, *probe_size, 3]))  # creates the variables; sizes do not matter
        if folded:
            self.trainable = False
        self.feature_channels = (self.head.kernel.shape[2],)

    @classmethod
    def fitted_options(
        cls, options: Mapping[str, object], shapes: np.ndarray, input_size: tuple[int, int], seed: int
    ) -> tuple[dict[str, object], str]:
        """Of ``anchors="auto"`` as many shapes as are published; see ``geometry.shapes.cluster``."""
        if options["anchors"] != builtin.AUTO:
            return dict(options), ""
        published = anchor_grids.shuffledet_anchors(*input_size)[0, 0, :, 2:]
        found, line = fitted_anchors.fit(shapes, published, input_size, seed)
        return {**options, "anchors": anchor_shapes.to_text(found / input_size[::-1])}, line

    def anchor_misfit(self, shapes: np.ndarray, pictures: np.ndarray) -> str:
        """Where a quarter of the objects or more are unlike every anchor, whatever their place."""
        published = self.anchor_option == builtin.PUBLISHED
        return fitted_anchors.misfit(shapes, self.anchors[0, 0, :, 2:], published)

    def anchor_grid(self, height: int, width: int) -> np.ndarray:
        """Anchors of a network input, (cx, cy, w, h): float32 [h, w, K, 4]; see ``shuffledet_anchors``."""
        shapes = None
        if self.anchor_option != builtin.PUBLISHED:
            shapes = anchor_shapes.parse(self.anchor_option)
        return anchor_grids.shuffledet_anchors(height, width, STRIDE, shapes)

    @classmethod
    def check_input_size(cls, size: tuple[int, int]) -> None:
        """Height and width are those that images are resized to, multiples of the stride."""
        height, width = size
        if height % STRIDE or width % STRIDE or min(height, width) < STRIDE:
            raise UserError(f"{height}x{width}: height and width must be divisible by {STRIDE}")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Outputs:
        """[B, H, W, 3] to ``predictions`` [B, H/16, W/16, K * (classes + 5)] and ``features``."""
        inputs = tf.cast(inputs, self.compute_dtype)
        feature = self.backbone(inputs, training=training)
        head_input = feature
        if training and seed is not None and self.dropout > 0.0:
            head_input = stateless_dropout(feature, self.dropout, seed)
        return {"features": (feature,), "predictions": tf.cast(self.head(head_input), tf.float32)}

    def imitation_features(self, inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The backbone's map, in inference mode; the head is not run."""
        return (self.backbone(tf.cast(inputs, self.compute_dtype), training=False),)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Adds ``targets``: boxes as (cx, cy, w, h), the anchor of each, and its deltas."""
        anchors = tf.reshape(tf.constant(self.anchors), [-1, 4])
        boxes, valid = coding.centres_from_inclusive(batch["boxes"]), batch["valid"]
        targets = make_targets(boxes, batch["classes"], valid, anchors)
        return {**batch, "targets": targets}

    def detection_losses(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """``class_loss``, ``confidence_loss`` and ``box_loss``; see ``losses.detection_losses``.

        Of one class there is no ``class_loss``, which would be 0.
        """
        if "targets" not in batch:
            batch = self.prepare_batch(batch)
        objects, images = global_counts({**batch, "valid": batch["targets"]["valid"]})
        found = losses.detection_losses(
            self.split(outputs),
            batch["targets"],
            tf.reshape(tf.constant(self.anchors), [-1, 4]),
            self.input_size,
            global_objects=objects,
            global_images=images,
        )
        return {name: value for name, value in found.items() if name in self.loss_names}

    def split(self, outputs: Outputs) -> dict[str, tf.Tensor]:
        """``losses.split_predictions`` of the outputs."""
        return losses.split_predictions(outputs["predictions"], self.anchors.shape[2], self.num_classes)

    def log_probabilities(self, outputs: Outputs) -> tf.Tensor:
        """At each anchor of a class: its probability times the confidence; of no object: the rest."""
        split = self.split(outputs)
        confidence = split["confidence_logits"][..., None]  # B x A x 1
        classes = tf.nn.log_softmax(split["class_logits"]) + tf.math.log_sigmoid(confidence)
        return tf.concat([classes, tf.math.log_sigmoid(-confidence)], axis=-1)

    def regularization_losses(self) -> dict[str, tf.Tensor]:
        """Half the squared norm of the predicting kernel, times ``weight_decay``."""
        if not self.weight_decay:
            return {}
        return {"weight_decay": self.weight_decay * tf.nn.l2_loss(tf.cast(self.head.kernel, tf.float32))}

    def imitation_options(self) -> dict[str, object]:
        """The adaptation's kernel decays like the predicting one."""
        return {"weight_decay": self.weight_decay}

    def decode(self, outputs: Outputs, best: int | None = None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Boxes [B, A, 4] (cx, cy, w, h; input pixels), scores and classes [B, A] of all anchors.

        The score is the best class's probability times the confidence. With ``best``, only of so many anchors
        (at most) of the highest scores, descending.
        """
        split = self.split(outputs)
        deltas, anchors = split["deltas"], tf.reshape(tf.constant(self.anchors), [-1, 4])
        probability = _probability(split)
        scores = tf.reduce_max(probability, axis=-1)
        classes = tf.argmax(probability, axis=-1, output_type=tf.int32)
        if best is not None:
            scores, top = tf.math.top_k(scores, min(best, scores.shape[1] or best))  # B x best
            deltas, classes = (tf.gather(of_all, top, batch_dims=1) for of_all in (deltas, classes))
            anchors = tf.gather(anchors, top)
        return coding.decode(deltas, anchors, *self.input_size), scores, classes

    def detect(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """The 64 best boxes by score, suppressed within their class at IoU 0.4; K = 64.

        Where a picture ends before the network input, boxes centred beyond it take no part.
        """
        boxes, scores, classes = self.decode(outputs, None if self._pads else TOP_DETECTIONS)
        if self._pads:
            sizes = tf.cast(batch["image_size"], tf.float32)[:, None]  # B x 1 x (h, w)
            inside = boxes[..., :2] <= tf.reverse(sizes * batch["scale"][:, None], [-1])  # B x A x (x, y)
            scores = tf.where(tf.reduce_all(inside, axis=-1), scores, 0.0)
            scores, top = tf.math.top_k(scores, min(TOP_DETECTIONS, scores.shape[1]))
            boxes, classes = (tf.gather(of_all, top, batch_dims=1) for of_all in (boxes, classes))
        scale = tf.tile(tf.reverse(batch["scale"], [-1]), [1, 2])[:, None]  # B x 1 x (x, y, x, y)
        limits = {"iou_threshold": NMS_IOU, "max_per_class": MAX_PER_CLASS, "max_total": TOP_DETECTIONS}
        found = nms.class_nms(
            corners_from_centres(boxes / scale), scores, classes, self.num_classes, **limits
        )
        return {**found, "boxes": clip(found["boxes"], sizes)} if self._pads else found

    @property
    def _pads(self) -> bool:
        """Whether pictures may be smaller than the network input."""
        return policies.resize(self.resize).keep_aspect_ratio

    def raw_head(self, outputs: Outputs) -> RawHead:
        """Every anchor's box and scores. The head is computed in three parts, each with its own range."""
        feature, kernel, bias = outputs["features"][0], self.head.kernel, self.head.bias
        shapes, classes = self.anchors.shape[2], self.num_classes
        ends = np.cumsum([shapes * classes, shapes, shapes * 4])
        parts = [
            tf.nn.bias_add(tf.nn.conv2d(feature, kernel[..., start:end], 1, "SAME"), bias[start:end])
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        split = losses.split_parts(parts, shapes, classes)
        anchors = tf.reshape(tf.constant(self.anchors), [-1, 4])
        boxes = corners_from_centres(coding.decode(split["deltas"], anchors, *self.input_size))
        padded = {"centre_inside": True, "corners": "edges"} if self._pads else {}
        rule = Suppression(
            NMS_IOU, MAX_PER_CLASS, TOP_DETECTIONS, best_boxes=TOP_DETECTIONS, best_class=True, **padded
        )
        return RawHead(boxes, _probability(split), rule)

    def imitation_anchors(self, height: int, width: int) -> tuple[tf.Tensor, ...]:
        """The anchor grid of the one map, as continuous corners."""
        return (corners_from_centres(tf.constant(self.anchor_grid(height, width))),)

    def inference_copy(self) -> SingleMapDetector:
        """The same function in inference form: the batch norm multiplied into the kernels.

        What the frozen teacher and an exported model run: fewer operations, same outputs. It is
        a copy; later training of this model does not reach it.
        """
        copy = type(self)(
            self.variant,
            input_size=self.input_size,
            class_names=self.class_names,
            anchors=self.anchor_option,
            folded=True,
            name=self.name,
        )
        copy.resize = self.resize
        copy.backbone.fold_from(self.backbone)
        copy.head.set_weights(self.head.get_weights())
        copy.metadata = self.metadata
        return copy


def _probability(split: dict[str, tf.Tensor]) -> tf.Tensor:
    """[B, A, C]: each class's probability times the confidence; ``split`` as of ``split_predictions``."""
    return tf.nn.softmax(split["class_logits"]) * tf.sigmoid(split["confidence_logits"])[..., None]


def make_targets(
    boxes: tf.Tensor, classes: tf.Tensor, valid: tf.Tensor, anchors: tf.Tensor
) -> dict[str, tf.Tensor]:
    """What the losses compare with.

    Args:
        boxes: float32 [B, M, 4] (cx, cy, w, h), pixels of the network input.
        classes: int32 [B, M]; valid: bool [B, M]; anchors: float32 [A, 4].

    Returns:
        ``boxes``, ``classes``, ``valid``, ``anchor_index`` int32 [B, M] and ``deltas``
        float32 [B, M, 4], 0 for padding. Objects beyond the number of anchors are none: each takes one.
    """
    valid = coding.with_anchor(valid, tf.shape(anchors)[0])
    index = coding.assign_anchors(boxes, valid, anchors)
    assigned = tf.gather(anchors, index)  # B x M x 4
    # Padding has no logarithm; encoding the anchor itself keeps it finite, and zero.
    deltas = box_coding.encode(tf.where(valid[..., None], boxes, assigned), assigned)
    return {"boxes": boxes, "classes": classes, "valid": valid, "anchor_index": index, "deltas": deltas}
