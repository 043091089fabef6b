"""The parts of a Faster R-CNN as its config says: backbone, levels, head."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fgfi_tf.geometry.anchors import centred_cell, rounded_cell
from fgfi_tf.models.backbones import keras_applications
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.backbones.efficientnet_lite import EfficientNetLite0
from fgfi_tf.models.backbones.fpn import FPN
from fgfi_tf.models.backbones.norm_conv import FROZEN
from fgfi_tf.models.backbones.resnet import LAYOUTS, ResNet, Stage
from fgfi_tf.models.backbones.vgg import LAYOUTS as VGG_LAYOUTS
from fgfi_tf.models.backbones.vgg import VGG, scaled
from fgfi_tf.models.builtin import PUBLISHED_LAYERS
from fgfi_tf.models.faster_rcnn.config import FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.head import BoxHead, StageHead
from fgfi_tf.models.faster_rcnn.levels import Level, published

RATIOS = (0.5, 1.0, 2.0)
SMALLEST_ANCHOR = 32.0
# Sides of torchvision's anchors: one for each level of an FPN, or all on one map.
SIZES = tuple(SMALLEST_ANCHOR * 2**index for index in range(5))


class Parts(NamedTuple):
    """What a detector is made of.

    Attributes:
        base: what gives the maps.
        levels: one for each map.
        roi_levels: RoIs are pooled from so many of the first.
        rpn_channels: of the proposal network's hidden layer.
        head: makes the head; called when the layers before it have their variables.
    """

    base: Backbone
    levels: tuple[Level, ...]
    roi_levels: int
    rpn_channels: int
    head: Callable[[], BoxHead | StageHead]


def parts(config: FasterRCNNConfig, folded: bool = False) -> Parts:
    """The parts with fresh weights; ``folded``: in inference form, of what has batch norm."""
    classes = len(config.class_names)
    if config.backbone in VGG_LAYOUTS and config.neck == "none":
        base = _vgg(config)
        return of_base(config, base, published(base.strides))
    if config.has_c5_head:
        base = _resnet(config, folded, (4,))
        frozen = config.frozen_stages > 4
        norm = FROZEN if frozen else config.norm

        def stage() -> Stage:
            built = Stage(5, config.backbone, config.width, config.resnet_style, norm=norm, folded=folded)
            built.trainable = not (frozen or folded)
            return built

        channels = scaled(512, config.width) if config.convention != "torchvision" else base.channels[0]
        return Parts(base, levels(config, base.strides), 1, channels, lambda: StageHead(stage(), classes))
    strides = (4, 8, 16, 32) if config.neck == "fpn" else (16, 32)
    base = FPN(
        _trunk(config, folded, strides),
        config.fpn_channels,
        outputs=None if config.neck == "fpn" else 1,
        pooled=config.neck == "fpn",
        stored_statistics=config.norm == FROZEN,
    )
    found = of_base(config, base, levels(config, base.strides))
    # The last level of an FPN is for proposals alone.
    return found._replace(roi_levels=max(1, len(base.strides) - 1))


def of_base(config: FasterRCNNConfig, base: Backbone, given: Sequence[Level]) -> Parts:
    """The parts for a backbone that is there: RoIs from all levels, a head of two fully connected layers."""
    units = scaled(4096, config.width) if config.neck == "none" else config.head_units
    head = functools.partial(BoxHead, units, len(config.class_names), config.dropout)
    return Parts(base, tuple(given), len(given), base.channels[0], head)


def levels(config: FasterRCNNConfig, strides: Sequence[int]) -> tuple[Level, ...]:
    """The levels of maps whose sizes are rounded up, with the anchors of the config's convention."""
    if config.convention != "torchvision":
        scales = config.anchor_scales
        return tuple(Level(stride, rounded_cell(stride, scales=scales), rounds_up=True) for stride in strides)
    sizes = [SIZES] if len(strides) == 1 else [[size] for size in SIZES]
    return tuple(
        Level(stride, centred_cell(own, RATIOS, rounded=True), rounds_up=True, stretched=True)
        for stride, own in zip(strides, sizes, strict=True)
    )


def _resnet(config: FasterRCNNConfig, folded: bool, taps: tuple[int, ...]) -> ResNet:
    return ResNet(
        config.backbone,
        width=config.width,
        taps=taps,
        style=config.resnet_style,
        norm=config.norm,
        frozen_stages=config.frozen_stages,
        folded=folded,
    )


def _vgg(config: FasterRCNNConfig, **options: Any) -> VGG:
    frozen = None if config.frozen_layers == PUBLISHED_LAYERS else config.frozen_layers
    return VGG(config.backbone, config.width, frozen=frozen, **options)


def _trunk(config: FasterRCNNConfig, folded: bool, strides: tuple[int, ...]) -> Backbone:
    if config.backbone in VGG_LAYOUTS:  # no batch norm to fold
        taps = tuple(stride.bit_length() for stride in strides)
        return _vgg(config, taps=taps, keep_odd=True, normalized=True, name="trunk")
    if config.backbone in LAYOUTS:
        return _resnet(config, folded, tuple(stride.bit_length() - 1 for stride in strides))
    if config.backbone in keras_applications.APPLICATIONS:
        return keras_applications.KerasBackbone(
            config.backbone, None, strides=strides, folded=folded, even=True, name="trunk"
        )
    return EfficientNetLite0(strides=strides, folded=folded, name="trunk")
