"""Options that change how a step is computed and not what it computes, or hardly."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras as keras
from test_run import assert_same, scalars, weights

from fgfi_tf.training import run


@pytest.fixture(name="both")
def both_fixture(experiment, tmp_path):
    """Trains with and without some options; the folders of the last checkpoints."""

    def train(**changes):
        paths = []
        for name, options in (("plain", {}), ("changed", changes)):
            result = run.train(
                experiment(output_dir=str(tmp_path / name), steps=7, checkpoint_every=7, **options)
            )
            paths.append(result.folder.checkpoints / "ckpt-7")
        return paths

    return train


def test_several_steps_in_one_execution_are_the_same_steps(both, tmp_path):
    assert_same(*both(steps_per_execution=3))
    # Executions end at steps 3, 6 and 7: summaries are due at 2, 4 and 6.
    assert scalars(tmp_path / "changed/tensorboard")["train/loss"] == [3, 6]


def test_xla_computes_the_same_steps(both):
    plain, compiled = (weights(path) for path in both(jit_compile=True))
    for name, value in plain.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(compiled[name], value, rtol=0, atol=1e-4 * scale, err_msg=name)


def test_bfloat16_keeps_float32_weights_and_nearly_the_same_steps(both):
    plain, mixed = (weights(path) for path in both(mixed_precision="bfloat16"))
    for name in (name for name in plain if name.startswith("student/") and "SLOT" not in name):
        assert mixed[name].dtype == np.float32
        np.testing.assert_allclose(mixed[name], plain[name], atol=0.03, rtol=0.05)
    assert keras.mixed_precision.global_policy().name == "float32"
