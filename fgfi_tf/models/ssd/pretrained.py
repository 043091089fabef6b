"""SSD on a backbone that was trained on ImageNet: a teacher in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.interop import weight_files
from fgfi_tf.models import builtin
from fgfi_tf.models.backbones import EfficientNetLite0
from fgfi_tf.models.declaration import IMAGENET
from fgfi_tf.models.ssd import default_boxes as kinds
from fgfi_tf.models.ssd.model import PREFIX, SSD
from fgfi_tf.models.ssd.network import BackboneTrunk

STRIDES = (8, 16, 32)
#: The backbone of each.
VARIANTS = {f"{PREFIX}efficientnet_lite0": EfficientNetLite0}


class BackboneSSD(SSD):
    """SSD's default boxes, losses and heads on the maps of a backbone with batch norm.

    Args:
        variant: a key of ``VARIANTS``.
        folded: inference form, batch norm inside the convolutions; see :meth:`inference_copy`.

    The other arguments are those of :class:`SSD`.
    """

    declaration = builtin.BACKBONE_SSD

    def __init__(
        self,
        variant: str = "ssd300_efficientnet_lite0",
        *,
        input_size: tuple[int, int] = (kinds.INPUT_SIZE, kinds.INPUT_SIZE),
        class_names: Sequence[str] = builtin.VOC_CLASSES,
        weight_decay: float = 0.0005,
        matching: str = "bipartite",
        default_boxes: str = "voc",
        folded: bool = False,
        name: str | None = None,
    ):
        self.check_input_size(input_size)
        trunk = VARIANTS[variant](input_size, folded=folded, strides=STRIDES, name="trunk")
        super().__init__(
            variant,
            input_size=input_size,
            class_names=class_names,
            weight_decay=weight_decay,
            matching=matching,
            default_boxes=default_boxes,
            name=name,
            backbone=BackboneTrunk(trunk),
        )
        if folded:
            self.trainable = False

    def load_trained(self, path: Path) -> bool:
        """Refuses weight files: there are none of a whole detector of this kind. Raises UserError."""
        if weight_files.is_weight_file(path):
            raise UserError(f"{path}: holds ImageNet weights, not a trained detector")
        return False

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """The backbone's ImageNet weights, ``"imagenet"`` or a file; see ``Backbone.load_pretrained``."""
        if str(path) != IMAGENET and not weight_files.is_weight_file(path):
            return False
        self.backbone.load_pretrained(path)
        return True

    def inference_copy(self) -> BackboneSSD:
        """The same function for inference alone, batch norm multiplied into the kernels."""
        copy = BackboneSSD(
            self.variant,
            input_size=self.input_size,
            class_names=self.class_names,
            matching=self.matching,
            default_boxes=self.box_kind,
            folded=True,
            name=self.name,
        )
        copy.backbone.fold_from(self.backbone)
        copy.heads.set_weights(self.heads.get_weights())
        copy.metadata, copy.resize = self.metadata, self.resize
        return copy
