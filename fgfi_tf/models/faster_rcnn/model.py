"""Faster R-CNN as a detector: VGG base, region proposals, RoIAlign, box head."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf import streams
from fgfi_tf.models.detector import Batch, Detector, Outputs
from fgfi_tf.models.faster_rcnn import anchors as anchor_lib
from fgfi_tf.models.faster_rcnn import box_coding, losses, proposal_targets, proposals, roi_align, rpn_targets
from fgfi_tf.models.faster_rcnn.backbone import STRIDE, VGGBase, scaled
from fgfi_tf.models.faster_rcnn.config import VOC_CLASSES, FasterRCNNConfig, check_input_size
from fgfi_tf.models.faster_rcnn.head import BoxHead
from fgfi_tf.models.faster_rcnn.initializers import FoldedNormal
from fgfi_tf.models.faster_rcnn.rpn import RPNHead

BGR_MEANS = (102.9801, 115.9465, 122.7717)
POOLED_SIZE = 7
INCLUSIVE_TO_EDGES = (0.0, 0.0, 1.0, 1.0)
# What a step's seed is folded with for each of its draws.
ANCHOR_DRAW, ROI_DRAW, REPEATED_ROI_DRAW, DROPOUT_DRAW = range(4)


class FasterRCNN(Detector):
    """Two-stage detector (Ren et al. 2015) for images of any size, padded to one size in a batch.

    Boxes are inclusive corners. Classes are those of the dataset, 0-based; class 0 of the network's own
    scores is background. Where a batch has no ``content_size`` the whole input is picture.

    Args:
        config: see :class:`FasterRCNNConfig`.
        name: as in Keras.
    """

    resize, augmentation = "shorter_side", "voc"
    takes_any_size = True
    padding_color = BGR_MEANS[::-1]
    loss_names = ("rpn_class", "rpn_box", "rcnn_class", "rcnn_box")
    user_options = ("width", "roi_pooling", "dropout")
    default_input_size = (600, 0)
    default_class_names = VOC_CLASSES
    default_dataset = "voc"

    def __init__(self, config: FasterRCNNConfig | None = None, name: str | None = None):
        config = config or FasterRCNNConfig()
        super().__init__(name=name or f"faster_rcnn_{config.backbone}")
        self.config = config
        self.class_names = config.class_names
        self.base = VGGBase(config.backbone, config.width)
        self.rpn = RPNHead(self.base.channels)
        self.head = BoxHead(scaled(4096, config.width), len(config.class_names), config.dropout)
        self.feature_channels = (self.base.channels,)
        self(tf.zeros([1, 2 * STRIDE, 2 * STRIDE, 3]))
        self.head(tf.zeros([1, 1, POOLED_SIZE, POOLED_SIZE, self.base.channels]))

    @classmethod
    def check_input_size(cls, size: tuple[int, int]) -> None:
        """See ``input_size``."""
        check_input_size(size)

    @property
    def input_size(self) -> tuple[int, int]:
        """(short side, largest long side or 0) of a resized image, see ``ShorterSide``."""
        return self.config.short_side, self.config.long_side_cap

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB [B,H,W,3], 0..255, to BGR minus the ImageNet means."""
        return tf.cast(images, tf.float32)[..., ::-1] - tf.constant(BGR_MEANS)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Outputs:
        """[B,H,W,3] to ``features`` and the dense RPN outputs.

        Returns:
            ``features``: one map [B,h,w,C]; ``rpn_scores`` float32 [B,h,w,18] and ``rpn_deltas`` float32
            [B,h,w,36]; ``input_size`` int32 [2]; ``dropout_seed`` while training with a seed.
        """
        features = self.base(inputs)
        scores, deltas = self.rpn(features)
        outputs = {
            "features": (features,),
            "rpn_scores": tf.cast(scores, tf.float32),
            "rpn_deltas": tf.cast(deltas, tf.float32),
            "input_size": tf.shape(inputs)[1:3],
        }
        if training and seed is not None:
            outputs["dropout_seed"] = streams.fold(seed, DROPOUT_DRAW)
        return outputs

    def imitation_features(self, inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The base alone."""
        return (self.base(inputs),)

    def detection_losses(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """``rpn_class``, ``rpn_box``, ``rcnn_class`` and ``rcnn_box``; see ``losses``."""
        config = self.config
        content = _content_size(outputs, batch)
        anchors = self._flat_anchors(outputs)  # A x 4
        drawn = self.random_numbers(
            batch.get("seed", tf.constant([0, 0])),
            tf.shape(anchors)[0],
            config.train_post_nms + tf.shape(batch["boxes"])[1],
        )
        assigned = rpn_targets.assign(anchors, batch["boxes"], batch["valid"], content)
        labels = rpn_targets.subsample(assigned.labels, drawn["anchors"], config.rpn_batch)
        regions = self.propose(outputs, content, config.train_pre_nms, config.train_post_nms)
        candidates = proposal_targets.match(regions.boxes, batch["boxes"], batch["valid"])
        rois = proposal_targets.sample(
            candidates,
            batch["boxes"],
            batch["classes"] + 1,
            priorities=drawn["rois"],
            draws=drawn["draws"],
            foreground_fraction=config.roi_foreground,
        )
        scores, deltas = self.classify(outputs, rois.boxes, content, outputs.get("dropout_seed"))
        return {
            "rpn_class": losses.rpn_class_loss(outputs["rpn_scores"], labels),
            "rpn_box": losses.rpn_box_loss(outputs["rpn_deltas"], assigned.deltas, labels),
            "rcnn_class": losses.rcnn_class_loss(scores, rois.labels),
            "rcnn_box": losses.rcnn_box_loss(deltas, rois.deltas, rois.labels),
        }

    def random_numbers(
        self, seed: tf.Tensor, anchors: int | tf.Tensor, rois: int | tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """What the samples of a step with ``seed`` (integers [2]) are drawn by, uniform in [0, 1), float32.

        Returns:
            ``anchors`` [anchors] and ``rois`` [rois], the priorities of anchors and of candidates (proposals,
            then ground truths); ``draws`` [roi_batch], for what is drawn with replacement.
        """
        return {
            "anchors": streams.uniform([anchors], streams.fold(seed, ANCHOR_DRAW)),
            "rois": streams.uniform([rois], streams.fold(seed, ROI_DRAW)),
            "draws": streams.uniform([self.config.roi_batch], streams.fold(seed, REPEATED_ROI_DRAW)),
        }

    def propose(
        self, outputs: Outputs, content: tf.Tensor, pre_nms: int, post_nms: int
    ) -> proposals.Proposals:
        """Proposals of the RPN outputs inside pictures of ``content`` [B,2] (h, w), without gradient."""
        scores = proposals.foreground_probability(tf.stop_gradient(outputs["rpn_scores"]))
        boxes = proposals.decode_proposals(
            self._flat_anchors(outputs), tf.stop_gradient(outputs["rpn_deltas"]), content
        )
        height, width, count = tf.unstack(tf.shape(outputs["rpn_scores"])[1:])
        in_picture = tf.repeat(_within(content, height, width, STRIDE), count // 2, axis=-1)  # B x h x (w K)
        scores = tf.where(tf.reshape(in_picture, tf.shape(scores)), scores, -float("inf"))
        return proposals.propose(scores, boxes, pre_nms, post_nms, self.config.rpn_nms_iou, self.config.nms)

    def classify(
        self, outputs: Outputs, rois: tf.Tensor, content: tf.Tensor, dropout_seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Class scores [B,R,1 + classes] and normalised deltas [B,R,4 (1 + classes)], float32, of RoIs."""
        pooled = roi_align.roi_align(
            outputs["features"][0],
            rois,
            self.config.roi_pooling,
            POOLED_SIZE,
            STRIDE,
            self.config.sampling_ratio,
            content_size=tf.cast(content, tf.int32) // STRIDE,
        )  # B x R x 7 x 7 x C
        scores, deltas = self.head(pooled, dropout_seed=dropout_seed)
        return tf.cast(scores, tf.float32), tf.cast(deltas, tf.float32)

    def detect(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """Class-wise NMS (in image-file pixels) of the classified proposals; K = ``max_detections``."""
        config = self.config
        content = _content_size(outputs, batch)
        regions = self.propose(outputs, content, config.test_pre_nms, config.test_post_nms)
        scores, deltas = self.classify(outputs, regions.boxes, content)
        scores = tf.nn.softmax(scores)[..., 1:]  # B x R x classes
        exists = tf.sequence_mask(regions.count, config.test_post_nms)
        scores = tf.where(exists[..., None], scores, -1.0)
        shape = tf.shape(scores)
        deltas = tf.reshape(deltas, [shape[0], shape[1], -1, 4])[:, :, 1:]  # B x R x classes x 4
        deltas *= tf.constant(proposal_targets.DELTA_STDS)
        boxes = box_coding.decode(regions.boxes[:, :, None], deltas)
        boxes = box_coding.clip(boxes, content[:, None, None])
        scale = tf.tile(tf.reverse(batch["scale"], [-1]), [1, 2])[:, None, None]  # B x 1 x 1 x (x, y, x, y)
        found = tf.image.combined_non_max_suppression(
            boxes / scale + tf.constant(INCLUSIVE_TO_EDGES),  # IoU is the same with x and y exchanged
            scores,
            max_output_size_per_class=config.test_post_nms,
            max_total_size=config.max_detections,
            iou_threshold=config.detection_nms_iou,
            score_threshold=config.score_threshold,
            clip_boxes=False,
        )
        kept = tf.sequence_mask(found.valid_detections, config.max_detections)
        return {
            "boxes": tf.where(kept[..., None], found.nmsed_boxes - tf.constant(INCLUSIVE_TO_EDGES), 0.0),
            "scores": found.nmsed_scores,
            "classes": tf.cast(found.nmsed_classes, tf.int32),
            "count": found.valid_detections,
        }

    def imitation_boxes(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """As in ``Detector``; a box of exactly one pixel has no overlap in the published code, so no mask."""
        boxes, valid = super().imitation_boxes(batch)
        return boxes, tf.logical_and(valid, tf.logical_not(box_coding.is_one_pixel(batch["boxes"])))

    def imitation_anchors(self, height: int | tf.Tensor, width: int | tf.Tensor) -> tuple[tf.Tensor, ...]:
        """All anchors of the one map [h,w,9,4], those across the border included."""
        grid = anchor_lib.anchor_grid(height // STRIDE, width // STRIDE)
        return (grid + tf.constant(INCLUSIVE_TO_EDGES),)

    def imitation_area(self, batch: Batch, height: int, width: int) -> tuple[tf.Tensor, ...]:
        """For each feature map, which of its cells hold picture and not padding: bool [B,h,w]."""
        return (_within(batch["content_size"], height // STRIDE, width // STRIDE, STRIDE),)

    def imitation_options(self) -> dict[str, keras.initializers.Initializer]:
        """How the published student starts the adaptation convolution; it decays as ``decay_rate`` says.

        The bias keeps PyTorch's default, uniform within 1 / sqrt(fan in of the full-width network).
        """
        bound = (9 * self.base.channels) ** -0.5
        return {
            "kernel_initializer": FoldedNormal(1e-4),
            "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
        }

    def learning_rate_multiplier(self, variable: tf.Variable) -> float:
        """2 for biases, 1 for weights: the factor on the learning rate in the published recipe."""
        return 2.0 if is_bias(variable) else 1.0

    def decay_rate(self, variable: tf.Variable) -> float:
        """0 for biases, else ``config.weight_decay``."""
        return 0.0 if is_bias(variable) else self.config.weight_decay

    def _flat_anchors(self, outputs: Outputs) -> tf.Tensor:
        height, width = tf.unstack(tf.shape(outputs["rpn_scores"])[1:3])
        return tf.reshape(anchor_lib.anchor_grid(height, width, STRIDE), [-1, 4])


def is_bias(variable: tf.Variable) -> bool:
    """Whether a variable is a bias, by its name (the imitation layer's included)."""
    return variable.name.rsplit("/", 1)[-1].startswith("bias")


def _content_size(outputs: Outputs, batch: Batch) -> tf.Tensor:
    """(h, w) of each picture in the input, float32 [B,2]."""
    if "content_size" in batch:
        return tf.cast(batch["content_size"], tf.float32)
    images = tf.shape(outputs["rpn_scores"])[0]
    return tf.tile(tf.cast(outputs["input_size"], tf.float32)[None], [images, 1])


def _within(content: tf.Tensor, height: tf.Tensor, width: tf.Tensor, stride: int) -> tf.Tensor:
    """Which cells of a ``height`` x ``width`` grid hold picture: bool [B,height,width].

    A picture of h pixels has floor(h / stride) rows of cells, as the pools leave it.
    """
    cells = tf.cast(content, tf.int32) // stride  # B x 2
    rows = tf.range(height)[None] < cells[:, :1]  # B x height
    columns = tf.range(width)[None] < cells[:, 1:]  # B x width
    return tf.logical_and(rows[:, :, None], columns[:, None, :])
