"""A batch on two devices gives the losses and gradients of one device."""

import json
import subprocess
import sys

import numpy as np
import pytest

_SCRIPT = """
import json, sys
import numpy as np
import tensorflow as tf
import tf_keras as keras

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from fgfi_tf.models.faster_rcnn import build

name, options = sys.argv[1], json.loads(sys.argv[2])
options = dict(train_pre_nms=600, train_post_nms=100, rpn_batch=16) | options
generator = np.random.default_rng(1)
boxes = np.zeros([4, 2, 4], np.float32)
boxes[:3, 0] = [[10, 20, 150, 140], [60, 30, 180, 150], [5, 5, 120, 120]]  # the last image has no object
full = {
    "image": generator.uniform(0, 255, [4, 160, 192, 3]).astype(np.float32),
    "boxes": boxes,
    "classes": np.array([[3, 0], [7, 0], [11, 0], [0, 0]], np.int32),
    "valid": np.array([[True, False]] * 3 + [[False, False]]),
    "content_size": np.array([[160.0, 192.0]] * 4, np.float32),
}

def wave(g):
    return tf.reshape(tf.cos(tf.range(tf.size(g), dtype=tf.float32)), g.shape)

def run(strategy, parts):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        detector = build(name, class_names=tuple("abcdefghijklmnopqrst"), **options)
        start = [float(tf.reduce_sum(v)) for v in detector.variables if "moving" in v.name]

    def replica():
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        batch = {k: tf.gather(tf.stack([v[p] for p in parts]), rank) for k, v in full.items()}
        batch["seed"] = tf.constant([1, 2])
        with tf.GradientTape() as tape:
            outputs = detector(detector.preprocess(batch["image"]), training=True, seed=batch["seed"])
            losses = detector.detection_losses(outputs, batch)
            total = tf.add_n(list(losses.values()))
        gradients = tape.gradient(total, detector.trainable_variables)
        return losses, [tf.reduce_sum(g * wave(g)) for g in gradients]  # one number of each

    losses, gradients = tf.function(lambda: strategy.run(replica), autograph=False)()
    add = lambda v: float(strategy.reduce("SUM", v, axis=None))
    moved = [float(tf.reduce_sum(v)) for v in detector.variables if "moving" in v.name]
    moved = [now - then for now, then in zip(moved, start)]
    return {k: add(v) for k, v in losses.items()}, [add(g) for g in gradients], moved

one = run(tf.distribute.OneDeviceStrategy("CPU:0"), [slice(0, 4)])
two = run(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), [slice(0, 2), slice(2, 4)])
print("RESULT", json.dumps([one, two]))
"""


SYNCHRONISED = {"width": 1 / 16, "norm": "synchronised", "frozen_stages": 0}


@pytest.mark.long  # training/test_distribution has it of VGG11 and, of other detectors, of batch norm
@pytest.mark.parametrize(
    "name, options",
    [
        ("faster_rcnn_vgg11", {"width": 0.05, "dropout": 0.0}),
        ("faster_rcnn_resnet18", SYNCHRONISED),
        ("faster_rcnn_resnet18_fpn", {**SYNCHRONISED, "fpn_channels": 8, "head_units": 16, "roi_batch": 64}),
    ],
)
def test_two_devices_equal_one(name, options):
    command = [sys.executable, "-c", _SCRIPT, name, json.dumps(options)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith("RESULT"))
    one, two = json.loads(line.removeprefix("RESULT"))
    assert one[0].keys() == two[0].keys() and len(one[0]) == 4
    for name, value in one[0].items():
        assert value > 0
        np.testing.assert_allclose(two[0][name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(two[1], one[1], rtol=1e-3, atol=1e-4 * np.abs(one[1]).max())
    np.testing.assert_allclose(two[2], one[2], rtol=1e-3, atol=1e-5)
    assert (np.count_nonzero(one[2]) > 0) == ("norm" in options)
