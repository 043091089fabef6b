"""The backbone contract: what a detector knows of a classifier that it was cut from."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.pixels import Pixels


class Backbone(keras.layers.Layer):
    """A classifier without its last layers, as a layer that gives one map or several.

    Attributes:
        strides: input pixels per position of each map, ascending.
        channels: of each map.
        pixels: what it is given.
        probe_size: (height, width) of an input it takes, to create variables with.

    The constructor of one with batch norm takes the ``input_size`` (height, width), multiples of 16, at which
    it will run, and ``folded``: inference form, without batch norm, not trainable.
    """

    strides: tuple[int, ...] = (16, 32)
    channels: tuple[int, ...]
    pixels: Pixels
    probe_size: tuple[int, int] = (16, 16)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """[B, H, W, 3] to a map [B, h, w, C] for each stride; h is H / stride, up or down."""
        raise NotImplementedError("a subclass defines call")

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> None:
        """Loads the classifier's weights: a file of its own framework, or ``"imagenet"``, the usual place.

        Args:
            path: the file, or the word.
            pixels: what ``--init_pixels`` says of files whose own pixels are not known.

        Raises:
            UserError: what has to be installed or downloaded is not there; the file is missing, damaged or of
                another network. Nothing is changed then.
        """
        raise NotImplementedError("a subclass defines load_pretrained")

    def fold_from(self, source: Backbone) -> None:
        """Takes over ``source``'s function in inference mode; this one is ``folded``."""
        raise NotImplementedError("a subclass defines fold_from")
