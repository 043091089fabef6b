"""ShuffleDet's head on a backbone that was trained on ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgfi_tf.errors import UserError
from fgfi_tf.geometry import anchors as anchor_grids
from fgfi_tf.models import backbones, builtin
from fgfi_tf.models.imagenet_backbone import ImageNetBackbone
from fgfi_tf.models.shuffledet.joined_maps import JoinedMaps
from fgfi_tf.models.shuffledet.single_map import STRIDE, SingleMapDetector

SUFFIX = "_shuffledet"
VARIANTS = {f"{name}{SUFFIX}": name for name in backbones.NAMES}


class BackboneShuffleDet(ImageNetBackbone, SingleMapDetector):
    """ShuffleDet's head, losses and anchors on two joined maps of any backbone.

    Args:
        variant: a name in ``VARIANTS``.
        input_size: (height, width) of the network input, multiples of 16, at least 32.
        folded, options: see :class:`SingleMapDetector`.

    Raises:
        UserError: for an impossible input size or dropout.
    """

    declaration = builtin.BACKBONE_SHUFFLEDET

    def __init__(
        self,
        variant: str = f"efficientnet_lite0{SUFFIX}",
        *,
        input_size: tuple[int, int] = anchor_grids.SHUFFLEDET_INPUT,
        folded: bool = False,
        **options: Any,
    ):
        self.check_input_size(input_size)
        trunk = backbones.build(VARIANTS[variant], input_size, folded=folded)
        backbone = JoinedMaps(trunk, folded=folded, name="backbone")
        given = {"input_size": input_size, "folded": folded, "probe_size": trunk.probe_size, **options}
        super().__init__(variant, backbone, trunk.pixels, **given)

    @classmethod
    def check_input_size(cls, size: tuple[int, int]) -> None:
        """Height and width are those that images are resized to, multiples of 16, at least 32."""
        super().check_input_size(size)
        if min(size) < 2 * STRIDE:
            raise UserError(f"{size[0]}x{size[1]}: height and width must be at least {2 * STRIDE}")

    def _load_backbone(self, path: Path | str, pixels: str) -> None:
        self.backbone.trunk.load_pretrained(path, pixels)
