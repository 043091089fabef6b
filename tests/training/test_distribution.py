"""The same mathematics on one device and on several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}",
    "CUDA_VISIBLE_DEVICES": "-1",
}


def trained(tmp_path, model, teacher, replicas, images=79, **environment):
    """For each number of replicas, the arrays of ``distribution_program.py`` by name."""
    results = {}
    for count in replicas:
        output = tmp_path / f"{count}.npz"
        command = [
            sys.executable,
            HERE / "distribution_program.py",
            model,
            teacher,
            str(count),
            str(images),
            output,
        ]
        done = subprocess.run(
            command, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results[count] = dict(np.load(output))
    return results


def assert_same_training(results, atol=1e-5, gradient_atol=1e-5):
    alone, *others = results.values()
    assert len(alone["losses"]) == 10
    assert np.isfinite(alone["losses"]).all()
    for other in others:
        assert other.keys() == alone.keys()
        np.testing.assert_allclose(other["losses"], alone["losses"], rtol=atol, atol=atol)
        largest = max(np.abs(value).max() for name, value in alone.items() if name.startswith("gradient"))
        for name, value in alone.items():
            if name.startswith("gradient"):
                np.testing.assert_allclose(
                    other[name], value, rtol=0, atol=gradient_atol * largest, err_msg=name
                )
            elif name != "losses":
                scale = max(1.0, float(np.abs(value).max()))
                np.testing.assert_allclose(other[name], value, rtol=0, atol=atol * scale, err_msg=name)


@pytest.mark.slow
def test_tiny_imitation_on_1_2_and_4_devices(tmp_path):
    assert_same_training(trained(tmp_path, "tiny_plain", "tiny_teacher", (1, 2, 4)), atol=1e-5)


@pytest.mark.slow
def test_replica_without_any_image(tmp_path):
    # The last batch holds 5 images: 2, 2, 1 and none. TensorFlow's oneDNN convolution gives an empty
    # batch its input's shape, so this needs its own kernels; the trainer's batches are always full.
    results = trained(tmp_path, "tiny_plain", "tiny_teacher", (1, 4), images=77, TF_ENABLE_ONEDNN_OPTS="0")
    assert_same_training(results, atol=1e-5)


@pytest.mark.slow
def test_shuffledet_imitation_on_1_and_2_devices(tmp_path):
    # Its gradients carry rounding errors of 2e-4 of the largest: two sets of kernels on one device
    # (TF_ENABLE_ONEDNN_OPTS=0 and 1) differ by as much as one device and two.
    results = trained(tmp_path, "shuffledet_0.25x", "shuffledet_0.5x", (1, 2))
    assert_same_training(results, gradient_atol=2e-3)
