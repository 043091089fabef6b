"""Faster R-CNN by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from fgfi_tf.errors import UserError
from fgfi_tf.models import builtin
from fgfi_tf.models.backbones.resnet import LAYOUTS as RESNETS
from fgfi_tf.models.backbones.vgg import LAYOUTS as VGGS
from fgfi_tf.models.faster_rcnn.config import FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.conventions import CONVENTIONS
from fgfi_tf.models.faster_rcnn.families import (
    BackboneFasterRCNN,
    KerasFasterRCNN,
    PyramidFasterRCNN,
    ResNetFasterRCNN,
    VGGPyramidFasterRCNN,
)
from fgfi_tf.models.faster_rcnn.model import FasterRCNN


@dataclasses.dataclass(frozen=True)
class Variant:
    """A Faster R-CNN that has a name.

    Attributes:
        kind: its class.
        backbone, neck, convention, resnet_style: see ``FasterRCNNConfig``.
    """

    kind: type[FasterRCNN]
    backbone: str
    neck: str = "none"
    convention: str = "reference"
    resnet_style: str = "caffe"


VARIANTS: dict[str, Variant] = {
    **{f"faster_rcnn_{name}": Variant(FasterRCNN, name) for name in VGGS},
    **{
        f"faster_rcnn_{name}": Variant(ResNetFasterRCNN, name, convention="reference_resnet")
        for name in RESNETS
    },
    **{
        f"faster_rcnn_{name}_fpn": Variant(PyramidFasterRCNN, name, "fpn", "torchvision", "torchvision")
        for name in RESNETS
    },
    **{f"faster_rcnn_{name}_fpn": Variant(VGGPyramidFasterRCNN, name, "fpn", "torchvision") for name in VGGS},
    **{
        f"faster_rcnn_{name}{suffix}": Variant(kind, name, neck, "torchvision")
        for names, kind in (
            (builtin.OWN_BACKBONES, BackboneFasterRCNN),
            (builtin.KERAS_BACKBONES, KerasFasterRCNN),
        )
        for name in names
        for suffix, neck in (("", "joined"), ("_fpn", "fpn"))
    },
}


def build(
    variant: str, *, input_size: tuple[int, int] = (600, 0), class_names: tuple[str, ...], **options: Any
) -> FasterRCNN:
    """A detector with fresh weights.

    Args:
        variant: a key of ``VARIANTS``.
        input_size: (short side, largest long side or 0 for no limit) of the resized image, pixels: images
            keep their shape.
        class_names: what it detects.
        options: other fields of ``FasterRCNNConfig``; those that are not given are the convention's.
            ``anchor_scales`` may be text, such as ``"8,16,32"``; ``roi_batch=0`` is the convention's.

    Raises:
        UserError: an unknown variant, or an option that cannot work.
    """
    if variant not in VARIANTS:
        raise UserError(f"unknown model {variant!r}; Faster R-CNN comes as {', '.join(VARIANTS)}")
    entry = VARIANTS[variant]
    short_side, long_side_cap = input_size
    given = {"convention": entry.convention, "resnet_style": entry.resnet_style, **options}
    if given["convention"] == builtin.REFERENCE and entry.kind is ResNetFasterRCNN:
        given["convention"] = "reference_resnet"
    if given.get("roi_batch") == builtin.CONVENTIONAL:
        del given["roi_batch"]
    scales = given.get("anchor_scales")
    if isinstance(scales, str):
        given["anchor_scales"] = builtin.scales(scales)
        if given["convention"] == "torchvision" and scales != builtin.ANCHOR_SCALES:
            raise UserError(f"--anchor_scales={scales}: the convention torchvision has anchors of its own")
    known = CONVENTIONS.get(given["convention"])  # the config refuses an unknown one
    defaults = known.defaults if known else {}
    config = FasterRCNNConfig(
        backbone=entry.backbone,
        neck=entry.neck,
        class_names=tuple(class_names),
        short_side=short_side,
        long_side_cap=long_side_cap,
        **{**defaults, **given},
    )
    return entry.kind(config, name=variant)
