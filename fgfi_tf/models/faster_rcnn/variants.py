"""Faster R-CNN by name."""

from __future__ import annotations

from fgfi_tf.errors import UserError
from fgfi_tf.models.backbones.vgg import LAYOUTS
from fgfi_tf.models.faster_rcnn.config import FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.model import FasterRCNN

#: The backbone of each.
VARIANTS: dict[str, str] = {f"faster_rcnn_{backbone}": backbone for backbone in LAYOUTS}


def build(
    variant: str, *, input_size: tuple[int, int] = (600, 0), class_names: tuple[str, ...], **options
) -> FasterRCNN:
    """A detector with fresh weights.

    Args:
        variant: a key of ``VARIANTS``.
        input_size: (short side, largest long side or 0 for no limit) of the resized image, pixels: images
            keep their shape.
        class_names: what it detects.
        options: other fields of ``FasterRCNNConfig``.

    Raises:
        UserError: an unknown variant, or an option that cannot work.
    """
    if variant not in VARIANTS:
        raise UserError(f"unknown model {variant!r}; Faster R-CNN comes as {', '.join(VARIANTS)}")
    short_side, long_side_cap = input_size
    config = FasterRCNNConfig(
        backbone=VARIANTS[variant],
        class_names=tuple(class_names),
        short_side=short_side,
        long_side_cap=long_side_cap,
        **options,
    )
    return FasterRCNN(config, name=variant)
