"""Where a PyTorch file keeps a tensor's numbers, checked as far as the file's pickle tells."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

# storages that say their element type; the others (float8, uint16 ...) are bytes, the tensor says the type
STORAGE_DTYPES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.ComplexFloatStorage": "complex64",
    "torch.storage.UntypedStorage": "uint8",
}
_FLOAT8 = [f"float8_{kind}" for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")]
DTYPES = frozenset([*STORAGE_DTYPES.values(), "uint16", "uint32", "uint64", *_FLOAT8])
# numpy 1 has arrays of 32 dimensions at most
MAX_DIMENSIONS = 32
# a stride of 0 repeats numbers: so much may a tensor be larger than what is stored of it
MAX_REPEATED = 2**20


@dataclasses.dataclass(frozen=True)
class StorageRef:
    """A storage of the file by its key there, of ``count`` elements of a dtype of :data:`DTYPES`.

    ``start`` and ``size`` are the part meant (PyTorch's oldest files have storages inside storages). Raises
    ValueError where the numbers are none, or the part is not in it.
    """

    key: str
    dtype: str
    count: int
    start: int
    size: int

    def __post_init__(self):
        _check_counts((self.count, self.start, self.size))
        if self.start + self.size > self.count:
            raise ValueError(f"storage {self.key} ends before its view")


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A view of a storage: ``offset``, ``shape`` and ``strides`` count elements of ``dtype``.

    Raises ValueError where the numbers are none, do not belong together, or say more than the file can hold.
    """

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        _check_counts((self.offset, *self.shape, *self.strides))
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {len(self.shape)} dimensions and {len(self.strides)} strides")
        if math.prod(self.shape) > self.storage.size + MAX_REPEATED:
            raise ValueError("a tensor that is larger than its storage")


def _check_counts(counts: tuple[Any, ...]) -> None:
    if any(type(count) is not int or not 0 <= count < 2**62 for count in counts):
        raise ValueError("a size that is no number")
