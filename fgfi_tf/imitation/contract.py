"""What imitation asks of a student and its teacher: a protocol, for ``imitation`` knows no detector.

``fgfi_tf.models.detector.Detector``, which every detector of the package is, fulfils it and says more.
"""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf

Batch = dict[str, tf.Tensor]
Outputs = dict[str, tf.Tensor]


class Network(Protocol):
    """A detector as the distiller sees it, whether it learns or teaches."""

    feature_channels: tuple[int, ...]
    loss_names: tuple[str, ...]
    counted: tuple[str, ...]

    def __call__(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Outputs:
        """Preprocessed images [B,H,W,3] to outputs; ``features`` are the maps to imitate [B,h,w,c]."""

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """What the optimizer updates."""

    @property
    def preprocessing(self) -> object:
        """Equal for networks whose ``preprocess`` computes the same, which then share its result."""

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB images [B,H,W,3], 0..255, to inputs."""

    def imitation_features(self, inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The maps to imitate alone, in inference mode."""

    def log_probabilities(self, outputs: Outputs) -> tf.Tensor | None:
        """What soft labels compare: float32 [B,A,K], see ``soft_labels``; None where a detector has none."""

    def detection_losses(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """Named float32 scalars, this replica's share of each; ``batch`` has ``seed`` and ``step`` too."""

    def regularization_losses(self) -> dict[str, tf.Tensor]:
        """Named penalties on the weights, of the whole batch."""

    def learning_rate_multiplier(self, variable: tf.Variable) -> float:
        """What a gradient is multiplied by after clipping."""

    def decay_rate(self, variable: tf.Variable) -> float:
        """Times the variable, this is added to its clipped gradient."""

    def imitation_boxes(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Boxes [B,M,4] as continuous corners and valid [B,M]."""

    def imitation_anchors(self, height: int | tf.Tensor, width: int | tf.Tensor) -> tuple[tf.Tensor, ...]:
        """For each map its anchors [h,w,K,4], continuous corners in pixels of an input of this size."""

    def imitation_valid_mask(
        self, batch: Batch, height: int | tf.Tensor, width: int | tf.Tensor
    ) -> tuple[tf.Tensor, ...] | None:
        """For each map bool [B,h,w], where it holds picture; None where there is no padding."""


def image_size(images: tf.Tensor) -> tuple[int, int] | tuple[tf.Tensor, tf.Tensor]:
    """(height, width) of images [B,H,W,3]: numbers where the graph knows them, else int32 scalars."""
    if images.shape[1:3].is_fully_defined():
        return tuple(images.shape[1:3])
    return tuple(tf.unstack(tf.shape(images)[1:3]))
