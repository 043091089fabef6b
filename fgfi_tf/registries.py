"""What every registry is: things by name, to which anybody can add. Imports no TensorFlow."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from fgfi_tf.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        what: a word for one of them in messages, such as "dataset".
        wanted: what an entry must be, in words, where it is not; "" where it is; None: anything goes.

    Attributes:
        total: registrations so far, in all registries together.
    """

    total = 0

    def __init__(self, what: str, wanted: Callable[[Any], str] | None = None):
        self.what, self._wanted = what, wanted
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T, *, replace: bool = False) -> None:
        """Adds an entry. Raises UserError for one of a wrong kind, or a name that is taken."""
        if wanted := self._wanted(entry) if self._wanted else "":
            raise UserError(f"{self.what} {name!r}: {entry!r} is no {wanted}")
        if name in self._entries and not replace:
            raise UserError(
                f"there is a {self.what} {name!r} already: choose another name, or pass replace=True"
            )
        self._entries[name] = entry
        Registry.total += 1

    def unregister(self, name: str) -> None:
        """Removes an entry, for tests."""
        del self._entries[name]

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """The entry of a name. Raises UserError for an unknown one."""
        if name not in self._entries:
            raise UserError(f"unknown {self.what} {name!r}; known are {', '.join(self.names())}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def resolved(code: Any) -> Any:
    """What ``"module:name"`` names, its module imported; anything else as it is.

    Raises:
        UserError: there is no such module, or no such name in it.
    """
    if not isinstance(code, str):
        return code
    module, _, name = code.partition(":")
    try:
        found = _imported(module)
    except ModuleNotFoundError as error:
        if error.name != module and not module.startswith(f"{error.name}."):
            raise
        raise UserError(f"{code!r} is registered, and there is no module {error.name}") from error
    if not hasattr(found, name):
        raise UserError(f"{code!r} is registered, and {module} has no {name or 'name behind a colon'}")
    return getattr(found, name)


@functools.cache  # which AutoGraph leaves alone: it would warn of an import inside a tf.function
def _imported(module: str) -> Any:
    return importlib.import_module(module)
