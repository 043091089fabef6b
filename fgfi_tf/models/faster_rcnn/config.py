"""What can be chosen about a Faster R-CNN; the defaults are the published models'."""

from __future__ import annotations

import dataclasses

from fgfi_tf.errors import UserError
from fgfi_tf.geometry.nms import KINDS as NMS_KINDS
from fgfi_tf.models import backbones
from fgfi_tf.models.backbones import norm_conv, resnet, vgg
from fgfi_tf.models.builtin import PUBLISHED_LAYERS, ROI_FOREGROUND, VOC_CLASSES, fewest_rois
from fgfi_tf.models.faster_rcnn import roi_align
from fgfi_tf.models.faster_rcnn.conventions import CONVENTIONS

SMALLEST_SIDE = 32
BACKBONES = tuple(dict.fromkeys((*vgg.LAYOUTS, *resnet.LAYOUTS, *backbones.NAMES)))
#: What the levels are made of: the backbone's own map; an FPN on the maps of stride 4 to 32, with a level
#: more; an FPN on those of stride 16 and 32, of which the level of stride 16 is taken.
NECKS = ("none", "fpn", "joined")


@dataclasses.dataclass(frozen=True)
class FasterRCNNConfig:
    """Options of :class:`~fgfi_tf.models.faster_rcnn.model.FasterRCNN`.

    Attributes:
        backbone: one of ``BACKBONES``.
        neck: one of ``NECKS``; with ``"none"`` a VGG has its published head, and a ResNet its C5 as head.
        convention: a key of ``conventions.CONVENTIONS``.
        width: multiplies every channel count of the backbone, and of a VGG's head; below 1 for small
            budgets.
        norm: batch norm of the backbone, see ``NormConv``; backbones other than ResNets learn scale and shift
            with ``"frozen"`` statistics, too.
        frozen_stages: see ``resnet.ResNet``.
        frozen_layers: leading convolutions of a VGG that are never trained; -1: as many as published.
        resnet_style: a key of ``resnet.STYLES``.
        fpn_channels: of every level of an FPN.
        head_units: of the two fully connected layers behind an FPN.
        anchor_scales: of the reference's anchors, in strides.
        class_names: the foreground classes.
        roi_pooling: one of ``roi_align.KINDS``.
        sampling_ratio: samples per bin and axis; not used by ``"reference"``.
        dropout: rate in the box head while training.
        weight_decay: L2 penalty of the kernels in the published recipe, added to the gradient after clipping.
        train_pre_nms: scores of a level that enter NMS while training; ``train_post_nms``: proposals kept.
        test_pre_nms: the same in inference, with ``test_post_nms``.
        rpn_nms_iou: proposals that overlap a better one by more are dropped.
        nms: ``"combined"`` or ``"padded"`` (for XLA), see ``geometry.nms.best_boxes``.
        rpn_batch: anchors sampled per image.
        roi_batch: RoIs sampled per image.
        roi_foreground: the most foreground among them.
        detection_nms_iou: NMS of the final detections within a class.
        score_threshold: detections need a score above this.
        max_detections: per image, over all classes.
        short_side: pixels that the shorter side of an image is resized to.
        long_side_cap: the longer side stays within this; 0 for no limit, as the published figures were made.
    """

    backbone: str = "vgg11"
    neck: str = "none"
    convention: str = "reference"
    width: float = 1.0
    norm: str = norm_conv.FROZEN
    frozen_stages: int = 2
    frozen_layers: int = PUBLISHED_LAYERS
    resnet_style: str = "caffe"
    fpn_channels: int = 256
    head_units: int = 1024
    anchor_scales: tuple[float, ...] = (8.0, 16.0, 32.0)
    class_names: tuple[str, ...] = VOC_CLASSES
    roi_pooling: str = "reference"
    sampling_ratio: int = 2
    dropout: float = 0.5
    weight_decay: float = 0.0005
    train_pre_nms: int = 12000
    train_post_nms: int = 2000
    test_pre_nms: int = 6000
    test_post_nms: int = 300
    rpn_nms_iou: float = 0.7
    nms: str = "combined"
    rpn_batch: int = 256
    roi_batch: int = 256
    roi_foreground: float = ROI_FOREGROUND
    detection_nms_iou: float = 0.3
    score_threshold: float = 0.0
    max_detections: int = 100
    short_side: int = 600
    long_side_cap: int = 0

    def __post_init__(self):
        for name, value, known in (
            ("backbone", self.backbone, BACKBONES),
            ("neck", self.neck, NECKS),
            ("convention", self.convention, tuple(CONVENTIONS)),
            ("norm", self.norm, norm_conv.NORMS),
            ("resnet_style", self.resnet_style, tuple(resnet.STYLES)),
            ("roi_pooling", self.roi_pooling, roi_align.KINDS),
            ("nms", self.nms, NMS_KINDS),
        ):
            if value not in known:
                raise UserError(f"{name} {value!r} is unknown: choose one of {', '.join(known)}")
        if not self.width > 0:
            raise UserError(f"width must be above 0, not {self.width}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), not {self.dropout}")
        check_input_size((self.short_side, self.long_side_cap))
        if not 0 <= self.frozen_stages <= 5:
            raise UserError(f"frozen_stages must be from 0 to 5, not {self.frozen_stages}")
        if self.frozen_layers < PUBLISHED_LAYERS:
            raise UserError(f"frozen_layers must be at least {PUBLISHED_LAYERS}, not {self.frozen_layers}")
        if not 0 < self.roi_foreground <= 1:
            raise UserError(f"roi_foreground must be in (0, 1], not {self.roi_foreground}")
        if self.roi_batch < (fewest := fewest_rois(self.roi_foreground)):
            raise UserError(f"roi_batch={self.roi_batch} leaves no foreground: {fewest} are the fewest")
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "anchor_scales", tuple(self.anchor_scales))

    @property
    def pooled_size(self) -> int:
        """Rows and columns that RoIs are pooled to; a C5 head halves them."""
        torchvision_c4 = self.has_c5_head and self.convention == "torchvision"
        return 14 if torchvision_c4 else 7

    @property
    def has_c5_head(self) -> bool:
        """Whether the last stage of the backbone is the head."""
        return self.backbone in resnet.LAYOUTS and self.neck == "none"


def check_input_size(size: tuple[int, int]) -> None:
    """Raises UserError where images of (short side, largest long side or 0) are smaller than two cells."""
    short, cap = size
    if min(short, cap or short) < SMALLEST_SIDE:
        raise UserError(
            f"{short}x{cap}: expected are a short side of at least {SMALLEST_SIDE} pixels and a limit of the "
            "long side that is not below it, or 0 for none"
        )
