"""Detectors whose backbone ImageNet has trained, and of which there are no weight files of the whole."""

from __future__ import annotations

from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.interop import weight_files
from fgfi_tf.models.declaration import IMAGENET


class ImageNetBackbone:
    """Base beside a detector's own: weight files are those of its backbone alone."""

    def load_trained(self, path: Path) -> bool:
        """Refuses weight files: there are none of a whole detector of this kind. Raises UserError."""
        if weight_files.is_weight_file(path):
            raise UserError(f"{path}: holds ImageNet weights, not a trained detector")
        return False

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """The backbone's ImageNet weights, ``"imagenet"`` or a file; see ``Backbone.load_pretrained``."""
        if str(path) != IMAGENET and not weight_files.is_weight_file(path):
            return False
        self._load_backbone(path, pixels)
        return True

    def _load_backbone(self, path: Path | str, pixels: str) -> None:
        raise NotImplementedError("a detector says which layer is its backbone")
