"""Options as they are declared, and what a command has chosen by name."""

from __future__ import annotations

import dataclasses

import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.options import (
    Chooses,
    Chosen,
    Option,
    flag_fields,
    fraction,
    not_negative,
    option,
    options_of,
    positive,
)
from fgfi_tf.registries import Registry

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
    ],
)
def test_values(declared, value, message):
    if not message:
        declared.validate(value)
        return
    with pytest.raises(UserError) as raised:
        declared.validate(value)
    assert str(raised.value) == message


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
