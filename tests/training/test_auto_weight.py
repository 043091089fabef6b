"""Runs with ``--imitation_weight=auto``, and with either adaptation: resume is exact."""

from __future__ import annotations

import numpy as np
import pytest
from test_run import scalars, stop_at, teacher_fixture, weights

from fgfi_tf.training import build, run
from fgfi_tf.training.config import ExperimentConfig

_TEACHER = teacher_fixture  # pytest finds the fixture "teacher" by it
AUTO = {"imitation_weight": "auto", "imitation_share": 2.0}


def final(experiment, folder, teacher, *, stop=None, **changes):
    config = experiment(output_dir=str(folder), **teacher, **AUTO, **changes)
    if stop:
        stop_at(stop, lambda: run.train(config))
    assert run.train(config).finished
    return weights(folder / "checkpoints/ckpt-6")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation": 2, "optimizer": "adam"},
        pytest.param({"mixed_precision": "bfloat16"}, marks=pytest.mark.long),
        pytest.param({"mixed_precision": "float16", "imitation_warmup_steps": 3}, marks=pytest.mark.long),
    ],
    ids=["plain", "parts", "bfloat16", "float16"],
)
def test_resume_is_bitwise(experiment, tmp_path, teacher, changes):
    whole = final(experiment, tmp_path / "whole", teacher, **changes)
    parts = final(experiment, tmp_path / "parts", teacher, stop=4, **changes)
    assert whole.keys() == parts.keys()
    averages = [name for name in whole if name.startswith("imitation_weight/")]
    assert len(averages) == 2 and all(whole[name] > 0 for name in averages)
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name], err_msg=name)


def test_several_steps_an_execution_are_the_same_steps(experiment, tmp_path, teacher):
    one = final(experiment, tmp_path / "one", teacher)
    three = final(experiment, tmp_path / "three", teacher, steps_per_execution=3)
    for name, value in one.items():
        np.testing.assert_allclose(value, three[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_run_logs_what_imitation_does(experiment, teacher):
    result = run.train(experiment(**teacher, **AUTO))
    found = scalars(result.folder.summaries)
    for name in ("loss", "loss_unweighted", "weight", "mask_share", "active_share"):
        assert found[f"train/imitation_{name}"] == [2, 4, 6]


@pytest.mark.parametrize(
    ("flag", "activation"), [(None, "linear"), ("linear", "linear"), ("published", "relu")]
)
def test_the_adaptation_is_that_of_the_flag(experiment, teacher, flag, activation):
    config = experiment(**teacher, **({"imitation_adaptation": flag} if flag else {}))
    distiller = build.build_distiller(config, ("Car", "Pedestrian", "Cyclist"))
    assert distiller.imitation.activation == activation
    assert distiller.imitation_weight == 1.0


def test_a_run_that_does_not_imitate_needs_no_weight():
    assert build._weight(ExperimentConfig(imitation_weight="auto")) == 0.0
