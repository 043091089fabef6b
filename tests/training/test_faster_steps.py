"""Options that change how a step is computed and not what it computes, or hardly; alone and together."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from short_networks import SHUFFLEDET_UNITS
from test_run import assert_same, scalars, stop_at, weights

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.shuffledet import ShuffleDet, network
from fgfi_tf.training import run
from fgfi_tf.training.checkpoints import list_checkpoints
from fgfi_tf.training.evaluator import ResultLog
from fgfi_tf.training.optimizers import MomentumSGD


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
    [
        pytest.param({}, marks=pytest.mark.long),
        {"gradient_accumulation": 2, "steps_per_execution": 3},
    ],
    ids=["alone", "accumulated-several"],
)
def test_xla_computes_the_same_steps(after_7_steps, options):
    assert_near(after_7_steps(**options), after_7_steps(**options, jit_compile=True), atol=1e-4)


def street_batch(student, seed):
    """Two noise images of 64 x 96 with three objects each, the last of the second one padding."""
    random = np.random.default_rng(seed)
    first, size = random.uniform(0.0, 40.0, (2, 3, 2)), random.uniform(12.0, 23.0, (2, 3, 2))
    batch = {
        "image": random.uniform(0.0, 255.0, (2, 64, 96, 3)).astype(np.float32),
        "boxes": np.concatenate([first, first + size], axis=-1).astype(np.float32),
        "classes": random.integers(0, 3, (2, 3)).astype(np.int32),
        "valid": np.array([[True, True, True], [True, True, False]]),
    }
    return student.prepare_batch(tf.nest.map_structure(tf.constant, batch))


@pytest.mark.slow
@pytest.mark.parametrize(
    "units", [SHUFFLEDET_UNITS, pytest.param(network.GROUP_UNITS, marks=pytest.mark.long)]
)
def test_xla_computes_the_same_imitating_steps_of_shuffledet_and_compiles_once(monkeypatch, units):
    """Three steps on three batches, dropout on; steps so small that rounding does not grow in them."""
    monkeypatch.setattr(network, "GROUP_UNITS", units)
    logs, moved, statistics, seconds = {}, {}, {}, []
    for compiled in (False, True):
        keras.utils.set_random_seed(0)
        student, teacher = (ShuffleDet(f"shuffledet_{x}x", input_size=(64, 96)) for x in ("0.25", "0.5"))
        distiller = Distiller(student, teacher.inference_copy(), ImitationLoss(teacher.feature_channels))
        distiller.compile(MomentumSGD(1e-6, 0.9))
        start = [v.numpy() for v in distiller.trained_variables]
        step = tf.function(distiller.train_step, jit_compile=compiled, autograph=False)
        for seed in range(3):
            batch, began = street_batch(student, seed), time.perf_counter()
            logs[compiled] = {name: float(value) for name, value in step(batch).items()}
            seconds.append(time.perf_counter() - began)
        end = [v.numpy() for v in distiller.trained_variables]
        moved[compiled] = np.concatenate([np.ravel(e - s) for e, s in zip(end, start, strict=True)])
        statistics[compiled] = [v.numpy() for v in student.non_trainable_variables]
    assert logs[False]["imitation_loss"] > 0.01
    assert logs[True] == pytest.approx(logs[False], rel=1e-4)
    distance = np.linalg.norm(moved[False])
    assert distance > 1e-4
    assert np.linalg.norm(moved[True] - moved[False]) < 0.01 * distance
    for expected, value in zip(statistics[False], statistics[True], strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)
    assert max(seconds[4:]) < seconds[3] / 3  # only the first of its steps compiles


def test_several_accumulated_steps_in_one_execution(after_7_steps):
    assert_same(
        after_7_steps(gradient_accumulation=2), after_7_steps(gradient_accumulation=2, steps_per_execution=3)
    )


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation": 2}], ids=["alone", "accumulated"])
def test_bfloat16_keeps_float32_weights_and_nearly_the_same_steps(after_7_steps, options):
    # Momentum slots carry the gradients' rounding. The rate is one at which the loss falls: where it rises,
    # rounding grows with it, and how much depends on what was drawn.
    options = {**options, "learning_rate": 0.002}
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
    monkeypatch.setattr(run, "worker_index", lambda strategy: (0, workers))
    with pytest.raises(UserError, match=message):
        run._check_batch(experiment(**changes), SimpleNamespace(num_replicas_in_sync=replicas))
