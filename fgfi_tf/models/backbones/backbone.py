"""The backbone contract: what a detector knows of a classifier that it was cut from."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.pixels import Pixels


class Backbone(keras.layers.Layer):
    """A classifier without its last layers, as a layer that gives maps of two strides.

    Attributes:
        channels: of the maps at stride 16 and at stride 32.
        pixels: what it is given.
        probe_size: (height, width) of an input it takes, to create variables with.

    Every constructor takes the ``input_size`` (height, width), multiples of 16, at which it will run, and
    ``folded``: inference form, without batch norm, not trainable.
    """

    channels: tuple[int, int]
    pixels: Pixels
    probe_size: tuple[int, int] = (16, 16)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """[B, H, W, 3] to maps [B, h, w, C16], h = H / 16, and [B, ceil(h / 2), ceil(w / 2), C32]."""
        raise NotImplementedError("a subclass defines call")

    def load_pretrained(self, path: Path | str) -> None:
        """Loads the classifier's weights: a file of its own framework, or ``"imagenet"``, the usual place.

        Raises:
            UserError: what has to be installed or downloaded is not there; the file is missing, damaged or of
                another network. Nothing is changed then.
        """
        raise NotImplementedError("a subclass defines load_pretrained")

    def fold_from(self, source: Backbone) -> None:
        """Takes over ``source``'s function in inference mode; this one is ``folded``."""
        raise NotImplementedError("a subclass defines fold_from")
