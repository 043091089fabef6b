"""Weights of keras.applications VGG16."""

import h5py
import numpy as np
import pytest
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig
from fgfi_tf.models.faster_rcnn import weights as frcnn_weights

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
    frcnn_weights.load_keras_imagenet(detector, path)
    kernel, bias = weights["block1_conv1"]
    np.testing.assert_allclose(detector.base.convolutions[0].kernel, kernel, rtol=1e-6)
    # keras subtracts (103.939, 116.779, 123.68) BGR where we subtract (102.9801, 115.9465, 122.7717)
    shift = np.array([102.9801 - 103.939, 115.9465 - 116.779, 122.7717 - 123.68])
    expected = bias + np.sum(kernel * shift[:, None], axis=(0, 1, 2))
    np.testing.assert_allclose(detector.base.convolutions[0].bias, expected, rtol=1e-5)
    np.testing.assert_allclose(detector.base.convolutions[-1].kernel, weights["block5_conv3"][0], rtol=1e-6)
    np.testing.assert_allclose(detector.head.fc6.kernel, weights["fc1"][0], rtol=1e-6)
    np.testing.assert_allclose(detector.head.fc7.bias, weights["fc2"][1], rtol=1e-6)


def test_file_without_classifier_leaves_the_box_head_and_says_so(tmp_path, caplog):
    # What keras.applications.VGG16(include_top=False).save_weights writes, of fewer channels.
    inputs = outputs = keras.Input([None, None, 3])
    for stage, channels in STAGES.items():
        for index, count in enumerate(channels, start=1):
            outputs = keras.layers.Conv2D(count, 3, padding="same", name=f"block{stage}_conv{index}")(outputs)
        outputs = keras.layers.MaxPooling2D(name=f"block{stage}_pool")(outputs)
    model, path = keras.Model(inputs, outputs, name="vgg16"), tmp_path / "vgg16_notop.h5"
    for layer in model.layers:
        layer.set_weights([np.random.normal(size=weight.shape) for weight in layer.get_weights()])
    model.save_weights(path)

    detector = _detector()
    before = [layer.get_weights() for layer in (detector.head.fc6, detector.head.fc7)]
    with caplog.at_level("WARNING"):
        frcnn_weights.load_keras_imagenet(detector, path)
    kernels = [w for w in model.get_weights() if w.ndim == 4]
    biases = [w for w in model.get_weights() if w.ndim == 1]
    assert len(kernels) == len(detector.base.convolutions) == 13
    for number, layer in enumerate(detector.base.convolutions):
        np.testing.assert_allclose(layer.kernel, kernels[number], rtol=1e-6)
        if number:  # the first takes up the difference of the means
            np.testing.assert_allclose(layer.bias, biases[number], rtol=1e-6)
    for layer, weights in zip((detector.head.fc6, detector.head.fc7), before, strict=True):
        np.testing.assert_array_equal(layer.kernel, weights[0])
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: has no classifier (fc1, fc2): the convolutions are loaded, fc6 and fc7 start at random"
    ]


def test_bad_files(tmp_path):
    path = tmp_path / "vgg16.h5"
    with pytest.raises(UserError, match="vgg16.h5: no such file"):
        frcnn_weights.load_keras_imagenet(_detector(), path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="vgg16.h5: damaged or not an h5 file"):
        frcnn_weights.load_keras_imagenet(_detector(), path)
    for lacking, message in (
        (("fc1", "fc2"), "it lacks fc1/kernel, fc1/bias, fc2/kernel, fc2/bias"),
        (("fc2",), "vgg16.h5: not a keras.applications VGG16: it lacks fc2/kernel, fc2/bias"),
        (("block3_conv2", "fc1", "fc2", "predictions"), "it lacks block3_conv2/kernel, block3_conv2/bias"),
    ):
        _write(path, without=lacking)
        with pytest.raises(UserError, match=f"{message}$"):
            frcnn_weights.load_keras_imagenet(_detector(), path)
    with pytest.raises(UserError, match="keras.applications has VGG16 only, not vgg11"):
        frcnn_weights.load_keras_imagenet(_detector("vgg11"), path)


def test_damaged_files_are_refused(tmp_path):
    """What h5py raises as other errors; a size that the file does not have; no numbers."""
    path = tmp_path / "vgg16.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("block1_conv1/W", (2**20, 2**10), np.float32, chunks=(1, 1))
    with pytest.raises(UserError, match="vgg16.h5: damaged .*block1_conv1/W is larger than the file"):
        frcnn_weights.load_keras_imagenet(_detector(), path)
    with h5py.File(path, "w") as file:
        file["model_weights"] = np.zeros(3)
    with pytest.raises(UserError, match="vgg16.h5: damaged or not an h5 file"):
        frcnn_weights.load_keras_imagenet(_detector(), path)
    _write(path)
    whole = path.read_bytes()
    for signature in (b"TREE", b"HEAP", b"SNOD"):
        path.write_bytes(whole.replace(signature, b"XXXX"))
        with pytest.raises(UserError, match="vgg16.h5: damaged or not an h5 file"):
            frcnn_weights.load_keras_imagenet(_detector(), path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file["fc2"]
        file["fc2/fc2_W_1:0"] = np.full([64, 64], np.nan, np.float32)
        file["fc2/fc2_b_1:0"] = np.zeros(64, np.float32)
    with pytest.raises(
        UserError, match="vgg16.h5: damaged: fc2/kernel holds values that are no finite numbers"
    ):
        frcnn_weights.load_keras_imagenet(_detector(), path)
