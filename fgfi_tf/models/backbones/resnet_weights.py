"""Weights of other programs into ResNets: torchvision's and MSRA's (.pth), keras.applications' (.h5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.interop import assignment, weight_files
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.models import pixels
from fgfi_tf.models.backbones import pretrained
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.declaration import IMAGENET

if TYPE_CHECKING:
    from fgfi_tf.models.backbones.resnet import Layout, NormConv

#: A key of a file -> the variable that it fills, and the change from the file's layout to ours.
Targets = dict[str, tuple[tf.Variable, Callable[[np.ndarray], np.ndarray]]]
# torchvision's own file names, such as resnet50-0676ba61.pth
_TORCHVISION_NAME = re.compile(r"resnet\d+-[0-9a-f]{8}")
_KERAS = {"resnet50": "ResNet50", "resnet101": "ResNet101"}
_KERAS_EPSILON = 1.001e-5
# Batches that a batch norm has seen; the classifier.
_IGNORED = re.compile(r"\.num_batches_tracked$|^fc\.")


def same(array: np.ndarray) -> np.ndarray:
    """The array as it is."""
    return array


def targets_of(convolutions: Mapping[str, NormConv], key: Callable[[str], str] = str) -> Targets:
    """The variables of convolutions by torchvision's names, which ``key`` may change to a file's."""
    found: Targets = {}
    for name, conv in convolutions.items():
        norm, kernel = key(norm_name(name)), key(name)
        found[f"{kernel}.weight"] = (conv.kernel, assignment.from_torch_convolution)
        for part, variable in (
            ("weight", conv.norm.gamma),
            ("bias", conv.norm.beta),
            ("running_mean", conv.norm.moving_mean),
            ("running_var", conv.norm.moving_variance),
        ):
            found[f"{norm}.{part}"] = (variable, same)
    return found


def norm_name(convolution: str) -> str:
    """torchvision's name of the batch norm behind a convolution."""
    if convolution.endswith("downsample.0"):
        return convolution[:-1] + "1"
    return convolution.replace("conv", "bn")


def fill(
    targets: Targets,
    arrays: Mapping[str, np.ndarray],
    path: object,
    what: str,
    ignored: Callable[[str], object] = _IGNORED.search,
) -> None:
    """Fills variables from a file; nothing is changed unless all is there, fits and is of finite numbers.

    Args:
        targets: see ``Targets``.
        arrays: of the file.
        path: of it, and
        what: what it should be of, for messages.
        ignored: tells keys that need no place here.

    Raises:
        UserError: keys that are missing, or have no place (they are named); shapes that do not fit.
    """
    if missing := [key for key in targets if key not in arrays]:
        raise UserError(f"{path}: not {what}: it lacks {_listed(missing)}")
    if others := [key for key in arrays if key not in targets and not ignored(key)]:
        raise UserError(f"{path}: not {what}: it also holds {_listed(others)}")
    values = {}
    for key, (variable, change) in targets.items():
        values[key] = assignment.convert(arrays[key], change)
        if values[key].shape != tuple(variable.shape):
            raise UserError(
                f"{path}: not {what}: {key} is {arrays[key].shape}, as {values[key].shape} it does not fit "
                f"{tuple(variable.shape)}"
            )
    assignment.check_numbers(values, path)
    for key, (variable, _) in targets.items():
        variable.assign(values[key].astype(np.float32))


def _listed(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")


def load(
    convolutions: Mapping[str, NormConv],
    path: Path | str,
    kind: str | Layout,
    style: str,
    trained_on: str = "auto",
) -> None:
    """A classifier's weights.

    Args:
        convolutions: to fill, by torchvision's names; of the whole trunk, or of its first stages.
        path: a ``.pth`` of torchvision's names, the ``.h5`` of keras.applications without its classifier, or
            ``"imagenet"``: Keras's download of that.
        kind: the network, a key of ``resnet.LAYOUTS``.
        style: of the network, a key of ``resnet.STYLES``.
        trained_on: that of a ``.pth``; ``"auto"``: by its name.

    Raises:
        UserError: the file is missing, damaged, of another network or of the other style.
    """
    what = f"an ImageNet {kind}"
    if str(path) == IMAGENET or weight_files.is_h5(path):
        if kind not in _KERAS:
            raise UserError(f"{path}: keras.applications has {', '.join(_KERAS)} only, not {kind}")
        check_style(path, "caffe", style)
        _load_keras(convolutions, str(path), str(kind))
        return
    arrays = read_pth(path)
    if trained_on == "auto":
        trained_on = _style_of(Path(path))
    check_style(path, trained_on, style)
    # A detector may have its first stages alone.
    stages = {name.split(".")[0] for name in convolutions}
    unused = {f"layer{number}" for number in range(1, 5)} - stages
    targets = targets_of(convolutions)
    fill(targets, arrays, path, what, lambda key: _IGNORED.search(key) or key.split(".")[0] in unused)


def check_style(path: Path | str, found: str, style: str) -> None:
    """Raises UserError where weights of one style are for a network of the other."""
    if found != style:
        where = {"torchvision": "3 x 3 convolutions", "caffe": "first 1 x 1 convolutions"}[found]
        raise UserError(
            f"{path}: weights of {found}'s ResNet, with strides in the {where} and pixels of its own; this "
            f"network is {style}'s: give weights of that, or, where the detector has the flag, pass "
            f"--resnet_style={found}"
        )


def _style_of(path: Path) -> str:
    name = path.name.lower()
    if "caffe" in name or "msra" in name:
        return "caffe"
    if _TORCHVISION_NAME.match(name):
        return "torchvision"
    raise UserError(
        f"{path}: an ImageNet file whose name does not say on which pixels it was trained: pass "
        "--init_pixels=caffe or --init_pixels=torchvision"
    )


def _load_keras(convolutions: Mapping[str, NormConv], weights: str, kind: str) -> None:
    """From a ResNet of keras.applications, whose convolutions have biases and whose pixels other means."""
    function = getattr(keras.applications, _KERAS[kind])
    source = pretrained.keras_source(
        _KERAS[kind], lambda given: function(include_top=False, weights=given), weights
    )
    arrays: dict[str, np.ndarray] = {}
    for name in convolutions:
        kernel, bias = source.get_layer(keras_name(name, "conv")).get_weights()
        gamma, beta, mean, variance = source.get_layer(keras_name(name, "bn")).get_weights()
        if name == "conv1":  # BGR pixels of ours are a little brighter or darker than Keras's
            difference = np.array(VGG.pixels.mean) - np.array(pixels.CAFFE.mean)
            bias = bias + np.einsum("hwio,i->o", kernel.astype(np.float64), difference[::-1])
        arrays[f"{name}.weight"] = kernel
        norm = norm_name(name)
        arrays |= {f"{norm}.weight": gamma, f"{norm}.bias": beta, f"{norm}.running_mean": mean - bias}
        arrays[f"{norm}.running_var"] = variance + (_KERAS_EPSILON - 1e-5)
    targets = {key: (variable, same) for key, (variable, _) in targets_of(convolutions).items()}
    fill(targets, arrays, weights, f"a keras.applications {kind}")


def keras_name(name: str, part: str) -> str:
    """The layer of keras.applications for a convolution of torchvision's name, or (``"bn"``) its norm."""
    if name == "conv1":
        return f"conv1_{part}"
    stage, block, *rest = name.split(".")
    number = 0 if rest[0] == "downsample" else rest[0].removeprefix("conv")
    return f"conv{int(stage.removeprefix('layer')) + 1}_block{int(block) + 1}_{number}_{part}"
