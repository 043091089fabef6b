"""YOLOv2 as a detector: Darknet-19 with a passthrough, the region loss, boxes from cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.geometry import anchors as anchor_grids
from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry import nms
from fgfi_tf.geometry import shapes as anchor_shapes
from fgfi_tf.geometry.coding import decode_in_cells
from fgfi_tf.geometry.suppression import RawHead, Suppression
from fgfi_tf.models import builtin, fitted_anchors
from fgfi_tf.models.detector import Batch, Detector, Outputs
from fgfi_tf.models.pixels import Pixels
from fgfi_tf.models.yolov2 import coding, weights
from fgfi_tf.models.yolov2.network import STRIDE, VARIANTS, Network, Variant
from fgfi_tf.models.yolov2.region_loss import PRIOR_IMAGES, region_losses
from fgfi_tf.replica import global_counts

UNIT = Pixels((0.0,) * 3, (255.0,) * 3)  # 0..1
GREY = (127.5,) * 3
# A truth narrower or lower than this share of the input is not learnt (Darknet's data loader).
SMALLEST = 0.001
MIN_SCORE = 0.005
NMS_IOU = 0.45
# Darknet has no such limit; WIDER FACE has pictures of nearly as many faces.
MAX_DETECTIONS = 2000


class YOLOv2(Detector):
    """Redmon & Farhadi, YOLO9000 (CVPR 2017), section 2, as Darknet's ``yolov2-voc.cfg`` has it.

    Args:
        variant: a name in ``variants``.
        input_size: (height, width) of the network input, multiples of 32; any other multiple can follow.
        class_names: what it detects.
        weight_decay: of every kernel, added to its gradient.
        width: further factor on every channel count.
        anchors: ``"published"`` (VOC's), ``"coco"``, or shapes as ``geometry.shapes.parse`` reads them, in
            cells of 32 pixels: they do not change with the input size.
        reorg: ``"space_to_depth"``, ``"original"``, or ``"auto"``; see ``weights.load``.
        folded: inference form, batch norm inside the convolutions; see :meth:`inference_copy`.

    Raises:
        UserError: an unknown variant; an impossible input size; anchors that only training objects decide
            (``"auto"``); the original reorg at a width for which it is not defined.
    """

    #: Width of the network by variant.
    variants: Mapping[str, float] = {name: variant.width for name, variant in VARIANTS.items()}
    network_class: type[Network] = Network
    takes_any_size = True
    input_multiple = STRIDE
    feature_strides = (STRIDE,)
    declaration = builtin.YOLOV2
    pixels = UNIT

    def __init__(
        self,
        variant: str = "yolov2",
        *,
        input_size: tuple[int, int] = (416, 416),
        class_names: tuple[str, ...] = ("face",),
        weight_decay: float = 0.0005,
        width: float = 1.0,
        anchors: str = builtin.PUBLISHED,
        reorg: str = builtin.AUTO,
        folded: bool = False,
        name: str | None = None,
    ):
        if variant not in self.variants:
            raise UserError(f"unknown model {variant!r}; YOLOv2 comes as {', '.join(self.variants)}")
        self.check_input_size(input_size)
        super().__init__(name=name or variant.replace(".", "_"))
        self.variant, self.width = variant, width
        self.input_size, self.class_names = tuple(input_size), tuple(class_names)
        self.weight_decay, self.folded = weight_decay, folded
        self.anchor_option, self.reorg_option = anchors, reorg
        self.anchors = anchors_in_cells(anchors)  # A x 2
        try:
            self.network = self.network_class(
                Variant(self.variants[variant] * width),
                len(self.anchors),
                len(self.class_names),
                reorg="space_to_depth" if reorg == builtin.AUTO else reorg,
                folded=folded,
                name="network",
            )
        except ValueError as error:
            raise UserError(f"--reorg={reorg}: {error} ({variant}, --width={width:g})") from error
        # Checkpointed, and no weight of the network: images that it had seen before this training.
        self.history = tf.train.Checkpoint(images=tf.Variable(0, dtype=tf.int64, trainable=False))
        self(tf.zeros([1, STRIDE, STRIDE, 3]))  # creates the variables; sizes do not matter
        if folded:
            self.trainable = False
        self.feature_channels = (self.network.feature_channels,)
        losses = ("no_object_loss", "box_loss", "object_loss")
        # Of one class there is nothing to tell apart.
        self.loss_names = (*losses, "class_loss") if len(self.class_names) > 1 else losses

    @classmethod
    def check_input_size(cls, size: tuple[int, int]) -> None:
        """Height and width are multiples of the stride."""
        height, width = size
        if height % STRIDE or width % STRIDE or min(height, width) < STRIDE:
            raise UserError(f"{height}x{width}: height and width must be divisible by {STRIDE}")

    @classmethod
    def fitted_options(
        cls, options: Mapping[str, object], shapes: np.ndarray, input_size: tuple[int, int], seed: int
    ) -> tuple[dict[str, object], str]:
        """Of ``anchors="auto"`` five shapes, as YOLO9000, section 2, finds them."""
        if options["anchors"] != builtin.AUTO:
            return dict(options), ""
        published = STRIDE * np.array(coding.VOC_ANCHORS)
        found, line = fitted_anchors.fit(shapes, published, input_size, seed)
        return {**options, "anchors": anchor_shapes.to_text(found / STRIDE)}, line

    def anchor_misfit(self, shapes: np.ndarray, pictures: np.ndarray) -> str:
        """Where a quarter of the objects or more are unlike every anchor, whatever their place."""
        could_fit = self.anchor_option in (builtin.PUBLISHED, builtin.YOLOV2_COCO)
        return fitted_anchors.misfit(shapes, STRIDE * self.anchors, could_fit)

    @property
    def padding_color(self) -> tuple[float, ...]:
        """Grey, as in Darknet's letterbox."""
        return GREY

    def load_trained(self, path: Path) -> bool:
        """A ``.weights`` file of Darknet; see ``weights``."""
        return weights.load(self, path)

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """That, or one of the trunk alone (``darknet19_448.conv.23``)."""
        return weights.load(self, path, or_trunk=True)

    def begins_from(self, options: Mapping[str, object], step: int) -> None:
        """As of a ``.weights`` file: its passthrough, where that is ``auto``, and no prior once more."""
        if step > 0:  # how many images a step had is not kept
            self.history.images.assign(max(int(self.history.images.numpy()), PRIOR_IMAGES))
        if options.get("reorg") == "original":
            weights.take_original_reorg(self, "the run that this one begins from")

    def save_darknet(self, path: Path | str, images_seen: int = 0) -> None:
        """Writes a ``.weights`` file; see ``weights.save``."""
        weights.save(self, path, images_seen)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Outputs:
        """[B, H, W, 3] to ``predictions`` [B, H/32, W/32, A * (5 + classes)], float32, and ``features``."""
        found = self.network(tf.cast(inputs, self.compute_dtype), training=training)
        return {"features": (found["features"],), "predictions": found["predictions"]}

    def detection_losses(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """The terms of ``region_losses`` by the images of the global batch.

        The prior of the first 12,800 images is a part of ``box_loss``; of one class there is no
        ``class_loss``, which would be 0.
        """
        _, images = global_counts(batch)
        seen = self.history.images + (tf.cast(batch.get("step", 0), tf.int64) + 1) * tf.cast(images, tf.int64)
        grid = tf.cast(tf.shape(outputs["predictions"])[1:3] * STRIDE, tf.float32)  # (h, w)
        boxes = forms.centres_from_corners(batch["boxes"], inclusive=True) / tf.gather(grid, [1, 0, 1, 0])
        found = region_losses(
            outputs["predictions"],
            boxes,  # B x M x 4
            batch["classes"],
            batch["valid"] & tf.reduce_all(boxes[..., 2:] >= SMALLEST, axis=-1),
            tf.constant(self.anchors, tf.float32),
            seen,
        )
        found["box_loss"] += found.pop("prior_loss")
        return {name: found[name] / images for name in self.loss_names}

    def decay_rate(self, variable: tf.Variable) -> float:
        """``weight_decay`` of kernels (the adaptation's too), 0 of biases and batch norm."""
        return self.weight_decay if variable.name.rsplit("/", 1)[-1].startswith("kernel") else 0.0

    def detect(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """Boxes whose centre lies in the picture, suppressed within their class; K = ``MAX_DETECTIONS``."""
        raw = coding.split_predictions(outputs["predictions"], len(self.anchors))
        boxes = decode_in_cells(raw["xy"], raw["wh"], tf.constant(self.anchors, tf.float32))
        grid = tf.cast(tf.shape(outputs["predictions"])[1:3] * STRIDE, tf.float32)  # (h, w)
        whole = tf.reverse(grid / batch["scale"], [-1])  # B x (x, y): the network input in the image's pixels
        size = tf.cast(batch["image_size"], tf.float32)  # B x (h, w)
        boxes *= tf.tile(whole, [1, 2])[:, None, None, None]  # B x h x w x A x 4
        scores = coding.scores_of(raw["objectness"], raw["classes"], MIN_SCORE)  # B x h x w x A x C
        inside = tf.reduce_all(boxes[..., :2] <= tf.reverse(size, [-1])[:, None, None, None], axis=-1)
        scores = tf.where(inside[..., None], scores, 0.0)
        count = tf.shape(boxes)[0]
        found = nms.suppress(
            tf.reshape(forms.corners_from_centres(boxes), [count, -1, 1, 4]),
            tf.reshape(scores, [count, -1, len(self.class_names)]),
            iou_threshold=NMS_IOU,
            max_per_class=MAX_DETECTIONS,
            max_total=MAX_DETECTIONS,
            score_threshold=MIN_SCORE,
        )
        boxes = forms.inclusive(forms.clip(found["boxes"], size[:, None]))
        there = tf.range(MAX_DETECTIONS)[None] < found["count"][:, None]  # B x K
        return {**found, "boxes": tf.where(there[..., None], boxes, 0.0)}

    def raw_head(self, outputs: Outputs) -> RawHead:
        """Every anchor's box and scores; shifts, sizes, objectness and classes each have a convolution."""
        feature, predict = outputs["features"][0], self.network.predict
        raw = coding.predicted_parts(feature, predict.kernel, predict.bias, len(self.anchors))
        cells = coding.cells_and_shapes(*feature.shape[1:3], self.anchors)  # each N x 2
        centres, sizes = STRIDE * (cells[0] + tf.sigmoid(raw["xy"])), STRIDE * cells[1] * tf.exp(raw["wh"])
        boxes = forms.corners_from_centres(tf.concat([centres, sizes], axis=-1))
        rule = Suppression(
            NMS_IOU,
            MAX_DETECTIONS,
            MAX_DETECTIONS,
            score_threshold=MIN_SCORE,
            centre_inside=True,
            corners="cut",
        )
        return RawHead(boxes, tf.sigmoid(raw["objectness"]) * tf.nn.softmax(raw["classes"]), rule)

    def imitation_anchors(self, height: int | tf.Tensor, width: int | tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The anchors of every cell of the last map, about its centre: continuous corners."""
        half = STRIDE * self.anchors / 2.0
        cell = STRIDE / 2.0 + np.concatenate([-half, half], axis=-1)
        return (anchor_grids.repeat_cell(cell.astype(np.float32), height // STRIDE, width // STRIDE, STRIDE),)

    def inference_copy(self) -> YOLOv2:
        """The same function in inference form: the batch norm multiplied into the kernels.

        It is a copy; later training of this model does not reach it.
        """
        copy = type(self)(
            self.variant,
            input_size=self.input_size,
            class_names=self.class_names,
            width=self.width,
            anchors=self.anchor_option,
            reorg=self.network.reorg,
            folded=True,
            name=self.name,
        )
        copy.resize = self.resize
        copy.network.fold_from(self.network)
        copy.metadata = self.metadata
        return copy


def anchors_in_cells(option: str) -> np.ndarray:
    """(width, height) of the anchors, float64 [A, 2]. Raises UserError for ``"auto"``."""
    if option == builtin.AUTO:
        raise UserError("--anchors=auto: only a training can find them; give shapes here")
    known = {builtin.PUBLISHED: coding.VOC_ANCHORS, builtin.YOLOV2_COCO: coding.COCO_ANCHORS}
    return np.array(known[option]) if option in known else anchor_shapes.parse(option)
