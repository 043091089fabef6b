"""Two maps of a backbone joined into the one that a detector predicts from."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.convolutions import ConvBN

CHANNELS = 256


class JoinedMaps(keras.layers.Layer):
    """The map at stride 16 with that of stride 32 added, as one level of a feature pyramid (Lin et al. 2017).

    1 x 1 convolutions bring both to 256 channels; the deeper one is doubled bilinearly and cut to the
    other's size, the sum goes through ReLU and a 3 x 3 convolution. Each convolution has batch norm.

    Args:
        trunk: the backbone.
        folded: inference form; see ``ConvBN``.
    """

    def __init__(self, trunk: Backbone, *, folded: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.trunk = trunk
        fine, coarse = trunk.channels
        self.fine = ConvBN(fine, CHANNELS, activation=None, folded=folded, name="fine")
        self.coarse = ConvBN(coarse, CHANNELS, activation=None, folded=folded, name="coarse")
        self.smooth = ConvBN(CHANNELS, CHANNELS, 3, folded=folded, name="smooth")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, H, W, 3] to [B, H / 16, W / 16, 256], after ReLU."""
        fine, coarse = self.trunk(inputs, training=training)  # B x h x w, B x ceil(h/2) x ceil(w/2)
        fine, coarse = self.fine(fine, training=training), self.coarse(coarse, training=training)
        return self.smooth(tf.nn.relu(fine + doubled(coarse, tf.shape(fine))), training=training)

    def fold_from(self, source: JoinedMaps) -> None:
        """Takes over ``source``'s function in inference mode; this one is ``folded``."""
        self.trunk.fold_from(source.trunk)
        for name in ("fine", "coarse", "smooth"):
            getattr(self, name).fold_from(getattr(source, name))


def doubled(x: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """[B, h, w, C] to twice the height and width, bilinearly, without what reaches beyond ``shape`` [4].

    Where a map of odd size was halved, rounded up, one row or column is cut off.
    """
    size = 2 * tf.shape(x)[1:3]
    x = tf.cast(tf.image.resize(x, size), x.dtype)
    return tf.slice(x, [0, 0, 0, 0], shape)
