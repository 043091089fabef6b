"""ResNet-18, 34, 50 and 101 of any width, in both stride conventions (He et al. 2016)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models import pixels
from fgfi_tf.models.backbones import resnet_weights
from fgfi_tf.models.backbones.backbone import Backbone
from fgfi_tf.models.backbones.norm_conv import FROZEN, SYNCHRONISED, NormConv, padded
from fgfi_tf.models.backbones.vgg import PIXEL_DEVIATION, VGG, scaled

STEM_CHANNELS = 64


@dataclasses.dataclass(frozen=True)
class Layout:
    """Blocks of each stage, and whether they are bottlenecks, four times as wide outside as inside."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True

    @property
    def expansion(self) -> int:
        """Channels outside a block by those inside."""
        return 4 if self.bottleneck else 1


LAYOUTS = {
    "resnet18": Layout((2, 2, 2, 2), bottleneck=False),
    "resnet34": Layout((3, 4, 6, 3), bottleneck=False),
    "resnet50": Layout((3, 4, 6, 3)),
    "resnet101": Layout((3, 4, 23, 3)),
}


@dataclasses.dataclass(frozen=True)
class Style:
    """Whose ResNets: where a bottleneck has its stride, and what pixels the weights were trained on."""

    stride_in_3x3: bool
    pixels: pixels.Pixels


#: torchvision's; and those of the paper's authors (MSRA, Caffe), which keras.applications and the 2019 code
#: have.
STYLES = {"torchvision": Style(True, pixels.NORMALIZED), "caffe": Style(False, VGG.pixels)}


class Block(keras.layers.Layer):
    """A residual block: its convolutions, the input added to them, and a ReLU.

    Args:
        in_channels, channels: C_in, and those inside; the output has ``expansion`` times these.
        strides: of the block.
        layout: see :class:`Layout`.
        stride_in_3x3: where a bottleneck has its stride; else in its first convolution.
        branch_gain: see ``NormConv.gain``, of the last convolution.
        options: ``norm`` and ``folded`` of ``NormConv``.
        name: as in Keras.
    """

    def __init__(
        self, in_channels, channels, strides, layout, stride_in_3x3, branch_gain, *, name=None, **options
    ):
        super().__init__(name=name)
        outer = channels * layout.expansion
        shapes = [(in_channels, channels, 3, strides), (channels, channels, 3, 1)]
        if layout.bottleneck:
            first, second = (1, strides) if stride_in_3x3 else (strides, 1)
            shapes = [(in_channels, channels, 1, first), (channels, channels, 3, second)]
            shapes.append((channels, outer, 1, 1))
        last = len(shapes) - 1
        self.convs = [
            NormConv(
                *shape,
                activation=index < last,
                gain=branch_gain if index == last else 2.0,
                name=f"conv{index + 1}",
                **options,
            )
            for index, shape in enumerate(shapes)
        ]
        self.shortcut = None
        if strides > 1 or in_channels != outer:
            self.shortcut = NormConv(
                in_channels, outer, 1, strides, activation=False, gain=1.0, name="shortcut", **options
            )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B,h,w,C_in] to [B,ceil(h / strides),ceil(w / strides),C_out]."""
        x = inputs
        for conv in self.convs:
            x = conv(x, training=training)
        shortcut = inputs if self.shortcut is None else self.shortcut(inputs, training=training)
        return tf.nn.relu(x + shortcut)


class Stage(keras.layers.Layer):
    """The blocks of one stage, which halves its input but for stage 2.

    Args:
        number: 2 to 5, as in C2 to C5.
        layout: a key of ``LAYOUTS``, or a layout.
        width: factor on every channel count.
        style: a key of ``STYLES``.
        options: ``norm`` and ``folded`` of ``NormConv``.
        name: as in Keras.
    """

    def __init__(
        self,
        number: int,
        layout: str | Layout,
        width: float = 1.0,
        style: str = "torchvision",
        *,
        name: str | None = None,
        **options,
    ):
        super().__init__(name=name or f"res{number}")
        self.number, layout = number, LAYOUTS[layout] if isinstance(layout, str) else layout
        channels = scaled(STEM_CHANNELS * 2 ** (number - 2), width)
        before = scaled(STEM_CHANNELS * 2 ** (number - 3), width) * layout.expansion
        before = scaled(STEM_CHANNELS, width) if number == 2 else before
        self.channels = channels * layout.expansion
        self.in_channels = before
        # Where nothing normalises yet, the sum over a network's blocks is to stay of the size of its input.
        gain = 2.0 / sum(layout.blocks)
        self.blocks = []
        for index in range(layout.blocks[number - 2]):
            strides = 2 if index == 0 and number > 2 else 1
            self.blocks.append(
                Block(
                    before,
                    channels,
                    strides,
                    layout,
                    STYLES[style].stride_in_3x3,
                    gain,
                    name=f"block{index}",
                    **options,
                )
            )
            before = self.channels

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B,h,w,C_in] to [B,h',w',C]; h' is h, or its half rounded up from stage 3 on."""
        for block in self.blocks:
            inputs = block(inputs, training=training)
        return inputs

    def convolutions(self) -> dict[str, NormConv]:
        """Its convolutions by torchvision's names, such as ``layer1.0.conv2`` of stage 2."""
        found = {}
        for index, block in enumerate(self.blocks):
            prefix = f"layer{self.number - 1}.{index}"
            found |= {f"{prefix}.{conv.name}": conv for conv in block.convs}
            if block.shortcut is not None:
                found[f"{prefix}.downsample.0"] = block.shortcut
        return found


class ResNet(Backbone):
    """A ResNet up to one of its stages. Takes inputs of any size; a map of stride s has ceil(H / s) rows.

    Args:
        kind: a key of ``LAYOUTS``, or a layout.
        input_size: of no account, see :class:`Backbone`.
        width: factor on every channel count, the stem's too.
        taps: the stages, 2 to 5, whose outputs are the maps (C2 to C5); ascending.
        style: a key of ``STYLES``.
        norm: see :class:`NormConv`.
        frozen_stages: never trained are so many of stem, stage 2, stage 3 ...; their batch norm is frozen.
        folded: see :class:`Backbone`.
        name: as in Keras.
    """

    def __init__(
        self,
        kind: str | Layout,
        input_size: tuple[int, int] | None = None,
        *,
        width: float = 1.0,
        taps: Sequence[int] = (4, 5),
        style: str = "torchvision",
        norm: str = SYNCHRONISED,
        frozen_stages: int = 0,
        folded: bool = False,
        name: str = "resnet",
    ):
        super().__init__(name=name)
        self.kind, self.taps, self.style = kind, tuple(taps), style
        self.pixels = STYLES[style].pixels
        deviation = 1.0 if self.pixels.std != (1.0,) * 3 else PIXEL_DEVIATION

        def norm_of(part: int) -> dict[str, object]:
            return {"norm": FROZEN if part < frozen_stages else norm, "folded": folded}

        self.stem = NormConv(
            3, scaled(STEM_CHANNELS, width), 7, 2, gain=2.0 / deviation**2, name="stem", **norm_of(0)
        )
        self.stages = [
            Stage(number, kind, width, style, **norm_of(number - 1)) for number in range(2, taps[-1] + 1)
        ]
        for part in [self.stem, *self.stages][:frozen_stages]:
            part.trainable = False
        self.strides = tuple(2**tap for tap in taps)
        self.channels = tuple(self.stages[tap - 2].channels for tap in taps)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, ...]:
        """Preprocessed images [B,H,W,3] to a map [B,h,w,C] for each of ``strides``."""
        x, maps = self.stem(inputs, training=training), []
        # Nothing is below 0 behind a ReLU: padding with zeros is padding with nothing.
        x = tf.nn.max_pool2d(padded(x, 1), 3, 2, "VALID")
        for stage in self.stages:
            x = stage(x, training=training)
            if stage.number in self.taps:
                maps.append(x)
        return tuple(maps)

    def convolutions(self) -> dict[str, NormConv]:
        """Every convolution by torchvision's name, such as ``conv1`` or ``layer1.0.downsample.0``."""
        found = {"conv1": self.stem}
        for stage in self.stages:
            found |= stage.convolutions()
        return found

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> None:
        """Loads a classifier's weights; see ``resnet_weights.load``."""
        resnet_weights.load(self.convolutions(), path, self.kind, self.style, pixels)

    def fold_from(self, source: ResNet) -> None:
        """Takes over ``source``'s function in inference mode; this one is ``folded``."""
        fold(self.convolutions(), source.convolutions())


def fold(targets: dict[str, NormConv], sources: dict[str, NormConv]) -> None:
    """Takes over the function of the convolutions of the same names."""
    for name, target in targets.items():
        target.fold_from(sources[name])
