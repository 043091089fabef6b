"""absl flags of a training run, made from the fields of ``ExperimentConfig``.

The flags live in a ``FlagValues`` of their own, so that flags which imported libraries define
cannot collide with ours and ``--help`` shows ours alone.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from fgfi_tf.errors import UserError
from fgfi_tf.paths import user_path
from fgfi_tf.training.config import ExperimentConfig, did_you_mean
from fgfi_tf.training.validation import check_finite, validate

# The first line of a run's flags.cfg; no other file has it.
HEADER = "# Every flag of this run. Start it again with --flagfile=<this file>."
# What the flagfiles of a command may amount to; a run has some 60 flags.
_MAX_FILES, _MAX_ARGUMENTS = 100, 10_000
# Characters of a name or an argument that an error shows, and of absl's own messages.
_SHOWN, _SHOWN_MESSAGE = 60, 300


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


def define(config_class: type = ExperimentConfig) -> absl_flags.FlagValues:
    """Flags for every field of a dataclass whose fields carry group, help and choices."""
    values = absl_flags.FlagValues()
    for field in dataclasses.fields(config_class):
        text = _text(field)
        if field.metadata["choices"]:
            absl_flags.DEFINE_enum(
                field.name, field.default, field.metadata["choices"], text, flag_values=values
            )
        else:
            _DEFINE[field.type](field.name, field.default, text, flag_values=values)
    absl_flags.DEFINE_bool("help", False, "Explain every flag.", short_name="h", flag_values=values)
    return values


def parse(argv: Sequence[str], config_class: type = ExperimentConfig):
    """Command line (program name first) to a dataclass of flags, not yet validated.

    ``--flagfile=FILE`` reads flags from a file; later flags win. Raises UserError for an unknown
    flag, a bad value, a missing flag file or a stray argument. ``--help`` prints and exits 0.
    """
    values = define(config_class)
    arguments = expand_flagfiles(argv[1:])
    if any("\0" in argument for argument in arguments):
        raise UserError("a flag holds a NUL character")
    try:
        # known_only: absl's own hint for an unknown name takes seconds for 100 characters and recurses.
        rest = values([argv[0], *arguments], known_only=True)[1:]
    except (absl_flags.Error, ValueError) as error:  # ValueError: --noname=value
        raise UserError(_shortened(str(error), _SHOWN_MESSAGE)) from error
    if values.help:
        print(help_text(argv[0], config_class))
        sys.exit(0)
    if rest and rest != ["--"]:
        raise _unexpected(rest[0], config_class)
    config = config_class(
        **{field.name: _value(field, values[field.name].value) for field in dataclasses.fields(config_class)}
    )
    check_finite(config)
    return config


def _unexpected(argument: str, config_class: type) -> UserError:
    """The error for an argument that is no flag, or none that is known."""
    match = re.fullmatch(r"--?([^-=][^=]*)(=.*)?", argument, re.DOTALL)
    if not match:
        return UserError(f"unexpected argument {_shortened(argument)!r}: flags look like --name=value")
    hint = did_you_mean(match.group(1), [field.name for field in dataclasses.fields(config_class)])
    hint = hint if hint.startswith("did") else "see --help"
    return UserError(f"unknown flag --{_shortened(match.group(1))}; {hint}")


def _shortened(text: str, length: int = _SHOWN) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _value(field: dataclasses.Field, value: object) -> object:
    """A flag's value; of a path that begins with ~, which no shell expands after --name=, the path."""
    if not (isinstance(value, str) and value.startswith("~")):
        return value
    try:
        return str(user_path(value))
    except UserError as error:
        raise UserError(f"--{field.name}={error}") from error


def expand_flagfiles(arguments: Sequence[str]) -> list[str]:
    """Each ``--flagfile=FILE`` replaced by the lines of that file, which may name further files.

    A file named in a file is looked for beside it first (absl's own reading knows the working
    directory alone). ``#`` starts a comment line. Raises UserError for a file that cannot be read
    or that names itself, and for files that amount to more than any run has flags.
    """
    expanded: list[str] = []
    pending = [(argument, Path(), ()) for argument in reversed(arguments)]
    files = 0
    while pending:
        argument, folder, within = pending.pop()
        match = re.fullmatch(r"--?flagfile=(.*)", argument, re.DOTALL)
        if not match:
            expanded.append(argument)
            continue
        path, lines = _read_lines(match.group(1).strip(), folder)
        files += 1
        if path.resolve() in within:
            raise UserError(f"--flagfile={path} names itself")
        if files > _MAX_FILES or len(lines) + len(pending) + len(expanded) > _MAX_ARGUMENTS:
            raise UserError(
                f"--flagfile={(*within, path)[0]} amounts to more than {_MAX_FILES} files or "
                f"{_MAX_ARGUMENTS} flags: is it a flagfile?"
            )
        inside = (*within, path.resolve())
        pending += [(line, path.parent, inside) for line in reversed(lines)]
    return expanded


def _read_lines(name: str, folder: Path) -> tuple[Path, list[str]]:
    """(path, lines that are no comments) of a flagfile named in another of ``folder``."""
    try:
        path = user_path(name)
        path = folder / path if (folder / path).is_file() else path
        # utf-8-sig: editors on Windows begin a file with a byte order mark
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:  # a name with NUL, a file that is no text, no such user
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--flagfile={_shortened(name, _SHOWN_MESSAGE)}: cannot read it: {reason}") from error
    return path, [line for line in lines if line and not line.startswith("#")]


def parse_config(argv: Sequence[str]) -> ExperimentConfig:
    """Command line to a validated experiment."""
    return validate(parse(argv))


def help_text(program: str, config_class: type = ExperimentConfig, intro: str = "") -> str:
    """Every flag with its help text and default, by group."""
    lines = [f"usage: {program} [--flagfile=FILE] [--name=value ...]", ""]
    if intro:
        lines += [*textwrap.wrap(intro, 100), ""]
    lines += ["  --flagfile=FILE", "      Read flags from a file, one a line; later flags win.", ""]
    for group, fields in _grouped(config_class).items():
        lines += [f"{group}:"]
        for field in fields:
            lines += _flag_help(field)
        lines += [""]
    return "\n".join(lines)


def _grouped(config_class: type) -> dict[str, list[dataclasses.Field]]:
    groups: dict[str, list[dataclasses.Field]] = {}
    for field in dataclasses.fields(config_class):
        groups.setdefault(field.metadata["group"], []).append(field)
    return groups


def _text(field: dataclasses.Field) -> str:
    """What the help says; a text that depends on what is registered is made now."""
    text = field.metadata["help"]
    return text() if callable(text) else text


def _flag_help(field: dataclasses.Field) -> list[str]:
    choices = "|".join(field.metadata["choices"])
    kind = choices or ("FLOAT|auto" if field.type == "float | str" else field.type.upper())
    usage = f"--[no]{field.name}" if field.type == "bool" else f"--{field.name}={kind}"
    shown = ("on" if field.default else "off") if field.type == "bool" else field.default
    listed = field.metadata.get("names")
    known = f" Known: {', '.join(listed())}." if listed else ""
    text = f"{_text(field)}{known} Default: {'empty' if shown == '' else shown}."
    return [f"  {usage}", *textwrap.wrap(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def to_flagfile(config: ExperimentConfig) -> str:
    """The resolved flags as a flag file that starts the same experiment again."""
    lines = [HEADER]
    for group, fields in _grouped(type(config)).items():
        lines += ["", f"# {group}"]
        lines += [_flag_line(field, getattr(config, field.name)) for field in fields]
    return "\n".join(lines) + "\n"


def _flag_line(field: dataclasses.Field, value: object) -> str:
    if field.type == "bool":
        return f"--{'' if value else 'no'}{field.name}"
    return f"--{field.name}={value!r}" if isinstance(value, float) else f"--{field.name}={value}"


def read_flagfile(path: Path | str) -> ExperimentConfig:
    """The experiment of a run folder's ``flags.cfg`` (not validated). Raises UserError."""
    return parse(["flags.cfg", f"--flagfile={path}"])
