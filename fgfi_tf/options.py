"""How an option is declared, of a command or of what a command chooses by name. Imports no TensorFlow.

A command's options are the fields of a dataclass, made by :func:`option`. A detector, a dataset or an
augmentation policy declares its own as :class:`Option`; they are flags of a command where that one is chosen.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fgfi_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of something that is chosen by name; a flag of the same name sets it.

    Attributes:
        name: of the flag, and of the argument that is given its value.
        default: the value where the flag is not given: a bool, int, float or str, whose type is the flag's.
        text: what ``--help`` says of it.
        choices: all values there are; empty: any of the type.
        check: what is wrong with a value, such as "must be above 0"; "" where nothing is.
    """

    name: str
    default: bool | int | float | str
    text: str
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str] | None = None

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"an option cannot be called {self.name!r}")
        self.validate(self.default)

    @property
    def type(self) -> str:
        """``"bool"``, ``"int"``, ``"float"`` or ``"str"``."""
        return type(self.default).__name__

    def validate(self, value: Any) -> None:
        """Raises UserError, naming the flag, for a value that the option cannot have."""
        fault = self._fault(value)
        if fault:
            raise UserError(f"--{self.name}={value}: {fault}")

    def _fault(self, value: Any) -> str:
        number = self.type == "float" and isinstance(value, int) and not isinstance(value, bool)
        if not (number or type(value) is type(self.default)):
            return f"expected is a value of type {self.type}"
        if isinstance(value, float) and not math.isfinite(value):
            return "a finite number is expected"
        if self.choices and value not in self.choices:
            return did_you_mean(str(value), self.choices)
        return self.check(value) if self.check else ""


def fraction(value: float) -> str:
    """A check: at least 0 and below 1."""
    return "" if 0 <= value < 1 else "must be at least 0 and below 1"


def positive(value: float) -> str:
    """A check: above 0."""
    return "" if value > 0 else "must be above 0"


def not_negative(value: float) -> str:
    """A check: at least 0."""
    return "" if value >= 0 else "must be at least 0"


@dataclasses.dataclass(frozen=True)
class Chooses:
    """What a command's option chooses by name.

    Attributes:
        what: a word for it, such as "detector".
        names: all names that there are now.
        options: by name, its own options, which become flags.
        recipe: by name, values that the command's flags have where they are not given.
    """

    what: str
    names: Callable[[], Iterable[str]]
    options: Callable[[str], tuple[Option, ...]] = lambda name: ()
    recipe: Callable[[str], Mapping[str, Any]] = lambda name: {}


def option(
    default: Any,
    group: str,
    text: str,
    choices: Iterable[str] = (),
    chooses: Chooses | None = None,
) -> Any:
    """A field of a command's dataclass of options, which ``fgfi_tf.training.flags`` makes a flag of.

    Args:
        default: the value where the flag is not given.
        group: heading in ``--help``.
        text: what ``--help`` says of it.
        choices: all values there are; empty: any.
        chooses: where the value is a name in a registry: which one.
    """
    return dataclasses.field(
        default=default,
        metadata={"group": group, "help": text, "choices": tuple(choices), "chooses": chooses},
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'did you mean X?' for a near miss, else the list of what is known."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
