"""absl flags of a command: the fields of its dataclass, and the options of what these choose by name.

``--model=NAME`` brings the options that the detector declares, and its values of flags that are not given
(``fgfi_tf.options.Chosen``).

The flags live in a ``FlagValues`` of their own, so that flags which imported libraries define
cannot collide with ours and ``--help`` shows ours alone.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from fgfi_tf import extensions
from fgfi_tf.errors import UserError
from fgfi_tf.options import Chooses, Chosen, Option, check_values, did_you_mean, flag_fields
from fgfi_tf.paths import user_path
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.flagfiles import SHOWN_MESSAGE, Argument, expand_flagfiles, shortened

# The first line of a run's flags.cfg; no other file has it.
HEADER = "# Every flag of this run. Start it again with --flagfile=<this file>."
_EXTENSIONS = "extensions"
# Flags that earlier versions had for every detector, with the values that meant "not given".
_NOT_GIVEN = {"width": "0.0", "roi_pooling": "", "dropout": "-1.0"}
_NOT_GIVEN |= {"brightness": "50", "contrast": "0.5,1.5", "saturation": "0.3,1.7", "drift": "150x100"}


class _NumberOrWord(absl_flags.ArgumentParser):
    """Of a flag that takes a number or a word in its place; which words, the experiment's check knows."""

    def parse(self, argument: str | float) -> str | float:
        try:
            return float(argument)
        except ValueError:
            return argument


def _define_number_or_word(name, default, text, flag_values) -> None:
    absl_flags.DEFINE(_NumberOrWord(), name, default, text, flag_values)


_DEFINE = {
    "str": absl_flags.DEFINE_string,
    "int": absl_flags.DEFINE_integer,
    "float": absl_flags.DEFINE_float,
    "bool": absl_flags.DEFINE_bool,
    "float | str": _define_number_or_word,
}


@dataclasses.dataclass(frozen=True)
class _Flag:
    """A flag: of a field of the command's dataclass, or of an option of what was chosen."""

    name: str
    type: str
    default: Any
    text: str
    group: str
    choices: tuple[str, ...]
    chooses: Chooses | None = None


def _flags(config_class: type, chosen: Chosen) -> list[_Flag]:
    """Every flag, group by group; the options of what is chosen behind the group of the flag that chooses."""
    fields = flag_fields(config_class)
    groups: dict[str, list[_Flag]] = {field.metadata["group"]: [] for field in fields}
    for field in fields:
        about, default = field.metadata, chosen.defaults.get(field.name, field.default)
        text = about["help"]
        text = text() if callable(text) else text
        flag = _Flag(
            field.name, field.type, default, text, about["group"], about["choices"], about["chooses"]
        )
        groups[about["group"]].append(flag)
        group = f"Options of {chosen.names.get(field.name)} (--{field.name})"
        groups[about["group"]] += [
            _Flag(option.name, option.type, option.default, option.text, group, option.choices)
            for option in chosen.of(field.name)
        ]
    return [flag for flags in groups.values() for flag in sorted(flags, key=lambda f: f.group not in groups)]


def _define(known: Sequence[_Flag]) -> absl_flags.FlagValues:
    """absl's flags."""
    values = absl_flags.FlagValues()
    for flag in known:
        if flag.choices:
            absl_flags.DEFINE_enum(flag.name, flag.default, flag.choices, flag.text, flag_values=values)
        else:
            _DEFINE[flag.type](flag.name, flag.default, flag.text, flag_values=values)
    absl_flags.DEFINE_bool("help", False, "Explain every flag.", short_name="h", flag_values=values)
    return values


def parse(argv: Sequence[str], config_class: type = ExperimentConfig):
    """Command line (program name first) to a dataclass of flags, each of which is checked on its own.

    ``--flagfile=FILE`` reads flags from a file; later flags win, and the options that a file gives to what it
    chose are dropped where a later flag chose something else. ``--extensions`` are imported, so that what
    they register has its flags. ``--help`` prints and exits 0.

    Raises:
        UserError: an unknown flag or name, a bad value, a missing flag file or extension, a stray argument.
    """
    arguments = expand_flagfiles(argv[1:])
    if any("\0" in argument for argument in arguments):
        raise UserError("a flag holds a NUL character")
    last = _last_values(arguments)
    given = {field.name: last.get(field.name) for field in flag_fields(config_class)}
    if given.get(_EXTENSIONS):
        given[_EXTENSIONS] = ",".join(extensions.resolve(given[_EXTENSIONS]))
        extensions.load(given[_EXTENSIONS].split(","))
    chosen = Chosen(config_class, given.get)
    # What a recipe names may still be missing: --help shows it.
    if fault := chosen.unknown_name([flag for flag, value in given.items() if value]):
        raise UserError(shortened(fault, SHOWN_MESSAGE))
    known = _flags(config_class, chosen)
    arguments = _still_chosen(arguments, {flag.name for flag in known}, config_class)
    try:
        values = _define(known)
        # known_only: absl's own hint for an unknown name takes seconds for 100 characters and recurses.
        rest = values([argv[0], *_of_earlier_versions(arguments, chosen)], known_only=True)[1:]
    except (absl_flags.Error, ValueError) as error:  # ValueError: --noname=value
        raise UserError(shortened(str(error), SHOWN_MESSAGE)) from error
    if values.help:
        print(_help(argv[0], known))
        sys.exit(0)
    if rest and rest != ["--"]:
        files = next((argument.files for argument in arguments if argument == rest[0]), ())
        where = f" (in {shortened(str(files[-1]), SHOWN_MESSAGE)})" if files else ""
        raise UserError(_unexpected(rest[0], known, chosen) + where)
    config = config_class(
        **{field.name: _value(field.name, values[field.name].value) for field in flag_fields(config_class)},
        **({"options": _given_options(chosen, values)} if chosen.options else {}),
    )
    if given.get(_EXTENSIONS):
        config = dataclasses.replace(config, extensions=given[_EXTENSIONS])
    check_values(config)
    return config


def _last_values(arguments: Sequence[Argument]) -> dict[str, str]:
    """The value that a command line gives each flag, by name: the last one."""
    found = {}
    for position, argument in enumerate(arguments):
        _, equals, value = argument.partition("=")
        found[argument.name] = value if equals else "".join(arguments[position + 1 : position + 2])
    return found


def _still_chosen(arguments: list[Argument], known: set[str], config_class: type) -> list[Argument]:
    """A command line without the options of what a flagfile chose and a later flag did not."""

    @functools.cache
    def options_in(file: Path) -> dict[str, Option]:
        inside = [argument for argument in arguments if file in argument.files]
        return Chosen(config_class, _last_values(inside).get).options

    def superseded(argument: Argument) -> bool:
        names = {argument.name, argument.name.removeprefix("no")}
        return not names & known and any(names & options_in(file).keys() for file in argument.files)

    return [argument for argument in arguments if not superseded(argument)]


def _given_options(chosen: Chosen, values: absl_flags.FlagValues) -> dict[str, Any]:
    """The options of what is chosen that are not at their defaults. Raises UserError for a bad value."""
    given = {name: _value(name, values[name].value) for name in chosen.options}
    for name, option in chosen.options.items():
        option.validate(given[name])
    return {name: value for name, value in given.items() if value != chosen.options[name].default}


def _of_earlier_versions(arguments: Sequence[Argument], chosen: Chosen) -> list[str]:
    """A command line without the options that flagfiles of earlier versions hold for every detector.

    At the value that meant "not given" they are left out, or are the default where what is chosen has them.
    """
    found = []
    for argument in arguments:
        name, value = argument.name, argument.partition("=")[2]
        if name in _NOT_GIVEN and _same(value, _NOT_GIVEN[name]):
            option = chosen.options.get(name)
            if option is None:
                continue
            try:
                fault = option.fault(type(option.default)(value))
            except ValueError:  # of another type than the option was: absl says so
                fault = ""
            argument = f"--{name}={option.default}" if fault else argument
        found.append(argument)
    return found


def _same(value: str, other: str) -> bool:
    try:
        return float(value) == float(other)
    except ValueError:
        return value == other


def _unexpected(argument: str, known: Sequence[_Flag], chosen: Chosen) -> str:
    """What is wrong with an argument that is no flag, or none that is known."""
    match = re.fullmatch(r"--?([^-=][^=]*)(=.*)?", argument, re.DOTALL)
    if not match:
        return f"unexpected argument {shortened(argument)!r}: flags look like --name=value"
    name = match.group(1)
    names = [name, name[2:]] if name.startswith("no") else [name]
    if fault := next(filter(None, map(chosen.misplaced, names)), ""):
        return shortened(fault, SHOWN_MESSAGE)
    hint = did_you_mean(name, [flag.name for flag in known])
    hint = hint if hint.startswith("did") else "see --help"
    return f"unknown flag --{shortened(name)}; {hint}"


def _value(name: str, value: object) -> object:
    """A flag's value; of a path that begins with ~, which no shell expands after --name=, the path."""
    if not (isinstance(value, str) and value.startswith("~")):
        return value
    try:
        return str(user_path(value))
    except UserError as error:
        raise UserError(f"--{name}={error}") from error


def help_text(program: str, config_class: type = ExperimentConfig) -> str:
    """Every flag with its help text and default, by group, where nothing is given."""
    return _help(program, _flags(config_class, Chosen(config_class, lambda flag: None)))


def _help(program: str, known: Sequence[_Flag]) -> str:
    lines = [f"usage: {program} [--flagfile=FILE] [--name=value ...]", ""]
    lines += ["  --flagfile=FILE", "      Read flags from a file, one a line; later flags win.", ""]
    for group, flags in _grouped(known).items():
        lines += [f"{group}:"]
        for flag in flags:
            lines += _flag_help(flag)
        lines += [""]
    return "\n".join(lines)


def _grouped(known: Sequence[_Flag]) -> dict[str, list[_Flag]]:
    groups: dict[str, list[_Flag]] = {}
    for flag in known:
        groups.setdefault(flag.group, []).append(flag)
    return groups


def _flag_help(flag: _Flag) -> list[str]:
    choices = "|".join(flag.choices)
    kind = choices or ("FLOAT|auto" if flag.type == "float | str" else flag.type.upper())
    usage = f"--[no]{flag.name}" if flag.type == "bool" else f"--{flag.name}={kind}"
    shown = ("on" if flag.default else "off") if flag.type == "bool" else flag.default
    names = f" Known: {', '.join(flag.chooses.names())}." if flag.chooses else ""
    text = f"{flag.text}{names} Default: {'empty' if shown == '' else shown}."
    return [f"  {usage}", *textwrap.wrap(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def to_flagfile(config: ExperimentConfig) -> str:
    """The resolved flags as a flag file that starts the same experiment again."""
    lines, values = [HEADER], config.values()
    for group, flags in _grouped(_flags(type(config), config.chosen())).items():
        lines += ["", f"# {group}"]
        lines += [_flag_line(flag, values[flag.name]) for flag in flags]
    return "\n".join(lines) + "\n"


def _flag_line(flag: _Flag, value: object) -> str:
    if flag.type == "bool":
        return f"--{'' if value else 'no'}{flag.name}"
    return f"--{flag.name}={value!r}" if isinstance(value, float) else f"--{flag.name}={value}"


def read_flagfile(path: Path | str, extensions: str = "") -> ExperimentConfig:
    """The experiment of a run folder's ``flags.cfg`` (not validated).

    ``extensions``, where they are given, take the place of those that it names, which may have been moved.
    Raises UserError.
    """
    given = [f"--{_EXTENSIONS}={extensions}"] if extensions else []
    return parse(["flags.cfg", f"--flagfile={path}", *given])
