"""Options as they are declared, and what a command has chosen by name."""

from __future__ import annotations

import dataclasses

import make_toy_kitti
import predict
import pytest
import quickstart
import study
from benchmark.options import Options as BenchmarkOptions

from fgfi_tf.deploy.command import ExportConfig
from fgfi_tf.deploy.compress.command import CompressConfig
from fgfi_tf.errors import UserError
from fgfi_tf.options import (
    Chooses,
    Chosen,
    Option,
    at_least,
    check_values,
    flag_fields,
    fraction,
    inner_fraction,
    not_negative,
    option,
    options_of,
    positive,
    unit_interval,
)
from fgfi_tf.registries import Registry
from fgfi_tf.training import flags
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.evaluate_command import EvaluateConfig
from fgfi_tf.training.inspect_command import InspectConfig

OPTIONS = {
    "plain": (),
    "crops": (Option("least", 0.5, "Least overlap.", check=fraction), Option("tries", 3, "Tries.")),
    "noise": (Option("level", "low", "How much.", ("low", "high")),),
}
RECIPES = {"crops": {"steps": 9, "tries": 5}, "noise": {"flip": 0.5}}
POLICY = Chooses("policy", lambda: OPTIONS, OPTIONS.get, lambda name: RECIPES.get(name, {}))


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that chooses two things."""

    policy: str = option("plain", "Policy", "The policy.", chooses=POLICY)
    other: str = option("", "Policy", "Nothing.", chooses=Chooses("policy", lambda: OPTIONS))
    steps: int = option(1, "Policy", "Steps.")
    options: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A command that chooses the same and takes no options."""

    policy: str = option("plain", "Policy", "The policy.", chooses=POLICY)


@dataclasses.dataclass(frozen=True)
class Optional:
    """A command that need not choose."""

    policy: str = option("", "Policy", "The policy.", chooses=POLICY)
    options: dict = dataclasses.field(default_factory=dict)


def test_a_command_that_takes_no_options_has_the_names_alone():
    found = Chosen(Viewer, {"policy": "noise"}.get)
    assert (found.names, found.options, found.defaults) == ({"policy": "noise"}, {}, {})


def chosen(**given) -> Chosen:
    return Chosen(Command, given.get)


def test_the_options_of_what_is_chosen_and_no_others():
    assert [field.name for field in flag_fields(Command)] == ["policy", "other", "steps"]
    assert chosen().options == {} and chosen().defaults == {}
    found = chosen(policy="crops", other="noise")
    assert [o.name for o in found.of("policy")] == ["least", "tries"]
    assert found.of("other") == []  # it only names one
    assert found.defaults == {"steps": 9}
    assert (found.options["least"].default, found.options["tries"].default) == (0.5, 5)  # of the recipe


def test_the_values_of_the_options_of_what_is_chosen():
    assert options_of(Command("crops", options={"least": 0.25}), "policy") == {"least": 0.25, "tries": 5}
    assert options_of(Command("crops"), "other") == options_of(Command(), "policy") == {}


def test_an_option_of_what_is_not_named():
    found = Chosen(Optional, {}.get)
    assert found.misplaced("level") == "--level is an option of a policy: name it with --policy as well"


def test_what_is_wrong_is_told():
    assert chosen(policy="crop").unknown_name() == "--policy=crop: no such policy; did you mean crops?"
    assert chosen(policy="crops").unknown_name() == ""
    found = chosen(policy="crops")
    assert (
        found.misplaced("level") == "--level: the policy crops has no such option (it has --least, --tries)"
    )
    assert chosen().misplaced("level") == "--level: the policy plain has no such option (it has none)"
    assert found.misplaced("levels") == ""
    with pytest.raises(UserError, match="--flip has a value in the recipe of --policy=noise, and is no flag"):
        chosen(policy="noise")


def test_two_options_of_one_name_are_refused(monkeypatch):
    monkeypatch.setitem(OPTIONS, "greedy", (Option("steps", 2, "Its own."),))
    with pytest.raises(UserError, match="--steps is an option of greedy and of the command: rename one"):
        chosen(policy="greedy")
    both = Chooses("policy", lambda: OPTIONS, OPTIONS.get)

    @dataclasses.dataclass(frozen=True)
    class Two:
        first: str = option("crops", "Policy", "One.", chooses=both)
        second: str = option("crops", "Policy", "Another.", chooses=both)
        options: dict = dataclasses.field(default_factory=dict)

    with pytest.raises(UserError, match="--least is an option of crops and of crops: rename one"):
        Chosen(Two, {}.get)


@pytest.mark.parametrize(
    ("declared", "value", "message"),
    [
        (Option("a", 1, "A."), 2, ""),
        (Option("a", 1, "A."), 2.5, "--a=2.5: expected is a value of type int"),
        (Option("a", 1, "A."), True, "--a=True: expected is a value of type int"),
        (Option("a", 1.0, "A."), 2, ""),
        (Option("a", 1.0, "A."), float("inf"), "--a=inf: a finite number is expected"),
        (Option("a", False, "A."), True, ""),
        (Option("a", "x", "A.", ("x", "y")), "y", ""),
        (Option("a", "x", "A.", ("x", "y")), "", "--a=: known are x, y"),
        (Option("a", 0.0, "A.", check=fraction), 1.0, "--a=1.0: must be at least 0 and below 1"),
        (Option("a", 1.0, "A.", check=positive), 0.0, "--a=0.0: must be above 0"),
        (Option("a", 1.0, "A.", check=not_negative), -1.0, "--a=-1.0: must be at least 0"),
        (Option("a", 3, "A.", check=at_least(2)), 2, ""),
        (Option("a", 3, "A.", check=at_least(2)), 1, "--a=1: must be at least 2"),
        (Option("a", 3, "A.", check=at_least(2)), 2**32, "--a=4294967296: must be at most 4294967295"),
        (Option("a", 0.5, "A.", check=inner_fraction), 0.0, "--a=0.0: must be above 0 and below 1"),
        (Option("a", 0.5, "A.", check=inner_fraction), 1.0, "--a=1.0: must be above 0 and below 1"),
        (Option("a", 0.5, "A.", check=unit_interval), 1.0, ""),
        (Option("a", 0.5, "A.", check=unit_interval), 1.1, "--a=1.1: must lie in [0, 1]"),
    ],
)
def test_values(declared, value, message):
    if not message:
        declared.validate(value)
        return
    with pytest.raises(UserError) as raised:
        declared.validate(value)
    assert str(raised.value) == message


@dataclasses.dataclass(frozen=True)
class Harvest:
    trees: int = option(3, "Garden", "Trees.", check=at_least(1))
    share: float = option(0.5, "Garden", "Share that is kept.", check=unit_interval)
    fruit: str = option("pear", "Garden", "What grows.", ("pear", "plum"))
    note: str = option("", "Garden", "Anything.")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trees": 1, "share": 1.0, "fruit": "plum", "note": "-1"}, ""),
        ({"trees": 0}, "--trees=0: must be at least 1"),
        ({"trees": 2**32}, "--trees=4294967296: must be at most 4294967295"),
        ({"share": float("nan")}, "--share=nan: a finite number is expected"),
        ({"share": -0.5}, "--share=-0.5: must lie in [0, 1]"),
        ({"fruit": "plums"}, "--fruit=plums: did you mean plum?"),
    ],
)
def test_values_of_a_command(values, message):
    if not message:
        check_values(Harvest(**values))
        return
    with pytest.raises(UserError) as raised:
        check_values(Harvest(**values))
    assert str(raised.value) == message
    if "fruit" not in values:  # of which absl lists the choices
        with pytest.raises(UserError) as raised:
            flags.parse(["harvest.py", *(f"--{name}={value}" for name, value in values.items())], Harvest)
        assert str(raised.value) == message


@pytest.mark.parametrize(
    "command",
    [
        ExperimentConfig,
        EvaluateConfig,
        InspectConfig,
        ExportConfig,
        CompressConfig,
        BenchmarkOptions,
        make_toy_kitti.ToyConfig,
        predict.PredictConfig,
        quickstart.QuickstartConfig,
        study.StudyConfig,
    ],
)
def test_every_whole_number_of_a_command_says_what_it_may_be(command):
    numbers = [field for field in flag_fields(command) if field.type == "int"]
    assert numbers
    for field in numbers:
        with pytest.raises(UserError, match=f"^--{field.name}=-2: must be at least [01]$"):
            flags.parse(["command.py", f"--{field.name}=-2"], command)


def test_an_option_that_cannot_be():
    with pytest.raises(ValueError, match="cannot be called 'a-b'"):
        Option("a-b", 1, "A.")
    with pytest.raises(UserError, match="--a=z: known are x, y"):
        Option("a", "z", "A.", ("x", "y"))


def test_registries():
    registry, before = Registry("fruit"), Registry.total
    registry.register("pear", 1)
    with pytest.raises(
        UserError, match="there is a fruit 'pear' already: choose another name, or pass replace"
    ):
        registry.register("pear", 2)
    registry.register("pear", 3, replace=True)
    registry.register("apple", 4)
    assert (registry.names(), registry.get("pear"), Registry.total - before) == (["apple", "pear"], 3, 3)
    with pytest.raises(UserError, match="unknown fruit 'plum'; known are apple, pear"):
        registry.get("plum")
    registry.unregister("pear")
    assert "pear" not in registry and "apple" in registry
