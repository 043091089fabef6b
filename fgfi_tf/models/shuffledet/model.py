"""ShuffleDet, the detector of the KITTI experiments (paper section 4.1)."""

from __future__ import annotations

from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.geometry import anchors as anchor_grids
from fgfi_tf.models import builtin, pixels
from fgfi_tf.models.shuffledet import tf1_weights
from fgfi_tf.models.shuffledet.network import VARIANTS, ShuffleBackbone
from fgfi_tf.models.shuffledet.single_map import SingleMapDetector


class ShuffleDet(SingleMapDetector):
    """A one-stage detector: ShuffleNet units, and one 3 x 3 convolution that predicts.

    Args:
        variant: a name in ``network.VARIANTS``.
        input_size: (height, width) of the network input, multiples of 16. The anchors scale
            with it.
        class_names: what it detects.
        weight_decay: of the predicting kernel.
        dropout: share of the feature dropped in front of it while training.
        anchors: see :class:`SingleMapDetector`.
        folded: inference form, batch norm inside the convolutions; see :meth:`inference_copy`.

    Raises:
        UserError: for an unknown variant, an impossible input size or dropout.
    """

    declaration = builtin.SHUFFLEDET

    def __init__(
        self,
        variant: str = "shuffledet_1x",
        *,
        input_size: tuple[int, int] = anchor_grids.SHUFFLEDET_INPUT,
        class_names: tuple[str, ...] = builtin.KITTI_CLASSES,
        weight_decay: float = 0.0005,
        dropout: float = 0.5,
        anchors: str = builtin.PUBLISHED,
        folded: bool = False,
        name: str | None = None,
    ):
        if variant not in VARIANTS:
            raise UserError(f"unknown model {variant!r}; ShuffleDet comes as {', '.join(VARIANTS)}")
        self.check_input_size(input_size)
        super().__init__(
            ShuffleBackbone(VARIANTS[variant], folded=folded, name="backbone"),
            pixels.CAFFE,
            input_size=input_size,
            class_names=class_names,
            weight_decay=weight_decay,
            dropout=dropout,
            anchors=anchors,
            folded=folded,
            name=name or variant.replace(".", "_"),
        )
        self.variant = variant

    def load_trained(self, path: Path) -> bool:
        """A TF1 checkpoint of the 2019 code; see ``tf1_weights``."""
        return tf1_weights.load_trained(self, path)

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """That, or one of the backbone alone."""
        return tf1_weights.load_trained(self, path, or_backbone=True)

    def folded_form(self) -> ShuffleDet:
        """A detector like this one with ``folded``, whose weights are yet to be set."""
        return ShuffleDet(
            self.variant,
            input_size=self.input_size,
            class_names=self.class_names,
            anchors=self.anchor_option,
            folded=True,
            name=self.name,
        )
