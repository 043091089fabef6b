"""Darknet's ``.weights`` files: read into a YOLOv2 network or its trunk, and written.

The file holds three int32 (major, minor, revision), the number of images seen (8 bytes from version 0.2 on, 4
before), and float32 values without names or shapes: for each convolution of the cfg file its bias (with batch
norm beta, gamma, running mean and running variance) and its kernel as [out, in, rows, columns].
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError

SUFFIX = ".weights"
_TRUNK = re.compile(r".*\.conv\.\d+")  # what ``darknet partial`` writes: darknet19_448.conv.23
_VERSION_BYTES = 12
_TRANSPOSED = 1000  # major or minor above: dense layers transposed, from the first years of Darknet


class Convolution(Protocol):
    """A convolution without bias, with batch norm, such as ``fgfi_tf.models.convolutions.ConvBN``."""

    kernel: tf.Variable
    norm: keras.layers.Layer


def is_darknet(path: str | os.PathLike[str]) -> bool:
    """Whether a path's name is that of a Darknet weight file."""
    name = Path(path).name
    return name.endswith(SUFFIX) or _TRUNK.fullmatch(name) is not None


def read_header(data: bytes, path: str | os.PathLike[str]) -> tuple[int, int]:
    """(images seen, bytes of the header). Raises UserError for what is no file of this kind."""
    if len(data) < _VERSION_BYTES + 4:
        raise UserError(f"{path}: is too short for a Darknet weight file")
    major, minor, _ = np.frombuffer(data, "<i4", 3).tolist()
    if not (0 <= major and 0 <= minor):
        raise UserError(f"{path}: is no Darknet weight file (version {major}.{minor})")
    if major > _TRANSPOSED or minor > _TRANSPOSED:
        raise UserError(f"{path}: version {major}.{minor} has transposed layers, which are not read")
    wide = major * 10 + minor >= 2
    size = _VERSION_BYTES + (8 if wide else 4)
    if len(data) < size:
        raise UserError(f"{path}: is too short for a Darknet weight file")
    return int(np.frombuffer(data, "<i8" if wide else "<i4", 1, _VERSION_BYTES)[0]), size


def load_weights(
    path: str | os.PathLike[str],
    convolutions: Sequence[Convolution],
    predict: keras.layers.Layer | None = None,
) -> int:
    """Reads a file into layers that are built, and returns the number of images seen.

    Args:
        path: the ``.weights`` file; of a trunk (``darknet19_448.conv.23``) without ``predict``.
        convolutions: in the order of the cfg file.
        predict: the last convolution, with a bias and without batch norm; None: there is none.

    Raises UserError: the file cannot be read, does not end exactly behind the last layer, or holds a value
    that is not finite; nothing is loaded then.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    seen, start = read_header(data, path)
    variables = _variables(convolutions, predict)
    ends = np.cumsum([variable.shape.num_elements() for variable in variables])
    if len(data) - start != 4 * ends[-1]:
        raise UserError(
            f"{path}: holds {(len(data) - start) / 4:.10g} values; this network has {ends[-1]} "
            "(another width, number of classes or anchors?)"
        )
    values = np.frombuffer(data, "<f4", offset=start)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: holds a value that is not finite")
    for variable, part in zip(variables, np.split(values, ends[:-1]), strict=True):
        if len(variable.shape) == 4:
            rows, columns, channels, filters = variable.shape
            part = part.reshape(filters, channels, rows, columns).transpose(2, 3, 1, 0)
        variable.assign(part)
    return seen


def save_weights(
    path: str | os.PathLike[str],
    convolutions: Sequence[Convolution],
    predict: keras.layers.Layer | None = None,
    images_seen: int = 0,
) -> None:
    """Writes a file of version 0.2, as Darknet itself does."""
    parts = [np.array([0, 2, 0], "<i4").tobytes(), np.array([images_seen], "<i8").tobytes()]
    for variable in _variables(convolutions, predict):
        value = variable.numpy().astype("<f4")
        parts.append((value.transpose(3, 2, 0, 1) if value.ndim == 4 else value).tobytes())
    Path(path).write_bytes(b"".join(parts))


def _variables(convolutions: Sequence[Convolution], predict: keras.layers.Layer | None) -> list[tf.Variable]:
    """In the order of the file."""
    found = []
    for conv in convolutions:
        norm = conv.norm
        found += [norm.beta, norm.gamma, norm.moving_mean, norm.moving_variance, conv.kernel]
    return found if predict is None else [*found, predict.bias, predict.kernel]
