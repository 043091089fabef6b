"""The pickles inside PyTorch files, read as data: no class is looked up, no function is called.

Opcodes come from ``pickletools``; the machine below knows the few that PyTorch writes (protocols 2 and up)
and the few names that a file of weights needs. A tensor becomes a :class:`TensorRef`, which says where its
numbers are; everything else is a plain Python value.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections import OrderedDict
from typing import Any, BinaryIO

from fgfi_tf.interop.pth_tensors import DTYPES, STORAGE_DTYPES, StorageRef, TensorRef

_TENSORS = {"torch._tensor.Tensor", "torch.Tensor"}
_PARAMETERS = {"torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
_BUILTINS = ("builtins", "__builtin__")  # of Python 3 and 2
_DICTIONARIES = {"collections.OrderedDict", *(f"{module}.dict" for module in _BUILTINS)}
# of an optimizer's or a schedule's state: kept as their arguments, which nothing looks at
_VALUES = {
    "_codecs.encode",
    "collections.Counter",
    "torch.Size",
    "torch.device",
    *(f"{module}.{name}" for module in _BUILTINS for name in ("bytearray", "complex", "set")),
}
_REBUILD = {
    f"torch._utils._rebuild_{name}"
    for name in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")
} | {"torch._tensor._rebuild_from_type_v2"}
_NAMES = (
    {f"torch.{name}" for name in DTYPES}
    | set(STORAGE_DTYPES)
    | _TENSORS
    | _PARAMETERS
    | _DICTIONARIES
    | _VALUES
    | _REBUILD
)
_SCALARS = (str, int, float, bool, bytes, type(None))


class NotWeights(ValueError):
    """A well-formed pickle holds something else than weights; the message says what."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names: never more than its name."""

    name: str


def load(stream: BinaryIO) -> tuple[Any, dict[str, StorageRef]]:
    """One pickle of ``stream``, which then stands behind it, and the storages that it refers to, by key.

    Raises:
        NotWeights: it holds something else than tensors and plain values.
        ValueError, LookupError, TypeError: it is damaged or no pickle.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            return machine.stack.pop(), machine.storages
        machine.step(opcode.name, argument)
    raise ValueError("a pickle without an end")


class _Machine:
    """The pickle machine: a stack with marks, and a memo."""

    def __init__(self):
        self.stack: list[Any] = []
        self.storages: dict[str, StorageRef] = {}
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """One instruction; those that take items from the stack are :meth:`_combine`'s."""
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            # a set's items need a hash, which a hostile file makes endless; nothing looks at them
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "GLOBAL":
                stack.append(_name(argument.replace(" ", ".", 1)))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "MARK":
                self._marks.append(len(stack))
            case _ if opcode in _LITERALS:
                stack.append(argument)
            case _:
                self._combine(opcode)

    def _combine(self, opcode: str) -> None:
        stack = self.stack
        match opcode:
            case "POP":
                self._last(1)
            case "POP_MARK":
                self._marked()
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(opcode[-1]))))
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "LIST" | "FROZENSET":
                stack.append(self._marked())
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = self._last(1) if opcode == "APPEND" else self._marked()
                if not isinstance(stack[-1], list):
                    raise ValueError("items of something that is no list")
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._last(2) if opcode == "SETITEM" else self._marked()
                if not isinstance(stack[-1], dict):
                    raise NotWeights(f"items of a {type(stack[-1]).__name__}")
                stack[-1].update(_dictionary(zip(items[::2], items[1::2], strict=True)))
            case "STACK_GLOBAL":
                module, name = self._last(2)
                stack.append(_name(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                function, arguments = self._last(2)
                if not isinstance(function, _Name) or not isinstance(arguments, tuple):
                    raise NotWeights("a call of something that is no function")
                stack.append(_call(function.name, arguments))
            case "BUILD":  # attributes (_metadata of a state dict, those of a parameter) are skipped
                self._last(1)
                if not isinstance(stack[-1], (OrderedDict, TensorRef)):
                    raise NotWeights(f"attributes of a {type(stack[-1]).__name__}")
            case "BINPERSID":
                storage = _storage(*self._last(1))
                known = self.storages.setdefault(storage.key, storage)
                if (known.dtype, known.count) != (storage.dtype, storage.count):
                    raise ValueError(f"storage {storage.key} has two sizes")
                stack.append(storage)
            case _:
                raise NotWeights(f"the pickle instruction {opcode}")

    def _last(self, count: int) -> list[Any]:
        """Takes the last ``count`` values off the stack."""
        if len(self.stack) < count:
            raise ValueError("a pickle that takes more than it has")
        return self._behind(len(self.stack) - count)

    def _marked(self) -> list[Any]:
        """Takes the values behind the last mark off the stack."""
        return self._behind(self._marks.pop())

    def _behind(self, start: int) -> list[Any]:
        items = self.stack[start:]
        del self.stack[start:]
        return items


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _name(name: str) -> _Name:
    if name not in _NAMES:
        raise NotWeights(name[:100])
    return _Name(name)


def _call(name: str, arguments: tuple) -> Any:
    """What PyTorch's function ``name`` would make of its arguments."""
    if name in _DICTIONARIES:
        return OrderedDict(_dictionary(arguments[0]) if arguments else ())
    if name in _VALUES:
        return arguments
    if name == "torch._tensor._rebuild_from_type_v2":  # function, type, its arguments, attributes
        function, kind, arguments = arguments[:3]
        if function.name not in _REBUILD or kind.name not in _TENSORS | _PARAMETERS:
            raise NotWeights(f"tensors of the type {kind.name}")
        if function.name == name:
            raise ValueError("a tensor rebuilt twice")
        return _call(function.name, arguments)
    if name.startswith("torch._utils._rebuild_tensor"):
        return _tensor(name, arguments)
    if name in _REBUILD or name in _PARAMETERS:
        if not isinstance(arguments[0], TensorRef):
            raise NotWeights("a parameter without a tensor")
        return arguments[0]
    raise NotWeights(f"a call of {name}")


def _dictionary(pairs: Any) -> dict[Any, Any]:
    """Keys are scalars or tuples of them: no deeper, for a hash goes to the bottom of it."""
    result = {}
    for key, value in pairs:
        for item in key if isinstance(key, tuple) else (key,):
            if not isinstance(item, _SCALARS):
                raise NotWeights(f"a {type(item).__name__} as the key of a dictionary")
        result[key] = value
    return result


def _storage(reference: Any) -> StorageRef:
    """Of ``("storage", type, key, device, count)`` and in old files ``(view key, start, size)`` or None."""
    kind, storage, key, _, count, *view = reference
    if kind != "storage" or not isinstance(storage, _Name) or storage.name not in STORAGE_DTYPES:
        raise NotWeights("a reference to something that is no storage")
    _, start, size = view[0] if view and view[0] is not None else ("", 0, count)
    return StorageRef(str(key), STORAGE_DTYPES[storage.name], count, start, size)


def _tensor(name: str, arguments: tuple) -> TensorRef:
    """Of ``_rebuild_tensor(storage, offset, shape, strides)``, or with more arguments: a version 2 or 3."""
    storage, offset, shape, strides = arguments[:4]
    dtype, metadata = storage.dtype, arguments[6:]
    if name.endswith("_v3"):  # the storage is bytes
        dtype, metadata = arguments[6].name.removeprefix("torch."), arguments[7:]
        if dtype not in DTYPES:
            raise NotWeights(f"tensors of {dtype}")
    if any(metadata):
        raise NotWeights("tensors whose conjugation is still to be done")
    return TensorRef(storage, dtype, offset, tuple(shape), tuple(strides))
