"""Devices: what is chosen, and what is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.training import strategy


def test_one_cpu_needs_no_mirror():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert isinstance(strategy.build_strategy(), tf.distribute.OneDeviceStrategy)


def test_named_device():
    over = strategy.build_strategy("cpu:0")
    assert over.num_replicas_in_sync == 1
    assert strategy.is_chief(over)
    assert strategy.worker_index(over) == (0, 1)


@pytest.mark.parametrize(
    ("devices", "message"),
    [("gpu:77", "no device gpu:77; this machine has cpu:0"), ("cpu:0,cpu:0", "a device is named twice")],
)
def test_impossible_devices(devices, message):
    with pytest.raises(UserError, match=message):
        strategy.build_strategy(devices)


SUMS = """
import tensorflow as tf
import tf_keras as keras
from fgfi_tf.training.strategy import build_strategy

def mean_of_replicas(strategy, channels):
    with strategy.scope():
        norm = keras.layers.BatchNormalization(synchronized=True, momentum=0.0)
        norm.build((None, channels))
    def replica():
        number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
        norm(tf.fill([1, channels], number), training=True)
    tf.function(lambda: strategy.run(replica), autograph=False)()
    print(norm.moving_mean.numpy().tolist())

mean_of_replicas(build_strategy(virtual_cpus=3), 1)
for devices, channels in (("cpu:0,cpu:1", 1), ("cpu:0,cpu:1", 2), ("cpu:2,cpu:0", 1)):
    mean_of_replicas(build_strategy(devices), channels)
"""


def test_trainings_of_a_process_on_other_devices_and_of_other_shapes():
    """Replicas hold 0, 1 and 2: the mean of three is 1, of two a half."""
    done = subprocess.run([sys.executable, "-c", SUMS], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["[1.0]", "[0.5]", "[0.5, 0.5]", "[0.5]", ""], done.stderr[-3000:]


def test_virtual_cpus_asked_for_too_late():
    tf.constant(0) + 1  # starts the devices
    with pytest.raises(UserError, match="--virtual_cpus=7: TensorFlow has already started its devices"):
        strategy.build_strategy(virtual_cpus=7)


@pytest.mark.parametrize(("flags", "name"), [(("gpu:0",), "--devices=gpu:0"), (("", 2), "--virtual_cpus=2")])
def test_devices_of_a_cluster_are_not_chosen_by_flags(monkeypatch, flags, name):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(UserError, match=f"{name}: with TF_CONFIG each worker uses every GPU"):
        strategy.build_strategy(*flags)


def test_cluster_of_one_worker_is_no_cluster(monkeypatch):
    cluster = {"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    assert strategy.build_strategy("cpu:0").num_replicas_in_sync == 1
