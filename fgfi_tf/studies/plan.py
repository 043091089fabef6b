"""The plan of a study: arms (flags of a training) x seeds, read from a file."""

from __future__ import annotations

import configparser
import dataclasses
import hashlib
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.training import flags, validation
from fgfi_tf.training.config import RESUMABLE, ExperimentConfig

STUDY = "study"
_AXIS_KEYS = ("axis", "axis_scale", "published", "published_title")
_KEYS = {"title", "text", "baseline", "teacher", "metric", "seeds", "flags", "runs", *_AXIS_KEYS}
_ARM_KEYS = {"title", "seeds", "flags", "alone", "against", "at", "line"}
_DATA, _RUN = "{data}", re.compile(r"\{run:([^}]*)\}")
_LINEAR, _LOGARITHMIC = "linear", "logarithmic"
#: Flags that change nothing that is computed.
_WITHOUT_EFFECT = RESUMABLE - {"steps", "schedule_steps", "teacher_model", "data_dir", "val_split"}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One kind of run.

    Attributes:
        name: its section in the plan.
        flags: of ``scripts/train.py``, with ``{data}`` and ``{run:ARM}`` for places.
        seeds: each is one run.
        title: what tables call it.
        against: names of the arms that it is compared with.
        at: its place on the plot's x axis; None: it has none.
        line: the line of the plot that it is on.
    """

    name: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    title: str
    against: tuple[str, ...] = ()
    at: float | None = None
    line: str = ""

    @property
    def teacher(self) -> str:
        """The arm whose run it imitates; "" where it imitates none of the plan's."""
        named = [flag for flag in self.flags if flag.startswith("--teacher_checkpoint=")]
        run = _RUN.search(named[-1]) if named else None
        return run.group(1) if run else ""


@dataclasses.dataclass(frozen=True)
class Axis:
    """The x axis of a plot of arms that differ in a number.

    Attributes:
        label: what the number is.
        logarithmic: whether equal factors are equally far apart.
        published, published_title: (number, fraction) as somebody has published them, for a plot beside.
    """

    label: str
    logarithmic: bool
    published: tuple[tuple[float, float], ...] = ()
    published_title: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study.

    Attributes:
        path: the plan's file.
        title, text: of the report.
        arms: in the order in which they stand in the plan.
        baseline: the arm that the others are compared with where they do not say; empty: none.
        teacher: the arm whose mean is what can be reached; empty: none.
        metric: name of the fraction that counts (``mAP11``); empty: the protocol's first.
        runs_name: name of the folder of the run folders; plans that share it share runs with the same flags.
        axis: of the plot, where arms have a place ``at`` it; else each arm has a column.
    """

    path: Path
    title: str
    text: str
    arms: tuple[Arm, ...]
    baseline: str
    teacher: str
    metric: str
    runs_name: str
    axis: Axis | None = None

    def arm(self, name: str) -> Arm:
        """The arm of a name. Raises UserError where there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UserError(f"{self.path}: no arm [{name}]; there are {', '.join(a.name for a in self.arms)}")

    def runs(self) -> Iterator[tuple[Arm, int]]:
        """Every run: first what others start from, then seed by seed, so that pairs are complete early."""
        first = {name for arm in self.arms for name in sources(arm)}
        for wanted in (True, False):
            arms = [arm for arm in self.arms if (arm.name in first) == wanted]
            for seed in sorted({seed for arm in arms for seed in arm.seeds}):
                yield from ((arm, seed) for arm in arms if seed in arm.seeds)


def read_plan(path: str | Path) -> Plan:
    """Reads a plan.

    The file has a section ``[study]`` (``title``, ``text``, ``seeds``, ``flags`` of all arms, ``baseline``,
    ``teacher``, ``metric``, ``runs``) and one section for each arm (``flags`` behind those of all, ``seeds``
    in place of those of all, ``title``, ``alone = yes`` to leave the flags of all out, ``against``: the arms
    that it is compared with in place of the baseline, with commas between; empty for none). Seeds are
    numbers and ranges: ``0-5, 9``.

    Arms that differ in a number are plotted against it: ``at = 0.3`` and, where there are several lines,
    ``line = its name`` of each, ``axis = what it is``, ``axis_scale = logarithmic`` and ``published =
    0: 36, 0.3: 49.3`` (percent) with a ``published_title`` of the study.

    Raises:
        UserError: the file cannot be read, a section or key is unknown, an arm's flags are wrong.
    """
    path = Path(path)
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",), strict=True)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--plan={path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    except configparser.Error as error:
        raise UserError(f"--plan={path}: {' '.join(str(error).split())}") from None
    if STUDY not in parser or len(parser.sections()) < 2:
        raise UserError(f"--plan={path}: wants a section [{STUDY}] and one for each arm")
    study = parser[STUDY]
    _known(path, STUDY, study, _KEYS)
    arms = tuple(_arm(path, parser[name], study) for name in parser.sections() if name != STUDY)
    plan = Plan(
        path,
        study.get("title", path.stem),
        study.get("text", "").strip(),
        arms,
        *(study.get(key, "") for key in ("baseline", "teacher", "metric")),
        study.get("runs", path.stem),
        _axis(path, study, arms),
    )
    named = (name for arm in arms for name in (*sources(arm), *arm.against))
    for name in (plan.baseline, plan.teacher, *named):
        if name:
            plan.arm(name)
    for arm in arms:
        _check_start(plan, arm, ())
    return plan


def _check_start(plan: Plan, arm: Arm, before: tuple[str, ...]) -> None:
    """Raises UserError where an arm starts, by way of those ``before``, from itself."""
    if arm.name in before:
        way = " from ".join(f"[{name}]" for name in (*before[before.index(arm.name) :], arm.name))
        raise UserError(f"--plan={plan.path}: {way}: no arm can start from itself")
    for name in sources(arm):
        _check_start(plan, plan.arm(name), (*before, arm.name))


def _arm(path: Path, section: configparser.SectionProxy, study: configparser.SectionProxy) -> Arm:
    _known(path, section.name, section, _ARM_KEYS)
    try:
        alone = section.getboolean("alone", False)
    except ValueError:
        raise UserError(f"--plan={path}: [{section.name}] alone = {section['alone']}: yes or no") from None
    common = [] if alone else _split(path, study)
    own = _split(path, section)
    seeds = _seeds(path, section.get("seeds", study.get("seeds", "0")))
    name, first = section.name, [study.get(key, "") for key in ("baseline", "teacher")]
    compared = section.get("against", "" if name in first else first[0])
    against = tuple(dict.fromkeys(part.strip() for part in compared.split(",") if part.strip()))
    if name in against:
        raise UserError(f"--plan={path}: [{name}] against = {compared}: an arm is not compared with itself")
    at = _number(path, section, "at", section["at"]) if "at" in section else None
    arm = Arm(name, (*common, *own), seeds, section.get("title", name), against, at, section.get("line", ""))
    for flag in arm.flags:
        if re.match(r"--?(no)?(output_dir|seed|overwrite)\b", flag):
            raise UserError(f"--plan={path}: [{arm.name}] {flag}: the study itself sets it")
        if re.match(r"--?h(elp)?$", flag):
            raise UserError(f"--plan={path}: [{arm.name}] {flag}: is for the command line")
    try:  # all flags are checked before anything runs
        config = config_of(arm)
        validation.validate_values(dataclasses.replace(config, output_dir="runs"))
    except UserError as error:
        raise UserError(f"--plan={path}: {error}") from None
    if config.overwrite:  # in a flagfile; a run that was interrupted would begin anew
        raise UserError(f"--plan={path}: [{arm.name}] --overwrite: the study itself sets it")
    return arm


def _split(path: Path, section: configparser.SectionProxy) -> list[str]:
    """The flags of a section. Raises UserError for a quotation mark without another."""
    try:
        return shlex.split(section.get("flags", ""))
    except ValueError as error:
        raise UserError(f"--plan={path}: [{section.name}] flags: {error}") from None


def _axis(path: Path, study: configparser.SectionProxy, arms: Sequence[Arm]) -> Axis | None:
    places = [arm.at for arm in arms if arm.at is not None]
    for key in _AXIS_KEYS:
        if key in study and not places:
            raise UserError(
                f"--plan={path}: {key} = {study[key]}: no arm has a place at it, such as at = 0.3"
            )
    if not places:
        return None
    scale = study.get("axis_scale", _LINEAR)
    if scale not in (_LINEAR, _LOGARITHMIC):
        raise UserError(f"--plan={path}: axis_scale = {scale}: known are {_LINEAR}, {_LOGARITHMIC}")
    pairs = [part.partition(":") for part in study.get("published", "").split(",") if part.strip()]
    published = tuple(
        (_number(path, study, "published", x), _number(path, study, "published", y) / 100)
        for x, _, y in pairs
    )
    if scale == _LOGARITHMIC and min(places + [x for x, _ in published]) <= 0:
        raise UserError(f"--plan={path}: axis_scale = {scale}: places must be above 0")
    title = study.get("published_title", "published")
    return Axis(study.get("axis", ""), scale == _LOGARITHMIC, published, title)


def _number(path: Path, section: configparser.SectionProxy, key: str, text: str) -> float:
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise UserError(f"--plan={path}: [{section.name}] {key} = {section[key]}: {text.strip()!r} is no number")


def _known(path: Path, name: str, section: configparser.SectionProxy, keys: set[str]) -> None:
    for key in section:
        if key not in keys:
            raise UserError(f"--plan={path}: [{name}] has no {key!r}; known are {', '.join(sorted(keys))}")


def _seeds(path: Path, text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UserError(f"--plan={path}: seeds = {text!r}: numbers and ranges such as 0-5, 9")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"--plan={path}: seeds = {text!r}: at least one, and none twice")
    return tuple(seeds)


def sources(arm: Arm) -> list[str]:
    """Arms that its flags name as ``{run:ARM}``."""
    return _RUN.findall(" ".join(arm.flags))


def config_of(arm: Arm, seed: int = 0) -> ExperimentConfig:
    """The experiment of an arm, its places left as they stand in the plan."""
    try:
        return flags.parse(["train.py", *arm.flags, f"--seed={seed}"])
    except UserError as error:
        raise UserError(f"[{arm.name}]: {error}") from None


def fingerprint(plan: Plan, arm: Arm, seed: int) -> str:
    """Changes with every flag that a run's result depends on, and with those of the runs that it starts from.

    Flags at their default are left out, so that a flag which comes later changes nothing; neither does the
    order in which flags are declared, nor where ``{data}`` and the run folders are, nor what arms are called.
    """
    config = config_of(arm, seed)
    if config.data_dir == _DATA:
        config = dataclasses.replace(config, data_dir="")
    if not config.imitation:  # a flagfile may name a teacher all the same
        config = dataclasses.replace(config, teacher_checkpoint="", teacher_model="")
    values = dict(config.options)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in _WITHOUT_EFFECT | {"options"} and value != field.default:
            values[field.name] = value

    def source(match: re.Match) -> str:
        started = plan.arm(match[1])
        return fingerprint(plan, started, source_seed(started, seed))

    texts = sorted(_RUN.sub(source, f"{name}={value!r}") for name, value in values.items())
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def source_seed(source: Arm, seed: int) -> int:
    """The run that another one of a seed starts from: that of the same seed, or the only one.

    Raises UserError where there are several, and none of that seed.
    """
    if seed in source.seeds:
        return seed
    if len(source.seeds) == 1:
        return source.seeds[0]
    raise UserError(f"[{source.name}] has several seeds and not {seed}, which another arm starts from")
