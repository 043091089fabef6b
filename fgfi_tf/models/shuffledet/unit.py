"""The ShuffleNet unit."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.cpu_forms import int8
from fgfi_tf.models.cpu_forms.channels import first_channels, padded_channels


class ShuffleUnit(keras.layers.Layer):
    """A ShuffleNet (v1) unit.

    1 x 1 to C / 4, ReLU, channel shuffle, depthwise 3 x 3, 1 x 1 to C. With stride 1 the input is
    added, then ReLU (or, with ``shortcut=False``, ReLU alone); with stride 2 the averaged input
    is concatenated in front of ReLU of the convolutions, which then give the missing channels.

    Args:
        channels: C.
        strides: 1 or 2.
        groups: of (the first, the second) 1 x 1 convolution. The shuffle has 3 groups always.
        shortcut: see above.
        folded: see ``ConvBN``.
    """

    SHUFFLE_GROUPS = 3

    def __init__(
        self, channels, in_channels, *, strides=1, groups=(3, 3), shortcut=True, folded=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.strides, self.shortcut, self.in_channels = strides, shortcut, in_channels
        inner, expanded = channels // 4, channels - in_channels if strides == 2 else channels
        self.conv1 = ConvBN(
            in_channels,
            inner,
            groups=groups[0],
            shuffle_groups=self.SHUFFLE_GROUPS,
            folded=folded,
            name="conv1",
        )
        self.dconv = ConvBN(
            inner, inner, 3, strides, depthwise=True, activation=None, folded=folded, name="dconv"
        )
        self.conv2 = ConvBN(inner, expanded, groups=groups[1], activation=None, folded=folded, name="conv2")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, h, w, C_in or more] to [B, ceil(h / strides), ceil(w / strides), C or more]."""
        residual = self.conv2(
            self.dconv(self.conv1(inputs, training=training), training=training), training=training
        )
        if self.strides == 2:
            pooled = first_channels(int8.average_pool(inputs), self.in_channels)
            parts = [pooled, first_channels(tf.nn.relu(residual), self.conv2.filters)]
            if not self.conv2.folded:
                channels = self.in_channels + self.conv2.filters
                parts.append(tf.zeros_like(pooled[..., : padded_channels(channels) - channels]))
            return tf.concat(parts, axis=-1)
        return tf.nn.relu(inputs + residual if self.shortcut else residual)
