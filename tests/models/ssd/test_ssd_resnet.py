"""SSD on ResNets of any width: maps, parameters, folding, options, what it loads."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from spread import checked_inference_copy, spread_statistics

from fgfi_tf.errors import UserError
from fgfi_tf.models import loading, registry

CLASSES = ("a", "b", "c")
NARROW = {"width": 1 / 8, "norm": "synchronised", "frozen_stages": 0}


@pytest.fixture(scope="module", name="detector")
def detector_fixture():
    """With statistics other than 0 and 1, so that folding has something to fold."""
    tf.random.set_seed(1)
    model = registry.build("ssd300_resnet18", input_size=(300, 300), class_names=CLASSES, **NARROW)
    spread_statistics(model)
    return model


def test_parameters_by_hand(detector):
    # Of the stem's 8 channels on: two blocks of two 3 x 3 each stage, a 1 x 1 where a stage widens; norms.
    total = 7 * 7 * 3 * 8 + 2 * 8
    for before, channels in ((8, 8), (8, 16), (16, 32), (32, 64)):
        total += 9 * before * channels + 3 * 9 * channels**2 + 4 * 2 * channels
        total += (before * channels + 2 * channels) if before != channels else 0
    for before in (64, 32, 32):  # 1 x 1 to 16, 3 x 3 to 32
        total += before * 16 + 16 + 9 * 16 * 32 + 32
    assert detector.feature_channels == (16, 32, 64, 32, 32, 32)
    for channels, boxes in zip(detector.feature_channels, (4, 6, 6, 6, 4, 4), strict=True):
        total += boxes * (4 + 4) * (9 * channels + 1)
    assert sum(int(np.prod(v.shape)) for v in detector.trainable_variables) == total
    assert detector.feature_strides == (8, 16, 32, 64, 100, 300)


def test_the_inference_copy_is_the_same_function(detector):
    images = tf.random.stateless_uniform([2, 300, 300, 3], [1, 2], 0, 255)
    copy, ours = checked_inference_copy(detector, images)
    assert [m.shape[1:3] for m in ours["features"]] == [(n, n) for n in (38, 19, 10, 5, 3, 1)]
    assert type(copy) is type(detector) and copy.metadata == detector.metadata


def test_every_variable_learns_and_what_is_frozen_does_not(detector, run_mode):
    images = tf.random.stateless_uniform([2, 300, 300, 3], [1, 2], 0, 255)

    def gradients():
        with tf.GradientTape() as tape:
            outputs = detector(detector.preprocess(images), training=True)
            loss = tf.reduce_sum(tf.square(outputs["logits"])) + tf.reduce_sum(tf.square(outputs["offsets"]))
        return tape.gradient(loss, detector.trainable_variables)

    found = run_mode(gradients)()
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in found)
    frozen = registry.build("ssd300_resnet18", input_size=(300, 300), class_names=CLASSES, width=1 / 16)
    names = [v.name for v in frozen.trainable_variables]
    assert not any(part in name for name in names for part in ("stem", "res2", "gamma", "beta"))
    assert any("res3" in name for name in names)


def test_options_go_into_the_metadata_and_are_checked(detector):
    kept = dataclasses.asdict(detector.metadata)["options"]
    assert kept == NARROW
    with pytest.raises(UserError, match="--resnet_style=keras: .*caffe, torchvision"):
        registry.check_options("ssd300_resnet18", {"resnet_style": "keras"})


def test_which_weights_it_takes(detector, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="a.pth: holds ImageNet weights, not a trained detector"):
        loading.load_weights(detector, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth: damaged or not a PyTorch file"):
        loading.load_initial_weights(detector, tmp_path / "a.pth")
