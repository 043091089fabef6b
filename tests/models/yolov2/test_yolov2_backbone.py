"""YOLOv2's head on EfficientNet-Lite0: parameters, sizes, folding, what it loads, whom it teaches."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf
from spread import checked_inference_copy, spread_statistics

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.levels import pair_by_stride
from fgfi_tf.models import loading, registry
from fgfi_tf.models.backbones import pretrained

NAME = "yolov2_efficientnet_lite0"
ANCHORS = "0.5x0.6,1.2x1.5"


def build(name=NAME, **options):
    return registry.build(
        name, input_size=(64, 96), class_names=("face",), **{"width": 1 / 32, "anchors": ANCHORS, **options}
    )


@pytest.fixture(scope="module", name="detector")
def detector_fixture():
    """With statistics other than 0 and 1, so that folding has something to fold."""
    tf.random.set_seed(1)
    model = build()
    spread_statistics(model)
    return model


def test_parameters_by_hand(detector):
    """The published classifier without its last 1 x 1 convolution and its dense layer; YOLOv2's head."""
    total = 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)
    # Of 1/32: two 3 x 3 convolutions of 32 channels, a passthrough of 2, four times that and 32 together.
    total += 9 * 320 * 32 + 9 * 32 * 32 + 112 * 2 + 9 * (4 * 2 + 32) * 32
    total += 2 * (32 + 32 + 2 + 32)  # scale and shift
    total += 32 * 2 * 6 + 2 * 6  # two anchors of 5 + 1 numbers
    assert sum(int(np.prod(v.shape)) for v in detector.trainable_variables) == total
    assert detector.feature_channels == (32,)


def test_maps_are_yolov2s_at_any_size(detector):
    for height, width in ((64, 96), (32, 160)):
        outputs = detector(tf.zeros([2, height, width, 3]))
        assert outputs["predictions"].shape == (2, height // 32, width // 32, 2 * 6)
        assert [m.shape for m in outputs["features"]] == [(2, height // 32, width // 32, 32)]
    with pytest.raises(UserError, match="48x96: height and width must be divisible by 32"):
        registry.build(NAME, input_size=(48, 96), class_names=("face",))


def test_it_teaches_yolov2(detector):
    """Maps of one stride are compared, and equal anchors mark the same positions."""
    student = build("yolov2_0.25x")
    strides = student.feature_strides, detector.feature_strides
    assert tuple(pair_by_stride(*strides, 1, 1)) == ((0, 0),)
    for ours, theirs in zip(
        student.imitation_anchors(64, 96), detector.imitation_anchors(64, 96), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    # its pixels are those of ImageNet's weights: what it is given is made for it
    assert student.preprocessing != detector.preprocessing
    np.testing.assert_array_equal(detector.preprocess(tf.fill([1, 1, 1, 3], 255)), np.ones((1, 1, 1, 3)))


def test_the_inference_copy_is_the_same_function(detector):
    images = tf.random.stateless_uniform([2, 64, 96, 3], [1, 2], 0, 255)
    copy, _ = checked_inference_copy(detector, images)
    assert type(copy) is type(detector)
    assert copy.metadata == detector.metadata


def test_every_variable_learns_and_kernels_decay(detector):
    images = tf.random.stateless_uniform([2, 64, 96, 3], [1, 2], 0, 255)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(detector(detector.preprocess(images), training=True)["predictions"]))
    gradients = tape.gradient(loss, detector.trainable_variables)
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    rates = {
        v.name.rsplit("/", 1)[-1].split(":")[0]: detector.decay_rate(v) for v in detector.trainable_variables
    }
    assert rates == {"kernel": 0.0005, "bias": 0.0, "gamma": 0.0, "beta": 0.0}


def test_which_weights_it_takes(detector, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="a.pth: holds ImageNet weights, not a trained detector"):
        loading.load_weights(detector, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth: damaged or not a PyTorch file"):
        loading.load_initial_weights(detector, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"{NAME} has no .weights file"):
        detector.save_darknet(tmp_path / "a.weights")
    with pytest.raises(UserError, match=f"unknown model 'yolov2'; YOLOv2 comes as {NAME}"):
        type(detector)("yolov2")
    assert registry.is_pretrained(NAME, "imagenet") and not registry.declaration(NAME).teacher
    if importlib.util.find_spec(pretrained.LITE0_PACKAGE):
        one = build()
        other = registry.build("efficientnet_lite0_shuffledet", input_size=(64, 96), class_names=("face",))
        for model in (one, other):
            assert loading.load_initial_weights(model, "imagenet") == ""
        np.testing.assert_array_equal(one.network.backbone.stem.kernel, other.backbone.trunk.stem.kernel)
