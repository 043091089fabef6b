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
from fgfi_tf.training.config import ExperimentConfig, check_finite, did_you_mean, validate

_DEFINE = {
    "str": absl_flags.DEFINE_string,
    "int": absl_flags.DEFINE_integer,
    "float": absl_flags.DEFINE_float,
    "bool": absl_flags.DEFINE_bool,
}


def define(config_class: type = ExperimentConfig) -> absl_flags.FlagValues:
    """Flags for every field of a dataclass whose fields carry group, help and choices."""
    values = absl_flags.FlagValues()
    for field in dataclasses.fields(config_class):
        text = field.metadata["help"]
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
    try:
        rest = values([argv[0], *expand_flagfiles(argv[1:])])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        known = [field.name for field in dataclasses.fields(config_class)]
        hint = did_you_mean(error.flagname, known)
        hint = hint if hint.startswith("did") else "see --help"
        raise UserError(f"unknown flag --{error.flagname}; {hint}") from error
    except absl_flags.Error as error:
        raise UserError(str(error)) from error
    if values.help:
        print(help_text(argv[0], config_class))
        sys.exit(0)
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: flags look like --name=value")
    config = config_class(
        **{field.name: values[field.name].value for field in dataclasses.fields(config_class)}
    )
    check_finite(config)
    return config


def expand_flagfiles(
    arguments: Sequence[str], folder: Path = Path(), within: tuple[Path, ...] = ()
) -> list[str]:
    """Each ``--flagfile=FILE`` replaced by the lines of that file, which may name further files.

    A file named in a file is looked for beside it first (absl's own reading knows the working
    directory alone). ``#`` starts a comment line. Raises UserError for a file that cannot be read
    or that names itself.
    """
    expanded: list[str] = []
    for argument in arguments:
        match = re.fullmatch(r"--?flagfile=(.*)", argument)
        if not match:
            expanded.append(argument)
            continue
        path = Path(match.group(1).strip()).expanduser()
        path = folder / path if (folder / path).is_file() else path
        if path.resolve() in within:
            raise UserError(f"--flagfile={path} names itself")
        try:
            # utf-8-sig: editors on Windows begin a file with a byte order mark
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--flagfile={path}: cannot read it: {reason}") from error
        lines = [line for line in lines if line and not line.startswith("#")]
        expanded += expand_flagfiles(lines, path.parent, (*within, path.resolve()))
    return expanded


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


def _flag_help(field: dataclasses.Field) -> list[str]:
    choices = "|".join(field.metadata["choices"])
    usage = (
        f"--[no]{field.name}" if field.type == "bool" else f"--{field.name}={choices or field.type.upper()}"
    )
    shown = ("on" if field.default else "off") if field.type == "bool" else field.default
    listed = field.metadata.get("names")
    known = f" Known: {', '.join(listed())}." if listed else ""
    text = f"{field.metadata['help']}{known} Default: {'empty' if shown == '' else shown}."
    return [f"  {usage}", *textwrap.wrap(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def to_flagfile(config: ExperimentConfig) -> str:
    """The resolved flags as a flag file that starts the same experiment again."""
    lines = ["# Every flag of this run. Start it again with --flagfile=<this file>."]
    for group, fields in _grouped(type(config)).items():
        lines += ["", f"# {group}"]
        lines += [_flag_line(field, getattr(config, field.name)) for field in fields]
    return "\n".join(lines) + "\n"


def _flag_line(field: dataclasses.Field, value: object) -> str:
    if field.type == "bool":
        return f"--{'' if value else 'no'}{field.name}"
    return f"--{field.name}={value!r}" if field.type == "float" else f"--{field.name}={value}"


def read_flagfile(path: Path | str) -> ExperimentConfig:
    """The experiment of a run folder's ``flags.cfg`` (not validated). Raises UserError."""
    return parse(["flags.cfg", f"--flagfile={path}"])
