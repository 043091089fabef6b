"""Weights of ImageNet classifiers into VGG's convolutions: of PyTorch (.pth) and keras.applications (.h5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.interop import assignment, weight_files
from fgfi_tf.interop.assignment import Source
from fgfi_tf.interop.h5 import read_h5
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.models.backbones import pretrained
from fgfi_tf.models.declaration import IMAGENET
from fgfi_tf.models.pixels import CAFFE, FAST_RCNN, NORMALIZED, Pixels

if TYPE_CHECKING:
    from fgfi_tf.models.backbones.vgg import VGG

#: What ``--init_pixels`` says of a .pth file.
PIXELS: dict[str, Pixels] = {"caffe": FAST_RCNN, "torchvision": NORMALIZED}
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
    sources, index, convert = [], 0, assignment.from_torch_convolution
    for stage in vgg.stages:
        for layer in stage:
            name = f"{prefix}{index}"
            sources.append(Source(layer, f"{name}.weight", f"{name}.bias", convert))
            index += 2
        index += 1
    return sources


def keras_sources(vgg: VGG) -> list[Source]:
    """Keys of the convolutions in keras.applications."""
    return [
        Source(
            layer, f"block{stage}_conv{index}/kernel", f"block{stage}_conv{index}/bias", lambda kernel: kernel
        )
        for stage, layers in enumerate(vgg.stages, start=1)
        for index, layer in enumerate(layers, start=1)
    ]


def check_width(width: float, path: Path | str) -> None:
    """Raises UserError where a network of another width is given a file, which are all of full width."""
    if width != 1 and (str(path) == IMAGENET or Path(path).is_file()):
        raise UserError(f"{path}: holds a network of full width; --width={width:g} cannot start from it")


def check_keras(kind: str, path: Path | str) -> None:
    """Raises UserError where keras.applications has no such VGG."""
    if kind != "vgg16":
        raise UserError(f"{path}: keras.applications has VGG16 only, not {kind}")


def load(vgg: VGG, path: Path | str, pixels: str = "auto") -> None:
    """A classifier's convolutions, for the pixels that the network is given.

    Args:
        vgg: to fill.
        path: a ``.pth`` with torchvision's keys, an ``.h5`` of keras.applications, or ``"imagenet"``: Keras's
            download of that.
        pixels: on which a ``.pth`` was trained, a key of ``PIXELS``; ``"auto"``: by its name.

    Raises:
        UserError: the file is missing, damaged or of another network, or its name does not tell the pixels;
            the network is not of full width. Nothing is changed then.
    """
    check_width(vgg.width, path)
    if str(path) == IMAGENET or weight_files.is_h5(path):
        check_keras(vgg.kind, path)
        arrays = _downloaded() if str(path) == IMAGENET else read_h5(Path(path))
        sources, trained = keras_sources(vgg), CAFFE
    else:
        arrays, sources = read_pth(path), torch_sources(vgg, "features.")
        trained = PIXELS[pixels_by_name(Path(path)) if pixels == "auto" else pixels]
    assignment.assign(sources, arrays, path, f"an ImageNet {vgg.kind}")
    fold_pixels(vgg, trained, vgg.pixels)


def _downloaded() -> Mapping[str, np.ndarray]:
    """keras.applications' VGG16 by the keys of its files."""
    vgg16 = keras.applications.VGG16
    source = pretrained.keras_source(
        "VGG16", lambda weights: vgg16(include_top=False, weights=weights), IMAGENET
    )
    return {
        f"{layer.name}/{part}": array
        for layer in source.layers
        for part, array in zip(("kernel", "bias"), layer.get_weights(), strict=False)
    }


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
