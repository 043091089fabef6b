"""How an option is declared, of a command or of what a command chooses by name. Imports no TensorFlow.

A command's options are the fields of a dataclass, made by :func:`option`. A detector, a dataset or an
augmentation policy declares its own as :class:`Option`; they are flags of a command where that one is chosen.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Literal

from fgfi_tf.errors import UserError

Check = Callable[[Any], str]  # what is wrong with a value, such as "must be above 0"; "" where nothing is
# The largest seed there is (numpy, Keras); no other whole number of ours means anything above it.
_MOST = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of something that is chosen by name; a flag of the same name sets it.

    Attributes:
        name: of the flag, and of the argument that is given its value.
        default: the value where the flag is not given: a bool, int, float or str, whose type is the flag's.
        text: what ``--help`` says of it.
        choices: all values there are; empty: any of the type.
        check: of a value, which has the right type and is finite.
        weights: what it means to begin from weights that were trained with another value, of the same
            shapes: ``"any"``, nothing; ``"told"``, they may have to adapt; ``"refused"``, they are useless.
    """

    name: str
    default: bool | int | float | str
    text: str
    choices: tuple[str, ...] = ()
    check: Check | None = None
    weights: Literal["any", "told", "refused"] = "any"

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
        fault = self.fault(value)
        if fault:
            raise UserError(f"--{self.name}={value}: {fault}")

    def fault(self, value: Any) -> str:
        """What is wrong with a value, "" where nothing is."""
        number = self.type == "float" and isinstance(value, int) and not isinstance(value, bool)
        if not (number or type(value) is type(self.default)):
            return f"expected is a value of type {self.type}"
        return _fault(value, self.choices, self.check)


def _fault(value: Any, choices: tuple[str, ...], check: Check | None) -> str:
    """What is wrong with a value of the right type, "" where nothing is."""
    if isinstance(value, int) and value > _MOST:
        return f"must be at most {_MOST}"
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number is expected"
    if choices and value not in choices:
        return did_you_mean(str(value), choices)
    return check(value) if check else ""


def at_least(least: int) -> Check:
    """A check: no less than this."""
    return lambda value: "" if value >= least else f"must be at least {least}"


def fraction(value: float) -> str:
    """A check: at least 0 and below 1."""
    return "" if 0 <= value < 1 else "must be at least 0 and below 1"


def inner_fraction(value: float) -> str:
    """A check: above 0 and below 1."""
    return "" if 0 < value < 1 else "must be above 0 and below 1"


def unit_interval(value: float) -> str:
    """A check: from 0 to 1, both included."""
    return "" if 0 <= value <= 1 else "must lie in [0, 1]"


def positive(value: float) -> str:
    """A check: above 0."""
    return "" if value > 0 else "must be above 0"


not_negative = at_least(0)


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
    text: str | Callable[[], str],
    choices: Iterable[str] = (),
    chooses: Chooses | None = None,
    check: Check | None = None,
) -> Any:
    """A field of a command's dataclass of options, which ``fgfi_tf.training.flags`` makes a flag of.

    Args:
        default: the value where the flag is not given.
        group: heading in ``--help``.
        text: what ``--help`` says of it, or what gives that, where it depends on registries.
        choices: all values there are; empty: any.
        chooses: where the value is a name in a registry: which one.
        check: of a value, where not all are good; :func:`check_values` asks it.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "group": group,
            "help": text,
            "choices": tuple(choices),
            "chooses": chooses,
            "check": check,
        },
    )


def options_in(group: str) -> Callable[..., Any]:
    """:func:`option` for the fields of one group: ``(default, text, choices=(), **about)``."""
    return lambda default, text, choices=(), **about: option(default, group, text, choices, **about)


def flag_fields(config: Any) -> list[dataclasses.Field]:
    """The fields of a command's options, or of their class, that are flags."""
    return [field for field in dataclasses.fields(config) if "group" in field.metadata]


def check_values(config: Any) -> None:
    """Raises UserError for the first of a command's options whose value, on its own, cannot work."""
    for field in flag_fields(config):
        value = getattr(config, field.name)
        if fault := _fault(value, field.metadata["choices"], field.metadata["check"]):
            raise UserError(f"--{field.name}={value}: {fault}")


class Chosen:
    """What a command has chosen by name, and the options and defaults that come with it.

    Args:
        config: the command's dataclass of options, or one of it. One without a field ``options``, which holds
            those of what is chosen, has only the names.
        value: a flag's name to its value; None or "" where it is not given.

    Attributes:
        names: flag -> what it chose.
        options: option -> it, of everything chosen; its default is that of a recipe where one sets it.
        defaults: flag -> its value where it is not given, of those that a recipe sets.

    Raises:
        UserError: two things with an option of the same name, or a recipe with a flag that there is not.
    """

    def __init__(self, config: Any, value: Callable[[str], Any]):
        fields = {field.name: field for field in flag_fields(config)}
        self._choosers = {name: f.metadata["chooses"] for name, f in fields.items() if f.metadata["chooses"]}
        self.names: dict[str, str] = {}
        self.options: dict[str, Option] = {}
        self.defaults: dict[str, Any] = {}
        self._flag_of: dict[str, str] = {}
        takes_options = any(field.name == "options" for field in dataclasses.fields(config))
        for flag, chooses in self._choosers.items():
            given = value(flag)
            name = given or self.defaults.get(flag, fields[flag].default)
            self.names[flag] = name
            if name not in chooses.names() or not takes_options:
                continue
            for key, default in chooses.recipe(name).items():
                self.defaults.setdefault(key, default)
            for option in chooses.options(name):
                if option.name in fields or option.name in self.options:
                    other = self.names.get(self._flag_of.get(option.name, ""), "the command")
                    raise UserError(f"--{option.name} is an option of {name} and of {other}: rename one")
                self.options[option.name] = option
                self._flag_of[option.name] = flag
        for key in [key for key in self.defaults if key not in fields]:
            if key not in self.options:
                raise UserError(f"--{key} has a value in the recipe of {self._described()}, and is no flag")
            changed = dataclasses.replace(self.options[key], default=self.defaults.pop(key))
            self.options[key] = changed

    def _described(self) -> str:
        return ", ".join(f"--{flag}={name}" for flag, name in self.names.items() if name)

    def of(self, flag: str) -> list[Option]:
        """The options of what a flag chose."""
        return [option for name, option in self.options.items() if self._flag_of[name] == flag]

    def unknown_name(self, flags: Container[str] | None = None) -> str:
        """What is wrong with the first name (of these flags) that is in no registry; "" where each is."""
        for flag, chooses in self._choosers.items():
            name, known = self.names[flag], list(chooses.names())
            if name and name not in known and (flags is None or flag in flags):
                return f"--{flag}={name}: no such {chooses.what}; {did_you_mean(name, known)}"
        return ""

    def misplaced(self, option: str) -> str:
        """What is wrong with an option of something that was not chosen; "" where there is no such option."""
        for flag, chooses in self._choosers.items():
            if any(option == other.name for name in chooses.names() for other in chooses.options(name)):
                if not self.names[flag]:
                    return f"--{option} is an option of a {chooses.what}: name it with --{flag} as well"
                listed = ", ".join(f"--{other.name}" for other in self.of(flag)) or "none"
                return (
                    f"--{option}: the {chooses.what} {self.names[flag]} has no such option (it has {listed})"
                )
        return ""


def options_of(config: Any, flag: str) -> dict[str, Any]:
    """The options of what a command's flag, such as ``"model"``, has chosen, those at their defaults too."""
    chosen = Chosen(config, lambda name: getattr(config, name))
    return {option.name: config.options.get(option.name, option.default) for option in chosen.of(flag)}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'did you mean X?' for a near miss, else the list of what is known."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
