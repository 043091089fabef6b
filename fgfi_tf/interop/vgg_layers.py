"""VGG Faster R-CNN layers by name, and checked assignment of other frameworks' weights to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.faster_rcnn import FasterRCNN
from fgfi_tf.models.faster_rcnn.model import POOLED_SIZE

RGB_MEANS = np.array(VGG.pixels.mean)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a layer's weights are in a file.

    Attributes:
        layer: the Keras layer to fill.
        kernel: key of the kernel; ``bias`` that of the bias.
        convert: from the file's layout to ours.
    """

    layer: keras.layers.Layer
    kernel: str
    bias: str
    convert: Callable[[np.ndarray], np.ndarray]


def assign(sources: Sequence[Source], arrays: Mapping[str, np.ndarray], path: object, what: str) -> None:
    """Fills the layers; nothing is changed unless every array is there, fits and is of finite numbers.

    Raises:
        UserError: missing keys (all are named), a shape that does not fit, or numbers that are none.
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


def from_torch_fc6(kernel: np.ndarray) -> np.ndarray:
    """(out, C 7 7), channels outermost, to (7 7 C, out), channels innermost as an NHWC map is flattened."""
    kernel = kernel.reshape(len(kernel), -1, POOLED_SIZE, POOLED_SIZE)
    return kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))


def fold_preprocessing(detector: FasterRCNN, scale: np.ndarray, shift: np.ndarray) -> None:
    """Makes the first convolution, trained on ``x * scale + shift``, take our preprocessed pixels x.

    ``scale`` and ``shift`` are [3], in BGR. Exact but for the one-pixel border: zero padding stands for a
    slightly other colour before and after.
    """
    layer = detector.base.convolutions[0]
    kernel, bias = layer.get_weights()  # 3 x 3 x 3 x C
    bias = bias + np.einsum("hwio,i->o", kernel.astype(np.float64), shift)
    layer.set_weights([kernel * scale[None, None, :, None], bias])


def box_layers(detector: FasterRCNN) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """fc6 and fc7."""
    return detector.head.fc6, detector.head.fc7
