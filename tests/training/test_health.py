"""Warnings on a run's numbers: each once, after ten steps that show it, and not before imitation begins."""

from __future__ import annotations

import pytest

from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.health import Health

FINE = {
    "class": 1.0,
    "box": 2.0,
    "imitation_loss": 3.0,
    "imitation_mask_share": 0.1,
    "imitation_active_share": 0.5,
}


def told(config: ExperimentConfig, *summaries: tuple[int, dict]) -> list[list[str]]:
    """The warnings of summaries, each (step, values), one after the other."""
    warnings: list[str] = []
    health = Health(config, ["class", "box", "weight_decay"], warnings.append)
    previous, found = 0, []
    for step, changes in summaries:
        before = len(warnings)
        health(previous, step, {**FINE, **changes})
        found.append(warnings[before:])
        previous = step
    return found


def health(**options) -> ExperimentConfig:
    return ExperimentConfig(imitation=True, **{f"imitation_{name}": value for name, value in options.items()})


def test_nothing_is_said_of_what_is_fine():
    assert told(health(), (50, {}), (100, {"imitation_loss": 29.9}), (150, {"imitation_loss": 0.31})) == [
        [],
        [],
        [],
    ]


def test_losses_of_exactly_0_are_told_once_after_ten_steps():
    found = told(health(), (6, {"box": 0.0}), (9, {"box": 0.0}), (12, {"box": 0.0}), (50, {"box": 0.0}))
    assert [len(warnings) for warnings in found] == [0, 0, 1, 0]
    assert found[2][0].startswith(
        "box was exactly 0 in 10 steps and more: nothing is learnt from it. No anchor"
    )
    both = told(health(), (50, {"class": 0.0, "box": 0.0}))
    assert both[0][0].startswith("class, box were exactly 0 in 10 steps")


def test_a_batch_with_an_object_in_between_begins_anew():
    found = told(health(), (6, {"box": 0.0}), (8, {}), (14, {"box": 0.0}))
    assert found == [[], [], []]
    assert told(health(), (50, {"weight_decay": 0.0})) == [[]]


def test_a_dead_adaptation():
    dead = {"imitation_active_share": 0.0}
    found = told(health(), (50, dead), (100, dead))
    assert [len(warnings) for warnings in found] == [1, 0]
    assert "every output of the imitation's adaptation was 0 in 10 steps" in found[0][0]
    # nothing to adapt is not dead
    assert told(health(), (50, {**dead, "imitation_mask_share": 0.0})) == [[]]


@pytest.mark.parametrize(
    ("changes", "weight", "message"),
    [
        (
            {"imitation_loss": 60.0},
            4.0,
            "the imitation loss (60) is 20 times larger than the detection losses (3); "
            "--imitation_weight=0.2 would",
        ),
        (
            {"imitation_loss": 0.15},
            4.0,
            "the imitation loss (0.15) is 20 times smaller than the detection losses (3); "
            "--imitation_weight=80 would",
        ),
        (
            {"imitation_loss": 60.0},
            "auto",
            "the imitation loss (60) is 20 times larger than the detection losses (3)",
        ),
    ],
)
def test_losses_of_another_order(changes, weight, message):
    found = told(health(weight=weight), (50, changes), (99, changes), (150, changes), (200, changes))
    assert [len(warnings) for warnings in found] == [0, 0, 1, 0]
    assert found[2][0].startswith(message)
    assert ("--imitation_weight" in found[2][0]) == (weight != "auto")
    assert told(health(weight=weight), (90, changes), (99, {}), (150, changes)) == [[], [], []]


def test_steps_without_imitation_are_not_judged():
    bad = {"imitation_loss": 0.001, "imitation_active_share": 0.0}
    # the first summary that holds only steps of imitation is that of 101 to 150; the last one ends at 200
    found = told(
        health(warmup_steps=79, end_step=200), (50, bad), (100, bad), (150, bad), (200, bad), (300, bad)
    )
    assert [len(warnings) for warnings in found] == [0, 0, 1, 1, 0]
    assert told(health(warmup_steps=79, end_step=120), (50, bad), (100, bad), (150, bad)) == [[], [], []]
    assert told(health(weight=0.0), (50, bad)) == [[]]
    assert told(ExperimentConfig(), (50, bad)) == [[]]
