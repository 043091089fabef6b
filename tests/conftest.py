"""Fixtures and helpers of the whole suite."""

from __future__ import annotations

import collections
import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

# Under nohup, which the commands that are tested respect, the tests of SIGHUP would find nothing.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import pytest
import tensorflow as tf
import tf_keras as keras
from places import shared_path
from short_networks import SHUFFLEDET_UNITS

from fgfi_tf.models.shuffledet import network


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup(item):
    """Tests that take minutes, or prove again what others prove in seconds, run where they are asked for."""
    if item.get_closest_marker("long") and os.environ.get("FGFI_LONG_TESTS") != "1":
        pytest.skip("takes a minute or more: run it with FGFI_LONG_TESTS=1")


def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first: of two processes none is to start a long file last."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # within a file the order stays


@pytest.fixture(name="shared_path", scope="session")
def shared_path_fixture():
    return shared_path


@pytest.fixture(autouse=True)
def _seeded():
    """Each test draws the same random numbers; Keras seeds initial weights from Python's generator."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", name="short_shuffledet")
def short_shuffledet_fixture():
    """ShuffleDet with few units, in the processes of the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "GROUP_UNITS", SHUFFLEDET_UNITS)
        yield


@pytest.fixture(params=["eager", "graph"])
def run_mode(request):
    """Calls a function eagerly and as a tf.function, traced as the trainer does, which has no autograph."""
    return (lambda f: f) if request.param == "eager" else (lambda f: tf.function(f, autograph=False))
