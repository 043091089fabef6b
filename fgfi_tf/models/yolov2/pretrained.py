"""YOLOv2's head on a backbone that was trained on ImageNet: a teacher where there are few pictures."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from fgfi_tf.models import builtin
from fgfi_tf.models.backbones import EfficientNetLite0
from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.imagenet_backbone import ImageNetBackbone
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


class BackboneYOLOv2(ImageNetBackbone, YOLOv2):
    """YOLOv2 on EfficientNet-Lite0: its maps of stride 16 and 32, then YOLOv2's passthrough, head and losses.

    It gives a map of the stride, and anchors of the cells, of :class:`YOLOv2`, whose students it teaches. The
    arguments are the same; ``width`` is a factor on the channel counts of the head alone.
    """

    declaration = builtin.BACKBONE_YOLOV2
    variants = {"yolov2_efficientnet_lite0": 1.0}
    network_class = BackboneNetwork
    pixels = EfficientNetLite0.pixels

    def _load_backbone(self, path: Path | str, pixels: str) -> None:
        self.network.backbone.load_pretrained(path, pixels)

    def save_darknet(self, path: Path | str, images_seen: int = 0) -> None:
        """Raises ValueError: Darknet has no such network."""
        raise ValueError(f"{self.variant} has no .weights file; Darknet has no such network")
