"""Feature pyramid networks on any backbone (Lin et al. 2017)."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.convolutions import Conv3x3


class FPN(Backbone):
    """A backbone's maps brought to one number of channels, each with the coarser ones added.

    A 1 x 1 convolution on each map; the coarser sum, each of its values repeated 2 x 2, is added; a 3 x 3
    convolution follows. They have biases, no batch norm and no activation. Maps may have odd sizes: the
    coarser one is then half as large, rounded up.

    Args:
        trunk: the backbone; its strides double from map to map.
        channels: of every map.
        outputs: so many of the finest maps are given; all where None.
        pooled: whether one more map follows, every second position of the coarsest.
        stored_statistics: the trunk's batch norm normalises by its moving statistics while training too.
        name: as in Keras.
    """

    def __init__(
        self,
        trunk: Backbone,
        channels: int = 256,
        *,
        outputs: int | None = None,
        pooled: bool = True,
        stored_statistics: bool = False,
        name: str = "fpn",
    ):
        super().__init__(name=name)
        self.trunk, self.pooled, self.stored_statistics = trunk, pooled, stored_statistics
        self.pixels, self.probe_size = trunk.pixels, trunk.probe_size
        strides = trunk.strides[:outputs]
        self.strides = (*strides, 2 * strides[-1]) if pooled else strides
        self.channels = (channels,) * len(self.strides)

        def uniform() -> keras.initializers.Initializer:
            return keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")

        self.inner = [
            keras.layers.Conv2D(channels, 1, kernel_initializer=uniform(), name=f"inner{stride}")
            for stride in trunk.strides
        ]
        self.outer = [
            Conv3x3(channels, kernel_initializer=uniform(), name=f"outer{stride}") for stride in strides
        ]

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """Preprocessed images [B,H,W,3] to a map [B,h,w,channels] for each of ``strides``."""
        maps = self.trunk(inputs, training=training and not self.stored_statistics)
        sums = [inner(level) for inner, level in zip(self.inner, maps, strict=True)]
        for index in reversed(range(len(sums) - 1)):
            sums[index] += repeated(sums[index + 1], tf.shape(sums[index]))
        found = [outer(level) for outer, level in zip(self.outer, sums, strict=False)]
        if self.pooled:
            found.append(found[-1][:, ::2, ::2])
        return tuple(found)

    def fold_from(self, source: FPN) -> None:
        """Takes over ``source``'s function in inference mode; the trunk of this one is ``folded``."""
        self.trunk.fold_from(source.trunk)
        for mine, other in zip((*self.inner, *self.outer), (*source.inner, *source.outer), strict=True):
            mine.set_weights(other.get_weights())


def repeated(x: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """[B,h,w,C] with each value repeated 2 x 2, without what reaches beyond ``shape`` [4]."""
    batch, height, width = tf.unstack(tf.shape(x)[:3])
    channels = x.shape[-1]
    x = tf.tile(x[:, :, None, :, None], [1, 1, 2, 1, 2, 1])  # B x h x 2 x w x 2 x C
    x = tf.reshape(x, [batch, 2 * height, 2 * width, channels])
    return x[:, : shape[1], : shape[2]]
