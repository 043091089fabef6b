"""Backbones that every detector shares: classifiers without their last layers.

Those of ``NAMES`` are built by name and give maps of strides 16 and 32. A new one is one entry here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from fgfi_tf.models.backbones import keras_applications, resnet, vgg
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.backbones.efficientnet_lite import EfficientNetLite0


def _vgg(kind: str, input_size: tuple[int, int], *, folded: bool, name: str) -> Backbone:
    """conv5_x and the pool behind it, all of it trained; there is no batch norm to fold."""
    return vgg.VGG(kind, taps=(5, vgg.LAST_POOL), name=name, keep_odd=True, frozen=0)


_ENTRIES: dict[str, Callable[..., Backbone]] = {
    "efficientnet_lite0": EfficientNetLite0,
    **{
        name: functools.partial(keras_applications.KerasBackbone, name)
        for name in keras_applications.APPLICATIONS
    },
    # ResNet-50 is that of keras.applications, which has weights; these are torchvision's layout.
    **{
        name: functools.partial(resnet.ResNet, name)
        for name in resnet.LAYOUTS
        if name not in keras_applications.APPLICATIONS
    },
    **{name: functools.partial(_vgg, name) for name in vgg.LAYOUTS},
}
NAMES = tuple(_ENTRIES)

__all__ = ["NAMES", "Backbone", "EfficientNetLite0", "build"]


def build(name: str, input_size: tuple[int, int], *, folded: bool = False) -> Backbone:
    """A backbone of :data:`NAMES` with fresh weights; see :class:`Backbone` for the arguments."""
    return _ENTRIES[name](input_size, folded=folded, name=name)
