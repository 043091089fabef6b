"""SSD on a backbone that was trained on ImageNet: a teacher in minutes; and on ResNets of any width."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgfi_tf.models import builtin
from fgfi_tf.models.backbones import EfficientNetLite0
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.backbones.norm_conv import FROZEN
from fgfi_tf.models.backbones.resnet import ResNet
from fgfi_tf.models.imagenet_backbone import ImageNetBackbone
from fgfi_tf.models.ssd import default_boxes as kinds
from fgfi_tf.models.ssd.model import PREFIX, SSD
from fgfi_tf.models.ssd.network import BackboneTrunk

STRIDES = (8, 16, 32)
STAGES = (3, 4, 5)  # of a ResNet, which have them


class BackboneSSD(ImageNetBackbone, SSD):
    """SSD's default boxes, losses and heads on the maps of a backbone with batch norm.

    Args:
        variant: ``"ssd300_"`` and the backbone.
        folded: inference form, batch norm inside the convolutions; see :meth:`inference_copy`.
        backbone: options of the backbone.

    The other arguments are those of :class:`SSD`.
    """

    declaration = builtin.BACKBONE_SSD
    # EfficientNet-Lite0's maps deviate by 7, 6 and 3: with Glorot's kernels the first loss is ten times that
    # of equally likely classes, and 200 steps go into unlearning.
    head_deviation = 0.001

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
        **backbone: Any,
    ):
        self.check_input_size(input_size)
        trunk, width = self.trunk(variant.removeprefix(PREFIX), folded, **backbone)
        given = {"input_size": input_size, "class_names": class_names, "matching": matching}
        super().__init__(
            variant,
            **given,
            weight_decay=weight_decay,
            default_boxes=default_boxes,
            name=name,
            width=width,
            backbone=BackboneTrunk(trunk, width),
        )
        self._again = functools.partial(type(self), variant, name=self.name, **given, **backbone)
        if folded:
            self.trainable = False

    @staticmethod
    def trunk(kind: str, folded: bool) -> tuple[Backbone, float]:
        """The backbone, and the factor on the channels of the maps behind it."""
        return {"efficientnet_lite0": EfficientNetLite0}[kind](
            folded=folded, strides=STRIDES, name="trunk"
        ), 1.0

    def _load_backbone(self, path: Path | str, pixels: str) -> None:
        self.backbone.load_pretrained(path, pixels)

    def inference_copy(self) -> BackboneSSD:
        """The same function for inference alone, batch norm multiplied into the kernels."""
        copy = self._again(default_boxes=self.box_kind, folded=True)
        copy.backbone.fold_from(self.backbone)
        copy.heads.set_weights(self.heads.get_weights())
        copy.metadata, copy.resize = self.metadata, self.resize
        return copy


class ResNetSSD(BackboneSSD):
    """That on C3, C4 and C5 of a ResNet; its options are those of ``resnet.ResNet``."""

    declaration = builtin.RESNET_SSD

    @staticmethod
    def trunk(
        kind: str,
        folded: bool,
        width: float = 1.0,
        norm: str = FROZEN,
        frozen_stages: int = 2,
        resnet_style: str = "caffe",
    ) -> tuple[Backbone, float]:
        """The ResNet, and its width."""
        options = {"norm": norm, "frozen_stages": frozen_stages, "style": resnet_style}
        return ResNet(kind, width=width, taps=STAGES, folded=folded, name="trunk", **options), width
