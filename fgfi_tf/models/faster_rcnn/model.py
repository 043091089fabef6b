"""Faster R-CNN as a detector: a backbone's feature levels, region proposals, RoIAlign, box head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from fgfi_tf import streams
from fgfi_tf.geometry import boxes as forms
from fgfi_tf.models import builtin
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.detector import Batch, Detector, Outputs
from fgfi_tf.models.faster_rcnn import (
    assembly,
    losses,
    proposal_targets,
    proposals,
    roi_align,
    rpn_targets,
    weights,
)
from fgfi_tf.models.faster_rcnn.config import FasterRCNNConfig, check_input_size
from fgfi_tf.models.faster_rcnn.conventions import CONVENTIONS
from fgfi_tf.models.faster_rcnn.detections import final_detections
from fgfi_tf.models.faster_rcnn.initializers import FoldedNormal
from fgfi_tf.models.faster_rcnn.levels import Level, published
from fgfi_tf.models.faster_rcnn.rpn import RPNHead

# What a step's seed is folded with for each of its draws.
ANCHOR_DRAW, ROI_DRAW, REPEATED_ROI_DRAW, DROPOUT_DRAW = range(4)


class FasterRCNN(Detector):
    """Two-stage detector (Ren et al. 2015) for images of any size, padded to one size in a batch.

    Classes are those of the dataset, 0-based; class 0 of the network's own scores is background. How boxes
    are counted, targets assigned and losses averaged, the config's convention says. Where a batch has no
    ``content_size`` the whole input is picture.

    Every feature level has anchors; the levels share the proposal network and the box head.

    Args:
        config: see :class:`FasterRCNNConfig`.
        name: as in Keras.
        backbone: what gives the feature maps, a level each, of as many channels; None: as in ``config``.
        levels: stride and anchors of each map, as many anchors per cell on each; where None those that the
            config's backbone has, or the published anchors at the given backbone's strides.
        roi_levels: RoIs are pooled from so many of the first levels; from all where None.
        folded: inference form, of what has batch norm; not trainable.

    Raises:
        ValueError: levels that one proposal network cannot serve.
    """

    takes_any_size = True
    loss_names = ("rpn_class", "rpn_box", "rcnn_class", "rcnn_box")
    declaration = builtin.FASTER_RCNN

    def __init__(
        self,
        config: FasterRCNNConfig | None = None,
        name: str | None = None,
        backbone: Backbone | None = None,
        levels: Sequence[Level] | None = None,
        roi_levels: int | None = None,
        folded: bool = False,
    ):
        config = config or FasterRCNNConfig()
        super().__init__(name=name or f"faster_rcnn_{config.backbone}")
        self.config, self.rules = config, CONVENTIONS[config.convention]
        self.class_names = config.class_names
        if backbone is None:
            parts = assembly.parts(config, folded)
        else:
            parts = assembly.of_base(config, backbone, published(backbone.strides))
        self.assembled = backbone is None
        self.base = parts.base
        self.pixels = self.base.pixels
        self.levels = tuple(levels) if levels is not None else parts.levels
        self.roi_levels = roi_levels or min(parts.roi_levels, len(self.levels))
        self.feature_channels = tuple(self.base.channels)
        self.feature_strides = tuple(level.stride for level in self.levels)
        anchors = {len(level.cell) for level in self.levels}
        alike = len(anchors) == len(set(self.feature_channels)) == 1
        if not alike or len(self.levels) != len(self.feature_channels):
            raise ValueError(
                f"levels must have as many channels and anchors each: {self.feature_channels}, {anchors}"
            )
        self.rpn = RPNHead(parts.rpn_channels, anchors.pop(), paired=self.rules.paired_scores)
        self.head = parts.head()
        side, pooled = 2 * self.levels[-1].stride, config.pooled_size
        self(tf.zeros([1, side, side, 3]))
        self.head(tf.zeros([1, 1, pooled, pooled, self.feature_channels[0]]))
        if folded:
            self.trainable = False

    @classmethod
    def check_input_size(cls, size: tuple[int, int]) -> None:
        """Takes (short side, largest long side or 0), as ``input_size`` is."""
        check_input_size(size)

    def anchor_misfit(self, shapes: np.ndarray, pictures: np.ndarray) -> str:
        """Where no anchor lies inside some pictures, and the proposal network learns from no other."""
        if self.rules.whole_input:
            return ""
        inside = np.any([level.has_anchor_inside(pictures) for level in self.levels], axis=0)
        if inside.all():
            return ""
        return (
            f"no anchor lies inside {int((~inside).sum())} of the {len(pictures)} training pictures, of "
            "which the region proposal network learns nothing: --input_size is too small"
        )

    @property
    def input_size(self) -> tuple[int, int]:
        """(short side, largest long side or 0) of a resized image, see ``ShorterSide``."""
        return self.config.short_side, self.config.long_side_cap

    def prepare_images(self, batch: Batch) -> Batch:
        """As in ``Detector``; a batch thinner than a cell, of which no map would be left, is padded."""
        if not self.levels[0].rounds_up:
            image, least = batch["image"], self.levels[0].stride
            missing = tf.maximum(least - tf.shape(image)[1:3], 0)
            padded = tf.pad(image, tf.pad(missing[:, None], [[1, 1], [1, 0]]))  # paddings: 4 x 2
            sides = (side and max(side, least) for side in image.shape[1:3])
            batch = {**batch, "image": tf.ensure_shape(padded, [image.shape[0], *sides, image.shape[3]])}
        return super().prepare_images(batch)

    def load_trained(self, path: Path) -> bool:
        """The reference's ``faster_rcnn_<session>_<epoch>_<step>.pth``; see ``weights``."""
        return weights.load_trained(self, path)

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """That, or an ImageNet VGG: .pth, or .h5 of keras.applications; see ``weights``."""
        return weights.load_pretrained(self, path, pixels)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Outputs:
        """[B,H,W,3] to ``features`` and the dense RPN outputs.

        Returns:
            For each level ``features`` [B,h,w,C], ``rpn_scores`` (see ``RPNHead``) and ``rpn_deltas``
            [B,h,w,4K], the last two float32; ``input_size`` int32 [2]; ``dropout_seed`` while training with a
            seed.
        """
        features = self.base(inputs, training=training)
        scores, deltas = zip(*(self.rpn(level) for level in features), strict=True)
        outputs = {
            "features": features,
            "rpn_scores": tuple(tf.cast(level, tf.float32) for level in scores),
            "rpn_deltas": tuple(tf.cast(level, tf.float32) for level in deltas),
            "input_size": tf.shape(inputs)[1:3],
        }
        if training and seed is not None:
            outputs["dropout_seed"] = streams.fold(seed, DROPOUT_DRAW)
        return outputs

    def imitation_features(self, inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The backbone alone."""
        return self.base(inputs, training=False)

    def detection_losses(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """``rpn_class``, ``rpn_box``, ``rcnn_class`` and ``rcnn_box``; see ``losses``."""
        config, rules = self.config, self.rules
        content, truth = _content_size(outputs, batch), rules.truth(batch["boxes"])
        anchors = tf.concat(self.anchors(outputs), axis=0)  # A x 4
        drawn = self.random_numbers(
            batch.get("seed", tf.constant([0, 0])),
            tf.shape(anchors)[0],
            config.train_post_nms + tf.shape(truth)[1],
        )
        assigned = rpn_targets.assign(anchors, truth, batch["valid"], content, rules)
        labels = rpn_targets.subsample(assigned.labels, drawn["anchors"], config.rpn_batch)
        regions = self.propose(outputs, content, config.train_pre_nms, config.train_post_nms)
        candidates = proposal_targets.match(regions.boxes, truth, batch["valid"], regions.count, rules)
        sampled = (candidates, truth, batch["classes"] + 1, drawn["rois"])
        share = {"foreground_fraction": config.roi_foreground}
        if rules.distinct_regions:
            rois = proposal_targets.sample_distinct(*sampled, config.roi_batch, rules, **share)
        else:
            rois = proposal_targets.sample(*sampled, drawn["draws"], **share)
        scores, deltas = self.classify(outputs, rois.boxes, content, outputs.get("dropout_seed"))
        return {
            "rpn_class": losses.rpn_class_loss(outputs["rpn_scores"], labels, rules),
            "rpn_box": losses.rpn_box_loss(outputs["rpn_deltas"], assigned.deltas, labels, rules),
            "rcnn_class": losses.rcnn_class_loss(scores, rois.labels),
            "rcnn_box": losses.rcnn_box_loss(deltas, rois.deltas, rois.labels, rules),
        }

    def random_numbers(
        self, seed: tf.Tensor, anchors: int | tf.Tensor, rois: int | tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """What the samples of a step with ``seed`` (integers [2]) are drawn by, uniform in [0, 1), float32.

        Returns:
            ``anchors`` [anchors] and ``rois`` [rois], the priorities of anchors and of candidates (proposals,
            then the ground truth); ``draws`` [roi_batch], for what is drawn with replacement.
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
        scores, boxes, rules = [], [], self.rules
        for level, logits, deltas, anchors in zip(
            self.levels, outputs["rpn_scores"], outputs["rpn_deltas"], self.anchors(outputs), strict=True
        ):
            logits, deltas = tf.stop_gradient(logits), tf.stop_gradient(deltas)
            probabilities = proposals.foreground_probability(logits, rules.paired_scores)  # B x A
            if not rules.whole_input:
                in_picture = level.within(content, *tf.unstack(tf.shape(logits)[1:3]))
                in_picture = tf.repeat(in_picture, len(level.cell), axis=-1)  # B x h x (w K)
                in_picture = tf.reshape(in_picture, tf.shape(probabilities))
                probabilities = tf.where(in_picture, probabilities, -float("inf"))
            scores.append(probabilities)
            boxes.append(proposals.decode_proposals(anchors, deltas, content, rules))
        limits = (pre_nms, post_nms, self.config.rpn_nms_iou, self.config.nms)
        return proposals.propose(scores, boxes, *limits, rules.inclusive, rules.smallest_proposal)

    def classify(
        self, outputs: Outputs, rois: tf.Tensor, content: tf.Tensor, dropout_seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Class scores [B,R,1 + classes] and normalised deltas [B,R,4 (1 + classes)], float32, of RoIs."""
        pooled = roi_align.align_over_levels(
            outputs["features"][: self.roi_levels],
            rois,
            self.config.roi_pooling,
            self.config.pooled_size,
            [level.stride for level in self.levels[: self.roi_levels]],
            self.config.sampling_ratio,
            None if self.rules.whole_input else content,
            self.levels[0].rounds_up,
        )  # B x R x n x n x C
        scores, deltas = self.head(pooled, dropout_seed=dropout_seed)
        return tf.cast(scores, tf.float32), tf.cast(deltas, tf.float32)

    def detect(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """Class-wise NMS (in image-file pixels) of the classified proposals; K = ``max_detections``."""
        config = self.config
        content = _content_size(outputs, batch)
        regions = self.propose(outputs, content, config.test_pre_nms, config.test_post_nms)
        scores, deltas = self.classify(outputs, regions.boxes, content)
        return final_detections(regions, scores, deltas, content, batch["scale"], config, self.rules)

    def imitation_boxes(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """As in ``Detector``; a box of exactly one pixel has no overlap in the published code, so no mask."""
        boxes, valid = super().imitation_boxes(batch)
        if not self.rules.inclusive:
            return boxes, valid
        return boxes, tf.logical_and(valid, tf.logical_not(forms.is_one_pixel(batch["boxes"])))

    def imitation_anchors(self, height: int | tf.Tensor, width: int | tf.Tensor) -> tuple[tf.Tensor, ...]:
        """All anchors of each map [h,w,K,4], those across the border included."""
        grids = (
            level.anchors(level.cells(height), level.cells(width), (height, width)) for level in self.levels
        )
        return tuple(forms.continuous(grid) if self.rules.inclusive else grid for grid in grids)

    def imitation_valid_mask(self, batch: Batch, height: int, width: int) -> tuple[tf.Tensor, ...]:
        """For each feature map, which of its cells hold picture and not padding: bool [B,h,w]."""
        content = batch["content_size"]
        return tuple(level.within(content, level.cells(height), level.cells(width)) for level in self.levels)

    def imitation_options(self) -> dict[str, keras.initializers.Initializer]:
        """How the published student starts the adaptation convolution; it decays as ``decay_rate`` says.

        The bias keeps PyTorch's default, uniform within 1 / sqrt(fan in), of this network's width.
        """
        bound = (9 * self.feature_channels[0]) ** -0.5
        return {
            "kernel_initializer": FoldedNormal(1e-4),
            "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
        }

    def learning_rate_multiplier(self, variable: tf.Variable) -> float:
        """The convention's ``bias_rate`` for biases, 1 for weights: the factor on the learning rate."""
        return self.rules.bias_rate if is_bias(variable) else 1.0

    def decay_rate(self, variable: tf.Variable) -> float:
        """``config.weight_decay``; 0 for biases where the convention says so."""
        exempt = is_bias(variable) and not self.rules.biases_decay
        return 0.0 if exempt else self.config.weight_decay

    def anchors(self, outputs: Outputs) -> list[tf.Tensor]:
        """For each level its anchors, corners, float32 [A,4] in the order of the RPN's outputs."""
        sizes = [tf.unstack(tf.shape(scores)[1:3]) for scores in outputs["rpn_scores"]]
        pixels = tf.unstack(outputs["input_size"])
        grids = (level.anchors(*size, pixels) for level, size in zip(self.levels, sizes, strict=True))
        return [tf.reshape(grid, [-1, 4]) for grid in grids]


def is_bias(variable: tf.Variable) -> bool:
    """Whether a variable is a bias, by its name (the imitation layer's included)."""
    return variable.name.rsplit("/", 1)[-1].startswith("bias")


def _content_size(outputs: Outputs, batch: Batch) -> tf.Tensor:
    """(h, w) of each picture in the input, float32 [B,2]."""
    if "content_size" in batch:
        return tf.cast(batch["content_size"], tf.float32)
    images = tf.shape(outputs["rpn_scores"][0])[0]
    return tf.tile(tf.cast(outputs["input_size"], tf.float32)[None], [images, 1])
