"""SSD as a detector (Liu et al., ECCV 2016): six maps, default boxes, hard negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry.suppression import RawHead, Suppression
from fgfi_tf.models import builtin, fitted_anchors
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.detector import Batch, Detector, Outputs
from fgfi_tf.models.ssd import default_boxes as kinds
from fgfi_tf.models.ssd import losses, matching, weights
from fgfi_tf.models.ssd.network import Heads, Trunk
from fgfi_tf.replica import global_total

PREFIX = "ssd300_"


class SSD(Detector):
    """A one-stage detector on six maps of VGG, for inputs of one size.

    Boxes of batches and detections are inclusive corners; inside, boxes are fractions of the network input.
    All layers of VGG are trained.

    Args:
        variant: ``"ssd300_"`` and a VGG, such as ``"ssd300_vgg16"``.
        input_size: (height, width) of the network input, at least 257 pixels each; published is 300 x 300.
        class_names: what it detects.
        weight_decay: times a kernel, added to its clipped gradient; biases do not decay.
        width: factor on every channel count.
        matching: which default box learns which ground truth, one of ``matching.RULES``.
        default_boxes: a key of ``default_boxes.KINDS``.
        name: as in Keras.
        backbone: gives six maps of the usual sizes; VGG as above where None.

    Raises:
        UserError: for an impossible input size.
    """

    loss_names = ("class_loss", "box_loss")
    counted = ("positives",)
    declaration = builtin.SSD
    head_deviation: float | None = None

    def __init__(
        self,
        variant: str = "ssd300_vgg16",
        *,
        input_size: tuple[int, int] = (kinds.INPUT_SIZE, kinds.INPUT_SIZE),
        class_names: Sequence[str] = builtin.VOC_CLASSES,
        weight_decay: float = 0.0005,
        width: float = 1.0,
        matching: str = "bipartite",
        default_boxes: str = "voc",
        name: str | None = None,
        backbone: Backbone | None = None,
    ):
        self.check_input_size(input_size)
        super().__init__(name=name or variant)
        self.variant, self.width, self.matching = variant, width, matching
        self.input_size, self.class_names = tuple(input_size), tuple(class_names)
        self.weight_decay = weight_decay
        self.take_default_boxes(default_boxes)
        maps, _ = kinds.KINDS[default_boxes]
        self.backbone = Trunk(variant.removeprefix(PREFIX), width) if backbone is None else backbone
        boxes = [source.boxes_per_position for source in maps]
        self.heads = Heads(boxes, len(self.class_names) + 1, self.head_deviation)
        self.pixels, self.feature_channels = self.backbone.pixels, self.backbone.channels
        self.feature_strides = tuple(round(step) for step in kinds.steps(self.input_size[0]))
        self(tf.zeros([1, kinds.SMALLEST_INPUT, kinds.SMALLEST_INPUT, 3]))  # creates the variables

    @classmethod
    def check_input_size(cls, size: tuple[int, int]) -> None:
        """Height and width are those that images are resized to: every map has a position."""
        if min(size) < kinds.SMALLEST_INPUT:
            raise UserError(
                f"{size[0]}x{size[1]}: height and width must be at least {kinds.SMALLEST_INPUT} for SSD's "
                "six feature maps"
            )

    def take_default_boxes(self, kind: str) -> None:
        """Those of a key of ``default_boxes.KINDS`` from now on, in the metadata too."""
        self.box_kind = kind
        self.defaults = np.concatenate([grid.reshape(-1, 4) for grid in self._grids(*self.input_size)])
        if self.metadata is not None:
            options = {**self.metadata.options, "default_boxes": kind}
            self.metadata = dataclasses.replace(self.metadata, options=options)

    def anchor_misfit(self, shapes: np.ndarray, pictures: np.ndarray) -> str:
        """Where a quarter of the objects or more are unlike every default box, whatever the place."""
        sides = np.array(self.input_size[::-1])
        return fitted_anchors.misfit(shapes, np.unique(self.defaults[:, 2:], axis=0) * sides, False)

    def load_trained(self, path: Path) -> bool:
        """torchvision's state dict of ssd300_vgg16, with the default boxes it is for; see ``weights``."""
        return weights.load_trained(self, path)

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """That, of any classes, or an ImageNet VGG; see ``weights``."""
        return weights.load_pretrained(self, Path(path), pixels)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Outputs:
        """[B,H,W,3] to ``features``, ``logits`` [B,A,1 + classes], background first, ``offsets`` [B,A,4]."""
        maps = self.backbone(tf.cast(inputs, self.compute_dtype), training=training)
        logits, offsets = self.heads(maps)
        return {"features": maps, "logits": logits, "offsets": offsets}

    def imitation_features(self, inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The maps, in inference mode; the heads are not run."""
        return self.backbone(tf.cast(inputs, self.compute_dtype), training=False)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Adds ``targets`` of every default box, and of each image the number of matched ones."""
        boxes = forms.continuous(batch["boxes"]) / self._sides()
        matched = matching.match(boxes, batch["valid"], tf.constant(self.defaults), self.matching)
        labels, offsets = losses.targets(matched, boxes, batch["classes"], tf.constant(self.defaults))
        positives = tf.reduce_sum(tf.cast(labels > 0, tf.float32), axis=-1)  # B
        return {**batch, "targets": {"labels": labels, "offsets": offsets}, "positives": positives}

    def detection_losses(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """``class_loss`` and ``box_loss``, by the matched boxes of the global batch; 0 without any."""
        if "targets" not in batch:
            batch = self.prepare_batch(batch)
        targets = batch["targets"]
        found = losses.multibox_losses(
            outputs["logits"], outputs["offsets"], targets["labels"], targets["offsets"]
        )
        positives = tf.maximum(global_total(batch, "positives"), 1.0)
        return {name: found[name] / positives for name in self.loss_names}

    def learning_rate_multiplier(self, variable: tf.Variable) -> float:
        """2 for biases, 1 for weights: the factor on the learning rate in the published recipe."""
        return 2.0 if variable.name.rsplit("/", 1)[-1].startswith("bias") else 1.0

    def decay_rate(self, variable: tf.Variable) -> float:
        """0 for biases and batch norm, else ``weight_decay``."""
        name = variable.name.rsplit("/", 1)[-1]
        return 0.0 if name.startswith(("bias", "gamma", "beta")) else self.weight_decay

    def detect(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """The 200 best boxes after suppression within each class; see ``losses.detect``."""
        found = losses.detect(outputs["logits"], outputs["offsets"], tf.constant(self.defaults))
        scale = tf.tile(tf.reverse(batch["scale"], [-1]), [1, 2])[:, None]  # B x 1 x (x, y, x, y)
        sizes = tf.cast(batch["image_size"], tf.float32)[:, None]  # B x 1 x 2
        near, far = tf.split(forms.inclusive(found["boxes"] * self._sides() / scale), 2, axis=-1)
        # What is narrower than a pixel has one; a letterboxed picture ends before the input does.
        boxes = forms.clip(tf.concat([near, tf.maximum(near, far)], axis=-1), sizes, inclusive=True)
        kept = tf.sequence_mask(found["count"], tf.shape(boxes)[1])
        return found | {"boxes": tf.where(kept[..., None], boxes, 0.0)}

    def raw_head(self, outputs: Outputs) -> RawHead:
        """Every default box and its scores; of the maps again, since each one's have a range of their own."""
        predicted = self.heads(outputs["features"])
        boxes, scores = losses.boxes_and_scores(*predicted, tf.constant(self.defaults))
        best = losses.BEST_PER_CLASS
        rule = Suppression(
            losses.NMS_IOU,
            best,
            losses.MAX_DETECTIONS,
            score_threshold=losses.MIN_SCORE,
            candidates=best,
            corners="pixels",
        )
        return RawHead(boxes * self._sides(), scores, rule)

    def imitation_anchors(self, height: int, width: int) -> tuple[tf.Tensor, ...]:
        """The default boxes of each map, as continuous corners."""
        sides = tf.constant([width, height, width, height], tf.float32)
        grids = self._grids(height, width)
        return tuple(forms.corners_from_centres(tf.constant(grid)) * sides for grid in grids)

    def imitation_sizes(self) -> tuple[float, ...]:
        """The side of the smallest square box of each map, from which on SSD means it to find objects."""
        maps, _ = kinds.KINDS[self.box_kind]
        return tuple(source.smallest * min(self.input_size) / kinds.INPUT_SIZE for source in maps)

    def _grids(self, height: int, width: int) -> list[np.ndarray]:
        return kinds.grids(*kinds.KINDS[self.box_kind], input_size=(height, width))

    def _sides(self) -> tf.Tensor:
        """(w, h, w, h) of the network input."""
        return tf.constant([*self.input_size[::-1]] * 2, tf.float32)
