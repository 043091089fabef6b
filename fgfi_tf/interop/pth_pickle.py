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
        """One instruction."""
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _TUPLES:
            self._replace(_TUPLES[opcode], lambda *items: items)
        elif opcode in _CALLS:
            self._replace(2, self._call)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif opcode in _METHODS:
            _METHODS[opcode](self)
        elif opcode == "GLOBAL":
            self.stack.append(_name(argument.replace(" ", ".", 1)))
        elif opcode not in ("PROTO", "FRAME"):
            raise NotWeights(f"the pickle instruction {opcode}")

    def _replace(self, count: int, function) -> None:
        """The last ``count`` values make place for what ``function`` gives of them."""
        if len(self.stack) < count:
            raise ValueError("a pickle that takes more than it has")
        items = self.stack[-count:]
        self.stack[-count:] = [function(*items)]

    def _marked(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise NotWeights("a call of something that is no function")
        return _call(function.name, arguments)

    def _mark(self) -> None:
        self._marks.append(len(self.stack))

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _stack_global(self) -> None:
        self._replace(2, lambda module, name: _name(f"{module}.{name}"))

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items of something that is no list")
        self.stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise NotWeights(f"items of a {type(target).__name__}")
        target.update(_dictionary(list(zip(items[::2], items[1::2], strict=True))))

    def _build(self) -> None:
        """Attributes (``_metadata`` of a state dict, those of a parameter) are skipped."""
        self.stack.pop()
        if not isinstance(self.stack[-1], (OrderedDict, TensorRef)):
            raise NotWeights(f"attributes of a {type(self.stack[-1]).__name__}")

    def _persistent(self) -> None:
        storage = _storage(self.stack.pop())
        known = self.storages.setdefault(storage.key, storage)
        if (known.dtype, known.count) != (storage.dtype, storage.count):
            raise ValueError(f"storage {storage.key} has two sizes")
        self.stack.append(storage)


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,  # a set's items need a hash, which a hostile file makes endless; nothing looks at them
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CALLS = ("REDUCE", "NEWOBJ")
_METHODS = {
    "MARK": _Machine._mark,
    "POP": lambda machine: machine.stack.pop(),
    "POP_MARK": _Machine._marked,
    "MEMOIZE": _Machine._memoize,
    "TUPLE": lambda machine: machine.stack.append(tuple(machine._marked())),
    "LIST": lambda machine: machine.stack.append(machine._marked()),
    "FROZENSET": lambda machine: machine.stack.append(machine._marked()),
    "APPEND": _Machine._append,
    "APPENDS": lambda machine: machine._extend(machine._marked()),
    "ADDITEMS": lambda machine: machine._extend(machine._marked()),
    "SETITEM": lambda machine: machine._set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine: machine._set_items(machine._marked()),
    "STACK_GLOBAL": _Machine._stack_global,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
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
