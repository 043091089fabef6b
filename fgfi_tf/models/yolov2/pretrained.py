"""YOLOv2's head on a backbone that was trained on ImageNet: a teacher where there are few pictures."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.interop import weight_files
from fgfi_tf.models import builtin
from fgfi_tf.models.backbones import EfficientNetLite0
from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.declaration import IMAGENET
from fgfi_tf.models.yolov2.model import YOLOv2
from fgfi_tf.models.yolov2.network import Network, Variant


class BackboneNetwork(Network):
    """:class:`Network` with EfficientNet-Lite0 for its trunk; a variant's width is that of the head."""

    def _build_trunk(self, variant: Variant) -> tuple[int, int]:
        self.backbone = EfficientNetLite0(folded=self.folded, name="backbone")
        return self.backbone.channels

    def _trunk_maps(self, inputs: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return self.backbone(inputs, training=training)

    def trunk_convolutions(self) -> list[ConvBN]:
        """Those of EfficientNet-Lite0."""
        return list(self.backbone.convolutions().values())


class BackboneYOLOv2(YOLOv2):
    """YOLOv2 on EfficientNet-Lite0: its maps of stride 16 and 32, then YOLOv2's passthrough, head and losses.

    It gives a map of the stride, and anchors of the cells, of :class:`YOLOv2`, whose students it teaches. The
    arguments are the same; ``width`` is a factor on the channel counts of the head alone.
    """

    declaration = builtin.BACKBONE_YOLOV2
    variants = {"yolov2_efficientnet_lite0": 1.0}
    network_class = BackboneNetwork
    pixels = EfficientNetLite0.pixels

    def load_trained(self, path: Path) -> bool:
        """Refuses weight files: there are none of a whole detector of this kind. Raises UserError."""
        if weight_files.is_weight_file(path):
            raise UserError(f"{path}: holds ImageNet weights, not a trained detector")
        return False

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """The backbone's ImageNet weights, ``"imagenet"`` or a file; see ``Backbone.load_pretrained``."""
        if str(path) != IMAGENET and not weight_files.is_weight_file(path):
            return False
        self.network.backbone.load_pretrained(path)
        return True

    def save_darknet(self, path: Path | str, images_seen: int = 0) -> None:
        """Raises ValueError: Darknet has no such network."""
        raise ValueError(f"{self.variant} has no .weights file; Darknet has no such network")
