"""ShuffleDet, the detector of the KITTI experiments (paper section 4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgfi_tf.errors import UserError
from fgfi_tf.models import builtin, pixels
from fgfi_tf.models.shuffledet import tf1_weights
from fgfi_tf.models.shuffledet.network import VARIANTS, ShuffleBackbone
from fgfi_tf.models.shuffledet.single_map import SingleMapDetector


class ShuffleDet(SingleMapDetector):
    """A one-stage detector: ShuffleNet units, and one 3 x 3 convolution that predicts.

    Args:
        variant: a name in ``network.VARIANTS``.
        dropout, folded, options: see :class:`SingleMapDetector`.

    Raises:
        UserError: for an unknown variant, an impossible input size or dropout.
    """

    declaration = builtin.SHUFFLEDET

    def __init__(
        self, variant: str = "shuffledet_1x", *, dropout: float = 0.5, folded: bool = False, **options: Any
    ):
        if variant not in VARIANTS:
            raise UserError(f"unknown model {variant!r}; ShuffleDet comes as {', '.join(VARIANTS)}")
        backbone = ShuffleBackbone(VARIANTS[variant], folded=folded, name="backbone")
        super().__init__(variant, backbone, pixels.CAFFE, dropout=dropout, folded=folded, **options)

    def load_trained(self, path: Path) -> bool:
        """A TF1 checkpoint of the 2019 code; see ``tf1_weights``."""
        return tf1_weights.load_trained(self, path)

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """That, or one of the backbone alone."""
        return tf1_weights.load_trained(self, path, or_backbone=True)
