"""Writes .pth files opcode by opcode, as PyTorch lays them out, without PyTorch."""

import dataclasses
import struct
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view, in elements, of ``storage`` [N]; ``kind`` overrides the name of the storage's class."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Raw:
    """Opcodes that are put in as they are."""

    opcodes: bytes


def text(value):
    """A string."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value):
    """An integer of any size."""
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def name(dotted):
    """A global."""
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def items(*opcodes):
    """A tuple of what the opcodes give."""
    return b"(" + b"".join(opcodes) + b"t"


def pickled(opcodes):
    """A whole pickle, protocol 2."""
    return b"\x80\x02" + opcodes + b"."


class Writer:
    """Turns values into opcodes and collects the storages they refer to."""

    def __init__(self):
        self.storages = []

    def value(self, value):
        """Opcodes of a dictionary, list, tuple, array, Tensor, Raw or scalar."""
        if isinstance(value, Raw):
            return value.opcodes
        if isinstance(value, np.ndarray):
            strides = [stride // value.itemsize for stride in np.ascontiguousarray(value).strides]
            value = Tensor(np.ravel(value), 0, value.shape, tuple(strides[: value.ndim]))
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            pairs = [self.value(part) for pair in value.items() for part in pair]
            return b"}(" + b"".join(pairs) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.value, value)) + b"e"
        if isinstance(value, tuple):
            return items(*map(self.value, value))
        if isinstance(value, bool) or value is None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        return text(value) if isinstance(value, str) else integer(value)

    def _tensor(self, tensor):
        known = [storage is tensor.storage for storage in self.storages]
        key = known.index(True) if True in known else len(known)
        if key == len(known):
            self.storages.append(tensor.storage)
        kind = tensor.kind or f"torch.{STORAGES[tensor.storage.dtype.name]}"
        storage = (text("storage"), name(kind), text(str(key)), text("cpu"), integer(len(tensor.storage)))
        hooks = name("collections.OrderedDict") + b")R"
        view = (integer(tensor.offset), self.value(tensor.shape), self.value(tensor.strides))
        arguments = items(items(*storage) + b"Q", *view, b"\x89", hooks)
        return name("torch._utils._rebuild_tensor_v2") + arguments + b"R"


def save(content, path, zip_format=True, order="little"):
    """Writes ``content`` to ``path``; returns the path."""
    writer = Writer()
    opcodes = writer.value(content)
    data = [array.astype(array.dtype.newbyteorder(order)).tobytes() for array in writer.storages]
    if zip_format:
        with zipfile.ZipFile(path, "w") as archive:
            members = {"data.pkl": pickled(opcodes), "byteorder": order}
            members |= {f"data/{key}": storage for key, storage in enumerate(data)}
            for member, stored in members.items():
                archive.writestr(zipfile.ZipInfo(f"archive/{member}"), stored)  # of one date: always alike
        return path
    machine = writer.value({"protocol_version": 1001, "little_endian": order == "little"})
    keys = writer.value([str(key) for key in range(len(data))])
    heads = [pickled(part) for part in (integer(MAGIC), integer(1001), machine, opcodes, keys)]
    counted = zip(writer.storages, data, strict=True)
    bodies = [struct.pack("<q", len(array)) + storage for array, storage in counted]
    path.write_bytes(b"".join(heads + bodies))
    return path
