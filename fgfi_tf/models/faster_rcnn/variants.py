"""Faster R-CNN by name: backbone and channel multiplier."""

from __future__ import annotations

from fgfi_tf.errors import UserError
from fgfi_tf.models.faster_rcnn.config import FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.model import FasterRCNN

# The published networks, and narrow ones for small budgets.
VARIANTS: dict[str, tuple[str, float]] = {
    f"faster_rcnn_{backbone}{suffix}": (backbone, width)
    for backbone in ("vgg11", "vgg16")
    for suffix, width in (("", 1.0), ("_0.5x", 0.5), ("_0.25x", 0.25), ("_0.125x", 0.125))
}


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
    backbone, width = VARIANTS[variant]
    short_side, long_side_cap = input_size
    config = FasterRCNNConfig(
        backbone=backbone,
        width=width,
        class_names=tuple(class_names),
        short_side=short_side,
        long_side_cap=long_side_cap,
        **options,
    )
    return FasterRCNN(config, name=variant.replace(".", "_"))
