"""Options that change how a step is computed and not what it computes, or hardly; alone and together."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tf_keras as keras
from test_run import assert_same, scalars, stop_at, weights

from fgfi_tf.errors import UserError
from fgfi_tf.training import run
from fgfi_tf.training.checkpoints import list_checkpoints
from fgfi_tf.training.evaluator import ResultLog


@pytest.fixture(scope="module", name="known")
def known_fixture():
    return {}


@pytest.fixture(name="after_7_steps")
def after_7_steps_fixture(experiment, known, tmp_path_factory):
    """A function from options to the last checkpoint of a run of 7 steps; each run is done once."""

    def train(**options):
        key = tuple(sorted(options.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp("run") / "run"
            result = run.train(experiment(output_dir=str(folder), steps=7, checkpoint_every=7, **options))
            known[key] = result.folder.checkpoints / "ckpt-7"
        return known[key]

    return train


def assert_near(first, second, atol, rtol=0.0):
    """The weights, statistics and slots, each within ``atol`` of the larger of 1 and its largest value."""
    first, second = weights(first), weights(second)
    names = [name for name in first if name.startswith("student/")]
    assert names
    for name in names:
        assert first[name].dtype == second[name].dtype == np.float32
        scale = max(1.0, float(np.abs(first[name]).max()))
        np.testing.assert_allclose(second[name], first[name], atol=atol * scale, rtol=rtol, err_msg=name)


def test_several_steps_in_one_execution_are_the_same_steps(after_7_steps):
    changed = after_7_steps(steps_per_execution=3)
    assert_same(after_7_steps(), changed)
    # Executions end at steps 3, 6 and 7: summaries are due at 2, 4 and 6.
    assert scalars(changed.parents[1] / "tensorboard")["train/loss"] == [3, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation": 2, "steps_per_execution": 3}],
    ids=["alone", "accumulated-several"],
)
def test_xla_computes_the_same_steps(after_7_steps, options):
    assert_near(after_7_steps(**options), after_7_steps(**options, jit_compile=True), atol=1e-4)


def test_several_accumulated_steps_in_one_execution(after_7_steps):
    assert_same(
        after_7_steps(gradient_accumulation=2), after_7_steps(gradient_accumulation=2, steps_per_execution=3)
    )


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation": 2}], ids=["alone", "accumulated"])
def test_bfloat16_keeps_float32_weights_and_nearly_the_same_steps(after_7_steps, options):
    # Momentum slots carry the gradients' rounding.
    plain, mixed = (
        weights(after_7_steps(**o)) for o in (options, {**options, "mixed_precision": "bfloat16"})
    )
    for name in (name for name in plain if name.startswith("student/") and "SLOT" not in name):
        assert mixed[name].dtype == np.float32
        np.testing.assert_allclose(mixed[name], plain[name], atol=0.06, rtol=0.05, err_msg=name)
    assert keras.mixed_precision.global_policy().name == "float32"


def test_a_run_goes_on_exactly_with_other_steps_per_execution(experiment, tmp_path, after_7_steps):
    parts = experiment(output_dir=str(tmp_path / "parts"), steps=7, checkpoint_every=7)
    stop_at(2, lambda: run.train(parts))
    parts = experiment(output_dir=str(tmp_path / "parts"), steps=7, checkpoint_every=7, steps_per_execution=3)
    assert run.train(parts).finished
    assert_same(after_7_steps(), tmp_path / "parts/checkpoints/ckpt-7")


def test_what_is_due_within_an_execution_is_done_at_its_end(experiment):
    config = experiment(steps=10, steps_per_execution=4, checkpoint_every=3, evaluate_every=3)
    result = run.train(config)
    # Executions end at 4, 8 and 10; due are 3, 6 and 9.
    found = [path.name for path in list_checkpoints(result.folder.checkpoints)]
    assert found == ["ckpt-4", "ckpt-8", "ckpt-10"]
    assert sorted(ResultLog(result.folder).results()) == [4, 8, 10]


@pytest.mark.parametrize(
    ("changes", "replicas", "workers", "message"),
    [
        ({"batch_size": 3}, 4, 1, "--batch_size=3: 4 devices need at least an image each"),
        ({"batch_size": 9}, 4, 2, "--batch_size=9 cannot be shared equally by 2 workers"),
        ({"jit_compile": True}, 2, 1, "--jit_compile: XLA cannot exchange statistics between 2 devices"),
        (
            {"batch_size": 6, "gradient_accumulation": 3},
            4,
            1,
            "--gradient_accumulation=3: --batch_size=6 cannot be cut into 3 equal parts on each of 4 devices",
        ),
    ],
)
def test_what_several_devices_cannot_do(experiment, monkeypatch, changes, replicas, workers, message):
    monkeypatch.setattr(run.strategy, "worker_index", lambda over: (0, workers))
    with pytest.raises(UserError, match=message):
        run._check_batch(experiment(**changes), SimpleNamespace(num_replicas_in_sync=replicas))
