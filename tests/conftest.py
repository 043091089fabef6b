"""Fixtures and helpers of the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import tensorflow as tf

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FGFI_SHARED_DATA", REPOSITORY.parent / "shared"))
GOLDEN = Path(__file__).resolve().parent / "golden"


def shared_path(relative: str) -> Path:
    """A path of the shared reference data; skips the test, with the reason, where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"the shared reference data is absent: {path}")
    return path


@pytest.fixture(name="shared_path")
def shared_path_fixture():
    return shared_path


@pytest.fixture(autouse=True)
def _seeded():
    """Each test draws the same random numbers, whatever ran before it."""
    np.random.seed(0)
    tf.random.set_seed(0)


@pytest.fixture(params=["eager", "graph"])
def run_mode(request):
    """Calls a function eagerly and as a tf.function."""
    return (lambda f: f) if request.param == "eager" else (lambda f: tf.function(f))
