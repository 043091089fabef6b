"""SSD on EfficientNet-Lite0: maps, parameters, folding, what it loads."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf
from spread import checked_inference_copy, spread_statistics
from ssd_fixtures import batch_of

from fgfi_tf.errors import UserError
from fgfi_tf.models import loading, registry
from fgfi_tf.models.backbones import pretrained

NAME = "ssd300_efficientnet_lite0"
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module", name="detector")
def detector_fixture():
    """With statistics other than 0 and 1, so that folding has something to fold."""
    tf.random.set_seed(1)
    model = registry.build(NAME, input_size=(300, 300), class_names=CLASSES, matching="each_best")
    spread_statistics(model)
    return model


def test_parameters_by_hand(detector):
    # The published network without its last 1 x 1 convolution and its classifier.
    total = 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)
    for before in (320, 256, 256):
        total += before * 128 + 128 + 9 * 128 * 256 + 256
    for channels, boxes in zip((40, 112, 320, 256, 256, 256), (4, 6, 6, 6, 4, 4), strict=True):
        total += boxes * (4 + 4) * (9 * channels + 1)
    assert sum(int(np.prod(v.shape)) for v in detector.trainable_variables) == total
    assert detector.feature_channels == (40, 112, 320, 256, 256, 256)
    assert detector.feature_strides == (8, 16, 32, 64, 100, 300)


def test_the_inference_copy_is_the_same_function(detector):
    images = tf.random.stateless_uniform([2, 300, 300, 3], [1, 2], 0, 255)
    copy, ours = checked_inference_copy(detector, images)
    assert [m.shape[1:3] for m in ours["features"]] == [(n, n) for n in (38, 19, 10, 5, 3, 1)]
    assert (copy.matching, copy.metadata) == ("each_best", detector.metadata)


def test_at_the_start_all_classes_are_equally_likely(detector):
    """A matched box and the three hardest others cost little above ln 4 each: three classes and background.

    Maps of ImageNet's weights deviate by up to 7.
    """
    batch = {**batch_of([[42, 26, 101, 85]], [1]), "step": tf.constant(0, tf.int64)}
    maps = detector(detector.preprocess(batch["image"]), training=True)["features"]
    logits, offsets = detector.heads([7.0 * features / tf.math.reduce_std(features) for features in maps])
    losses = detector.detection_losses({"logits": logits, "offsets": offsets}, detector.prepare_batch(batch))
    assert 4 * np.log(4) < losses["class_loss"] < 2 * 4 * np.log(4)


def test_batch_norm_does_not_decay(detector):
    rates = {
        v.name.rsplit("/", 1)[-1].split(":")[0]: detector.decay_rate(v) for v in detector.trainable_variables
    }
    assert rates == {"kernel": 0.0005, "bias": 0.0, "gamma": 0.0, "beta": 0.0}


def test_every_variable_learns(detector):
    images = tf.random.stateless_uniform([2, 300, 300, 3], [1, 2], 0, 255)
    with tf.GradientTape() as tape:
        outputs = detector(detector.preprocess(images), training=True)
        loss = tf.reduce_sum(tf.square(outputs["logits"])) + tf.reduce_sum(tf.square(outputs["offsets"]))
    gradients = tape.gradient(loss, detector.trainable_variables)
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)


def test_which_weights_it_takes(detector, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="a.pth: holds ImageNet weights, not a trained detector"):
        loading.load_weights(detector, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth: damaged or not a PyTorch file"):
        loading.load_initial_weights(detector, tmp_path / "a.pth")
    with pytest.raises(UserError, match="imagenet: ssd300_vgg16 has no such weights of its own"):
        registry.is_pretrained("ssd300_vgg16", "imagenet")
    if importlib.util.find_spec(pretrained.LITE0_PACKAGE):
        assert loading.load_initial_weights(detector, "imagenet") == ""
        other = registry.build("efficientnet_lite0_shuffledet", input_size=(64, 64), class_names=CLASSES)
        loading.load_initial_weights(other, "imagenet")
        stem, same = detector.backbone.backbone.stem.kernel, other.backbone.trunk.stem.kernel
        np.testing.assert_array_equal(stem, same)
