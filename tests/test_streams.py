"""Random numbers: one stream for each use, step, part, replica and layer; nothing is drawn twice."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.dropout import stateless_dropout
from fgfi_tf.models.faster_rcnn.head import BoxHead

STEPS, REPLICAS = 4, 3
# Dropout of all replicas at some steps, by way of the Distiller's seeds.
_PROGRAM = f"""
import sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * {REPLICAS})
from fgfi_tf import streams
from fgfi_tf.models.dropout import stateless_dropout

strategy = tf.distribute.MirroredStrategy([f"CPU:{{i}}" for i in range({REPLICAS})])

@tf.function
def masks(step):
    key = streams.key_of(0, streams.Use.TRAINING_STEP, step)
    per_replica = strategy.run(lambda: stateless_dropout(tf.ones([64]), 0.5, key))
    return tf.stack(strategy.experimental_local_results(per_replica))

np.save(sys.argv[1], np.stack([masks(tf.constant(step, tf.int64)).numpy() > 0 for step in range({STEPS})]))
"""


def assert_all_different(draws):
    """Bits [N, 64]: any two agree in about half."""
    for a, b in itertools.combinations(draws, 2):
        assert 12 < np.sum(a == b) < 52


def test_no_replica_repeats_another_at_any_step(tmp_path):
    path = tmp_path / "masks.npy"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    masks = np.load(path)  # steps x replicas x 64
    assert masks.shape == (STEPS, REPLICAS, 64)
    assert_all_different(masks.reshape(-1, 64))
    # Replica 0 draws what one device draws.
    for step in range(STEPS):
        key = streams.key_of(0, streams.Use.TRAINING_STEP, step)
        np.testing.assert_array_equal(stateless_dropout(tf.ones([64]), 0.5, key) > 0, masks[step, 0])


def test_keys_of_uses_seeds_and_indices_share_no_numbers(run_mode):
    bits = run_mode(lambda key: streams.uniform([64], key) > 0.5)
    keys = [streams.key_of(seed, use, index) for seed in (0, 1) for use in streams.Use for index in (0, 1, 2)]
    assert len(keys) == 2 * len(streams.Use) * 3
    keys += [streams.fold(keys[0], index) for index in range(3)]
    assert_all_different([bits(key).numpy() for key in keys])


def test_keys_are_functions_of_their_way(run_mode):
    key = run_mode(lambda seed, index: streams.fold(streams.key_of(seed, streams.Use.EPOCH, index), 3))
    first, again = (key(tf.constant(5, tf.int64), tf.constant(7, tf.int64)).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.int64 and first.shape == (2,)
    # A run that is resumed by another version of the package goes on with the same numbers.
    assert first.tolist() == [740439778781143743, 3]


def test_permutation_holds_every_number_once():
    orders = [streams.permutation(50, streams.key_of(0, streams.Use.EPOCH, e)).numpy() for e in range(3)]
    for order in orders:
        assert sorted(order) == list(range(50)) and order.dtype == np.int64
    assert len({tuple(order) for order in orders}) == 3


def test_seeds_of_the_parts_of_a_step():
    """Part p of step s of k is draw s * k + p; the seeds of a run and of the next seed's differ."""
    distiller = Distiller(Detector(), seed=4, gradient_accumulation=3)
    seeds = [distiller.seed_of(tf.constant(step, tf.int64), part) for step in (0, 1, 2) for part in range(3)]
    assert all(seed.dtype == tf.int32 for seed in seeds)
    assert [int(seed[1]) for seed in seeds] == list(range(9))
    assert_all_different([streams.uniform([64], seed).numpy() > 0.5 for seed in seeds])
    other = Distiller(Detector(), seed=5, gradient_accumulation=3)
    seeds = [d.seed_of(step) for d in (distiller, other) for step in range(3)]
    assert_all_different([streams.uniform([64], seed).numpy() > 0.5 for seed in seeds])


@pytest.mark.parametrize("seed", [-1, 2**31, 2**62])
def test_any_seed_of_64_bits(seed):
    assert int(Distiller(Detector(), seed=seed).seed_of(9)[1]) == 9


def test_layers_of_the_box_head_drop_units_of_their_own():
    """fc6 and fc7 of a step, and of the next seed's: with sums, fc7 repeated fc6 of the next seed."""
    head = BoxHead(64, 2, dropout=0.5)
    pooled = tf.ones([1, 1, 2, 2, 3])
    head(pooled)
    for layer in (head.fc6, head.fc7):
        layer.set_weights([np.zeros(layer.kernel.shape, np.float32), np.ones(64, np.float32)])
    seen = []
    head.fc7.call = _recording(head.fc7.call, seen)
    head.scores.call = _recording(head.scores.call, seen)
    for seed in ([0, 7], [1, 7]):
        head(pooled, dropout_seed=tf.constant(seed))
    assert len(seen) == 4
    assert_all_different([values.numpy().ravel() > 0 for values in seen])


def _recording(function, seen):
    def call(inputs):
        seen.append(inputs)
        return function(inputs)

    return call


def test_numbers_are_those_of_tensorflows_kernels_with_xla_too():
    key = streams.key_of(3, streams.Use.TRAINING_STEP, 8)
    plain = tf.random.stateless_uniform([50, 2], key, alg=streams.ALGORITHM).numpy()
    assert len(np.unique(plain)) == 100 and plain.min() < 0.1 and plain.max() > 0.9

    def drawn():
        return streams.uniform([50, 2], key)

    for numbers in (drawn(), tf.function(drawn)(), tf.function(drawn, jit_compile=True)()):
        np.testing.assert_array_equal(numbers, plain)
