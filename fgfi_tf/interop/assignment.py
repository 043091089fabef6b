"""Checked assignment of other frameworks' weights to layers, whatever these are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tf_keras as keras

from fgfi_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Source:
    """The keys of a layer's kernel and bias in a file; ``convert``: from the file's layout to ours."""

    layer: keras.layers.Layer
    kernel: str
    bias: str
    convert: Callable[[np.ndarray], np.ndarray]


def assign(sources: Sequence[Source], arrays: Mapping[str, np.ndarray], path: object, what: str) -> None:
    """Fills the layers; nothing is changed unless every array is there, fits and is of finite numbers.

    Raises UserError for missing keys (all are named), a shape that does not fit, or numbers that are none.
    """
    missing = [key for source in sources for key in (source.kernel, source.bias) if key not in arrays]
    if missing:
        raise UserError(f"{path}: not {what}: it lacks {', '.join(missing)}")
    converted = []
    for source in sources:
        kernel = convert(arrays[source.kernel], source.convert)
        bias = arrays[source.bias]
        expected = [tuple(v.shape) for v in (source.layer.kernel, source.layer.bias)]
        if [kernel.shape, bias.shape] != expected:
            raise UserError(
                f"{path}: not {what}: {source.kernel} is {arrays[source.kernel].shape}, "
                f"its bias {bias.shape}: this does not fit {source.layer.name} {expected[0]}"
            )
        check_numbers({source.kernel: kernel, source.bias: bias}, path)
        converted.append((source.layer, [kernel.astype(np.float32), bias.astype(np.float32)]))
    for layer, weights in converted:
        layer.set_weights(weights)


def convert(array: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``function`` of an array, or the array itself where it is of another rank than the function's."""
    try:
        return function(array)
    except (ValueError, TypeError):
        return array


def check_numbers(arrays: Mapping[str, np.ndarray], path: object) -> None:
    """Raises UserError where a file's array holds no real numbers, or some that are not finite."""
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise UserError(f"{path}: damaged: {name} holds values that are no finite numbers")


def from_torch_convolution(kernel: np.ndarray) -> np.ndarray:
    """(out, in, kh, kw) to (kh, kw, in, out)."""
    return kernel.transpose(2, 3, 1, 0)


def from_torch_dense(kernel: np.ndarray) -> np.ndarray:
    """(out, in) to (in, out)."""
    return kernel.T


def from_torch_flattened(kernel: np.ndarray, size: int) -> np.ndarray:
    """(out, C size size), channels outermost, to (size size C, out): channels innermost, as NHWC flattens."""
    kernel = kernel.reshape(len(kernel), -1, size, size)
    return kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
