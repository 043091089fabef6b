"""What can be chosen about a Faster R-CNN; the defaults are the published models'."""

from __future__ import annotations

import dataclasses

from fgfi_tf.errors import UserError
from fgfi_tf.geometry.nms import KINDS as NMS_KINDS
from fgfi_tf.models.backbones.vgg import LAYOUTS
from fgfi_tf.models.builtin import VOC_CLASSES
from fgfi_tf.models.faster_rcnn import roi_align

SMALLEST_SIDE = 32


@dataclasses.dataclass(frozen=True)
class FasterRCNNConfig:
    """Options of :class:`~fgfi_tf.models.faster_rcnn.model.FasterRCNN`.

    Attributes:
        backbone: ``"vgg11"`` or ``"vgg16"``.
        width: multiplies every channel count; below 1 for small budgets.
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
    width: float = 1.0
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
    roi_foreground: float = 0.25
    detection_nms_iou: float = 0.3
    score_threshold: float = 0.0
    max_detections: int = 100
    short_side: int = 600
    long_side_cap: int = 0

    def __post_init__(self):
        for name, value, known in (
            ("backbone", self.backbone, tuple(LAYOUTS)),
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
        object.__setattr__(self, "class_names", tuple(self.class_names))


def check_input_size(size: tuple[int, int]) -> None:
    """Raises UserError where images of (short side, largest long side or 0) are smaller than two cells."""
    short, cap = size
    if min(short, cap or short) < SMALLEST_SIDE:
        raise UserError(
            f"{short}x{cap}: expected are a short side of at least {SMALLEST_SIDE} pixels and a limit of the "
            "long side that is not below it, or 0 for none"
        )
