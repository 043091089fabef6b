"""Mixed precision: every kind of detector, and every kind of backbone, takes a step in half precision."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.models import registry
from fgfi_tf.models.normalization import L2Normalization

pytestmark = pytest.mark.usefixtures("short_shuffledet")

NARROW_FPN = {"fpn_channels": 8, "head_units": 16}
NARROW = {
    "shuffledet_0.25x": {},
    "resnet18_shuffledet": {},
    "efficientnet_lite0_shuffledet": {},
    "yolov2_0.15x": {},
    "yolov2_efficientnet_lite0": {"width": 1 / 16},
    "ssd300_vgg11": {"width": 1 / 16},
    "ssd300_vgg16": {"width": 1 / 16},
    "ssd300_resnet18": {"width": 1 / 8},
    "ssd300_efficientnet_lite0": {},
    "faster_rcnn_vgg11": {"width": 1 / 16},
    "faster_rcnn_vgg11_fpn": {"width": 1 / 16, **NARROW_FPN},
    "faster_rcnn_resnet18": {"width": 1 / 8},
    "faster_rcnn_resnet18_fpn": {"width": 1 / 8, **NARROW_FPN},
    "faster_rcnn_efficientnet_lite0_fpn": NARROW_FPN,
}
NOTHING_FROZEN = {"frozen_stages": 0, "frozen_layers": 0}
ALSO_FLOAT16 = ("shuffledet_0.25x", "yolov2_0.15x", "ssd300_vgg11", "faster_rcnn_vgg11_fpn")


@pytest.fixture(name="half")
def half_fixture(request):
    keras.mixed_precision.set_global_policy(f"mixed_{request.param}")
    yield tf.as_dtype(request.param)
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    ("half", "name"),
    [("bfloat16", name) for name in NARROW] + [("float16", name) for name in ALSO_FLOAT16],
    indirect=["half"],
)
def test_losses_and_weights_are_float32_and_every_gradient_is_there(half, name):
    side = 300 if name.startswith("ssd300") else 128
    known = {option.name for option in registry.options(name)}
    detector = registry.build(
        name,
        input_size=(side, side),
        class_names=("a", "b"),
        **NARROW[name],
        **{key: value for key, value in NOTHING_FROZEN.items() if key in known},
    )
    batch = {
        "image": tf.random.stateless_uniform([1, side, side, 3], [1, 2], 0, 255),
        "boxes": tf.constant([[[20.0, 30.0, 80.0, 90.0]]]),
        "classes": tf.constant([[1]]),
        "valid": tf.constant([[True]]),
        "content_size": tf.constant([[side, side]], tf.float32),
        "seed": tf.constant([1, 2]),
        "step": tf.constant(0, tf.int64),
    }

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            seed = {"seed": batch["seed"]} if name.startswith("faster_rcnn") else {}
            outputs = detector(detector.preprocess(batch["image"]), training=True, **seed)
            losses = detector.detection_losses(outputs, detector.prepare_batch(batch))
            total = tf.add_n(list(losses.values()))
        return outputs["features"], losses, tape.gradient(total, detector.trainable_variables)

    features, losses, gradients = step()
    assert all(map.dtype == half for map in tf.nest.flatten(features))
    assert all(loss.dtype == tf.float32 and np.isfinite(loss) for loss in losses.values())
    assert all(v.dtype == tf.float32 for v in detector.variables)
    assert detector.trainable_variables
    for variable, gradient in zip(detector.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.isfinite(gradient).all(), variable.name


@pytest.mark.parametrize("half", ["bfloat16", "float16"], indirect=True)
def test_lengths_are_taken_in_float32(half):
    """(300, 400) has length 500; float16 cannot hold the sum of their squares."""
    layer = L2Normalization()
    found = layer(tf.constant([[[[300.0, 400.0]]]], half))
    assert found.dtype == half
    np.testing.assert_allclose(
        tf.cast(found, tf.float32), [[[[12.0, 16.0]]]], rtol=2**-8
    )  # 20 times 0.6, 0.8
