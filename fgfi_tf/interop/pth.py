"""PyTorch's weight files (``.pth``, ``.pt``) without PyTorch, in its old and its new format.

Old: five pickles one behind the other (a magic number, the protocol, the machine, the content, the storages'
keys), then each storage as an int64 count of elements and the elements, little-endian whatever the machine.
New (PyTorch 1.6 and later): a zip archive of ``<name>/data.pkl``, ``<name>/data/<key>`` for each storage, and
``<name>/byteorder``. The pickles are read as data (:mod:`fgfi_tf.interop.pth_pickle`): none can run code.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.interop import pth_pickle
from fgfi_tf.interop.pth_pickle import NotWeights
from fgfi_tf.interop.pth_tensors import StorageRef, TensorRef

_ZIP_START = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
# entries of a training checkpoint that hold the state dict
_ENTRIES = ("model", "state_dict")
_REASON = 200  # characters


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch file by name.

    A training checkpoint gives those under ``model`` (or ``state_dict``). ``module.`` in front of a name,
    which ``DataParallel`` puts there, is taken off; what is no tensor is left out. Arrays are read-only, and
    share memory where tensors share a storage. bfloat16 and float8, unknown to numpy, become float32.

    Raises UserError: the file is missing, damaged, no PyTorch file, holds more than weights and plain values
    (a whole model, for one), or no dictionary of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP_START)) == _ZIP_START
        return _read_zip(path) if is_zip else _read_old(path.read_bytes())
    except NotWeights as error:
        raise UserError(
            f"{path}: not a PyTorch file of weights alone: it holds {error}: save the model's state_dict()"
        ) from error
    except _NoWeights as error:
        raise UserError(f"{path}: holds {error}") from error
    except Exception as error:  # a damaged archive or pickle raises in its many ways, and may be quoted
        reason = first_line(error)[:_REASON]
        raise UserError(f"{path}: damaged or not a PyTorch file: {reason}") from error


class _NoWeights(ValueError):
    """A sound file without weights."""


def _read_old(content: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(content)
    if pth_pickle.load(stream)[0] != _MAGIC:
        raise ValueError("it does not begin with PyTorch's magic number")
    for _ in ("protocol", "machine"):
        pth_pickle.load(stream)
    value, storages = pth_pickle.load(stream)
    keys, _ = pth_pickle.load(stream)
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
        raise ValueError("its list of storages does not fit its tensors")
    view, positions = memoryview(content), {}
    for key in keys:
        storage = storages[key]
        size = storage.count * _dtype(storage.dtype).itemsize
        count = int.from_bytes(stream.read(8), "little")
        positions[key] = (stream.tell(), size)
        if count != storage.count or len(content) < stream.seek(size, io.SEEK_CUR):
            raise ValueError(f"storage {key} is cut short or of another size")
    return _arrays(value, lambda storage: view[(at := positions[storage.key])[0] : sum(at)], "little")


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        # PyTorch stores members as they are: nothing read can be larger than the file
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("a compressed archive, as PyTorch writes none")
        roots = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise ValueError("an archive without data.pkl")
        root = roots[0].removesuffix("data.pkl")
        named = root + "byteorder" in archive.namelist()
        order = archive.read(root + "byteorder").decode() if named else "little"
        if order not in ("little", "big"):
            raise ValueError(f"byte order {order[:20]!r}")
        value, _ = pth_pickle.load(io.BytesIO(archive.read(roots[0])))
        return _arrays(value, lambda storage: memoryview(archive.read(f"{root}data/{storage.key}")), order)


def _arrays(value: Any, read: Callable[[StorageRef], memoryview], order: str) -> dict[str, np.ndarray]:
    """The arrays of a file's content; a storage is read when a tensor needs it."""
    if isinstance(value, dict):
        value = next((value[key] for key in _ENTRIES if isinstance(value.get(key), dict)), value)
    if not isinstance(value, dict):
        raise _NoWeights(f"a {type(value).__name__}, not a dictionary of weights")
    tensors = {str(k).removeprefix("module."): v for k, v in value.items() if isinstance(v, TensorRef)}
    if not tensors:
        raise _NoWeights("no weights")
    storages: dict[tuple[str, str], np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        key = (tensor.storage.key, tensor.dtype)
        if key not in storages:
            storages[key] = _elements(tensor, read(tensor.storage), order)
        arrays[name] = _view(tensor, storages[key])
    return arrays


def _elements(tensor: TensorRef, content: memoryview, order: str) -> np.ndarray:
    """All of the tensor's storage, as elements of the tensor's dtype; [N]."""
    storage, dtype = tensor.storage, _dtype(tensor.dtype)
    if len(content) != storage.count * _dtype(storage.dtype).itemsize:
        raise ValueError(f"storage {storage.key} is of another size than its tensors say")
    widened = hasattr(ml_dtypes, tensor.dtype)
    bits = np.dtype(f"u{dtype.itemsize}") if widened or dtype.kind == "b" else dtype
    elements = np.frombuffer(content, bits)
    if order != sys.byteorder:
        elements = elements.byteswap()
    if widened:
        return elements.view(dtype).astype(np.float32)
    return elements.astype(dtype)  # a copy in any case: old files lay storages at odd addresses


def _view(tensor: TensorRef, elements: np.ndarray) -> np.ndarray:
    start = tensor.storage.start + tensor.offset
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, elements.dtype)
    if start + last >= len(elements):
        raise ValueError("a tensor that goes beyond its storage")
    strides = [stride * elements.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(elements[start:], tensor.shape, strides, writeable=False)


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))
