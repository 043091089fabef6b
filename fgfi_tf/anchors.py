"""``anchor_grid`` under the name it had before ``fgfi_tf.geometry``."""

from fgfi_tf.geometry.anchors import anchor_grid

__all__ = ["anchor_grid"]
