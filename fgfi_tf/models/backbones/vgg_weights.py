"""Weights of ImageNet classifiers into VGG's convolutions: of PyTorch (.pth) and keras.applications (.h5)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.interop import assignment
from fgfi_tf.interop.assignment import Source
from fgfi_tf.models.backbones.vgg import LAYOUTS, VGG
from fgfi_tf.models.pixels import NORMALIZED, Pixels

#: What ``--init_pixels`` says of a .pth file.
PIXELS: dict[str, Pixels] = {"caffe": VGG.pixels, "torchvision": NORMALIZED}
# torchvision's own file names, such as vgg16-397923af.pth
_TORCHVISION_NAME = re.compile(r"vgg\d+(_bn)?-[0-9a-f]{8}")


def pixels_by_name(path: Path) -> str:
    """A key of ``PIXELS``, by the name of the file. Raises UserError where it does not tell."""
    if "caffe" in path.name.lower():
        return "caffe"
    if _TORCHVISION_NAME.match(path.name):
        return "torchvision"
    raise UserError(
        f"{path}: an ImageNet file whose name does not say on which pixels it was trained: pass "
        "--init_pixels=caffe or --init_pixels=torchvision"
    )


def torch_sources(vgg: VGG, prefix: str) -> list[Source]:
    """Keys of the convolutions: they count modules, two (with its ReLU) a convolution, one a pool."""
    sources, index, layers = [], 0, iter(vgg.convolutions)
    for stage in LAYOUTS[vgg.kind].stages:
        for _ in stage:
            name = f"{prefix}{index}"
            convert = assignment.from_torch_convolution
            sources.append(Source(next(layers), f"{name}.weight", f"{name}.bias", convert))
            index += 2
        index += 1
    return sources


def keras_sources(vgg: VGG) -> list[Source]:
    """Keys of the convolutions in keras.applications."""
    names = [
        f"block{stage}_conv{index}"
        for stage, layers in enumerate(LAYOUTS[vgg.kind].stages, start=1)
        for index in range(1, len(layers) + 1)
    ]
    return [
        Source(layer, f"{name}/kernel", f"{name}/bias", lambda kernel: kernel)
        for name, layer in zip(names, vgg.convolutions, strict=True)
    ]


def fold_pixels(vgg: VGG, trained: Pixels, given: Pixels) -> None:
    """Makes the first convolution, trained on the one kind of pixels, take the other.

    Exact but for the one-pixel border: zero padding stands for a slightly other colour before and after.
    """
    layer = vgg.convolutions[0]
    kernel, bias = layer.get_weights()  # 3 x 3 x 3 x C
    if trained.bgr:
        kernel = kernel[:, :, ::-1]
    # RGB from here: trained = given * scale + shift
    scale = np.array(given.std) / np.array(trained.std)
    shift = (np.array(given.mean) - np.array(trained.mean)) / np.array(trained.std)
    bias = bias + np.einsum("hwio,i->o", kernel.astype(np.float64), shift)
    kernel = kernel * scale[None, None, :, None]
    layer.set_weights([kernel[:, :, ::-1] if given.bgr else kernel, bias])
