"""Weights of keras.applications VGG16."""

import h5py
import numpy as np
import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.interop import keras_weights
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig

STAGES = {1: (1, 1), 2: (2, 2), 3: (4, 4, 4), 4: (8, 8, 8), 5: (8, 8, 8)}  # channels at width 1 / 64


def _write(path, root="", without=(), style="{0}/{0}_{1}_1:0"):
    """A file of random weights; returns them by layer."""
    generator = np.random.default_rng(1)
    shapes, previous = {}, 3
    for stage, channels in STAGES.items():
        for index, count in enumerate(channels, start=1):
            shapes[f"block{stage}_conv{index}"] = (3, 3, previous, count)
            previous = count
    shapes |= {"fc1": (49 * 8, 64), "fc2": (64, 64), "predictions": (64, 1000)}
    weights = {name: (generator.normal(size=s), generator.normal(size=s[-1:])) for name, s in shapes.items()}
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        for name, arrays in weights.items():
            if name not in without:
                for kind, array in zip(("W", "b"), arrays, strict=True):
                    group[style.format(name, kind)] = array.astype(np.float32)
    return weights


def _detector(backbone="vgg16"):
    return FasterRCNN(FasterRCNNConfig(backbone=backbone, width=1 / 64))


@pytest.mark.parametrize(
    ("root", "style"), [("", "{0}/{0}_{1}_1:0"), ("model_weights", "{0}/{0}/{1}:0"), ("", "{0}/vars/{1}")]
)
def test_layers_are_loaded(tmp_path, root, style):
    path = tmp_path / "vgg16.h5"
    weights = _write(path, root, style=style)
    detector = _detector()
    keras_weights.load_imagenet(detector, path)
    kernel, bias = weights["block1_conv1"]
    np.testing.assert_allclose(detector.base.convolutions[0].kernel, kernel, rtol=1e-6)
    # keras subtracts (103.939, 116.779, 123.68) BGR where we subtract (102.9801, 115.9465, 122.7717)
    shift = np.array([102.9801 - 103.939, 115.9465 - 116.779, 122.7717 - 123.68])
    expected = bias + np.sum(kernel * shift[:, None], axis=(0, 1, 2))
    np.testing.assert_allclose(detector.base.convolutions[0].bias, expected, rtol=1e-5)
    np.testing.assert_allclose(detector.base.convolutions[-1].kernel, weights["block5_conv3"][0], rtol=1e-6)
    np.testing.assert_allclose(detector.head.fc6.kernel, weights["fc1"][0], rtol=1e-6)
    np.testing.assert_allclose(detector.head.fc7.bias, weights["fc2"][1], rtol=1e-6)


def test_bad_files(tmp_path):
    path = tmp_path / "vgg16.h5"
    with pytest.raises(UserError, match="vgg16.h5: no such file"):
        keras_weights.load_imagenet(_detector(), path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="vgg16.h5: damaged or not an h5 file"):
        keras_weights.load_imagenet(_detector(), path)
    _write(path, without=("fc1", "fc2", "predictions"))
    with pytest.raises(UserError, match="it lacks fc1/kernel, fc1/bias, fc2/kernel, fc2/bias"):
        keras_weights.load_imagenet(_detector(), path)
    with pytest.raises(UserError, match="keras.applications has VGG16 only, not vgg11"):
        keras_weights.load_imagenet(_detector("vgg11"), path)
