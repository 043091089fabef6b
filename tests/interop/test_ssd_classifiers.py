"""ImageNet VGGs that SSD starts from: whose pixels, which layers."""

import h5py
import numpy as np
import pytest
import tensorflow as tf
from pth_writer import save
from ssd_states import CHANNELS, FEATURES, WIDTH, State, same, tiny

from fgfi_tf.errors import UserError
from fgfi_tf.models import loading
from fgfi_tf.models.backbones import vgg_weights
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.pixels import CAFFE, NORMALIZED, Pixels


def classifier(variant="vgg16", fully=True):
    """At 1/16 of the channels; the classifier's fully connected layers have 4 times those of fc6."""
    state = State(WIDTH)
    for place, channels in zip(FEATURES[variant], CHANNELS[variant], strict=True):
        state.conv(f"features.{place}", state.of(channels), 3)
    random = np.random.default_rng(7)
    if fully:
        for name, shape in (("0", (256, 32 * 49)), ("3", (256, 256))):
            state[f"classifier.{name}.weight"] = random.standard_normal(shape, np.float32)
            state[f"classifier.{name}.bias"] = random.standard_normal(shape[0], np.float32)
    return state


def narrow_as_full(variant="vgg16"):
    """A narrow network that passes for one of full width: the files here are as narrow."""
    model = tiny(variant)
    model.width = 1
    return model


def test_fully_connected_layers_are_thinned_out(tmp_path):
    state = classifier()
    save(dict(state), tmp_path / "vgg16_caffe.pth")
    model = narrow_as_full()
    loading.load_initial_weights(model, tmp_path / "vgg16_caffe.pth")
    fc6 = state["classifier.0.weight"].reshape(256, 32, 7, 7)
    # Output 4 * 5, from channel 9 at place (1, 2) of 3 x 3, which is (3, 6) of 7 x 7.
    assert model.backbone.fc6.kernel[1, 2, 9, 5] == fc6[20, 9, 3, 6]
    assert model.backbone.fc7.kernel[0, 0, 6, 5] == state["classifier.3.weight"][20, 24]
    assert model.backbone.fc7.bias[5] == state["classifier.3.bias"][20]
    same(model.backbone.vgg.convolutions[5].kernel, state["features.12.weight"])


@pytest.mark.parametrize(
    "name, pixels, trained",
    [
        ("vgg16-397923af.pth", "auto", NORMALIZED),
        ("mine.pth", "torchvision", NORMALIZED),
        ("vgg16_caffe.pth", "auto", VGG.pixels),
        ("mine.pth", "caffe", VGG.pixels),
        ("vgg16_features-amdegroot-88682ab5.pth", "auto", Pixels((123.0, 117.0, 104.0))),
    ],
)
def test_the_first_convolution_takes_ssds_pixels(tmp_path, name, pixels, trained):
    state = classifier()
    if "amdegroot" in name:  # torchvision's file has no numbers there
        state["classifier.0.weight"][:] = np.nan
    save(dict(state), tmp_path / name)
    model = narrow_as_full()
    loading.load_initial_weights(model, tmp_path / name, pixels)
    image = tf.random.stateless_uniform([1, 9, 9, 3], [1, 2], 0, 255)
    kernel, bias = state["features.0.weight"].transpose(2, 3, 1, 0), state["features.0.bias"]
    expected = tf.nn.conv2d(trained.of(image), kernel, 1, "VALID") + bias
    layer = model.backbone.vgg.convolutions[0]
    found = tf.nn.conv2d(model.preprocess(image), layer.kernel, 1, "VALID") + layer.bias
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("first", [NORMALIZED, CAFFE, Pixels((1.0, 2, 3), (4.0, 5, 6))])
@pytest.mark.parametrize("second", [NORMALIZED, CAFFE])
def test_pixels_are_folded_both_ways(first, second):
    vgg = VGG("vgg11", WIDTH, taps=(1,))
    image = tf.random.stateless_uniform([1, 5, 5, 3], [1, 2], 0, 255)
    vgg(image)
    layer = vgg.convolutions[0]
    expected = tf.nn.conv2d(first.of(image), layer.kernel, 1, "VALID") + layer.bias
    vgg_weights.fold_pixels(vgg, first, second)
    found = tf.nn.conv2d(second.of(image), layer.kernel, 1, "VALID") + layer.bias
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_reduced_network_of_the_published_code(tmp_path, caplog):
    state = State(WIDTH)
    for place, channels in zip(FEATURES["vgg16"], CHANNELS["vgg16"], strict=True):
        state.conv(str(place), state.of(channels), 3)
    state.conv("31", 64, 3)
    state.conv("33", 64, 1)
    save(dict(state), tmp_path / "vgg16_reducedfc.pth")
    model = narrow_as_full()
    loading.load_initial_weights(model, tmp_path / "vgg16_reducedfc.pth")
    same(model.backbone.vgg.convolutions[0].kernel, state["0.weight"])
    same(model.backbone.fc6.kernel, state["31.weight"])
    same(model.backbone.fc7.kernel, state["33.weight"])
    assert "at random" not in caplog.text


def test_keras_vgg16(tmp_path, caplog):
    state = classifier()
    names = iter(f"block{s}_conv{i}" for s, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1))
    with h5py.File(tmp_path / "vgg16_notop.h5", "w") as file:
        for place, name in zip(FEATURES["vgg16"], names, strict=True):
            file[f"{name}/{name}/kernel:0"] = state[f"features.{place}.weight"].transpose(2, 3, 1, 0)
            file[f"{name}/{name}/bias:0"] = state[f"features.{place}.bias"]
    model = narrow_as_full()
    loading.load_initial_weights(model, tmp_path / "vgg16_notop.h5")
    same(model.backbone.vgg.convolutions[12].kernel, state["features.28.weight"])
    same(model.backbone.vgg.convolutions[0].kernel, state["features.0.weight"][:, ::-1])  # BGR
    assert "the convolutions are loaded, fc6 and fc7 start at random" in caplog.text
    with pytest.raises(UserError, match="vgg16_notop.h5: keras.applications has VGG16 only, not vgg11"):
        loading.load_initial_weights(narrow_as_full("vgg11"), tmp_path / "vgg16_notop.h5")
    with pytest.raises(UserError, match="vgg16_notop.h5: holds ImageNet weights, not a trained detector"):
        loading.load_weights(model, tmp_path / "vgg16_notop.h5")


def test_a_classifier_of_other_pictures(tmp_path):
    """Of CIFAR's 32 x 32 the last map has one place, not 7 x 7."""
    state = dict(classifier())
    state["classifier.0.weight"] = np.zeros((256, 32), np.float32)
    save(state, tmp_path / "vgg16_caffe.pth")
    with pytest.raises(
        UserError, match="vgg16_caffe.pth: not an ImageNet vgg16: classifier.0 takes 32 values"
    ):
        loading.load_initial_weights(narrow_as_full(), tmp_path / "vgg16_caffe.pth")


def test_what_a_classifier_cannot_start(tmp_path):
    save(dict(classifier()), tmp_path / "mine.pth")
    with pytest.raises(UserError, match="whose name does not say on which pixels it was trained"):
        loading.load_initial_weights(narrow_as_full(), tmp_path / "mine.pth")
    with pytest.raises(UserError, match="network of full width; --width=0.0625 cannot start from it"):
        loading.load_initial_weights(tiny(), tmp_path / "mine.pth")
    with pytest.raises(UserError, match="not an ImageNet vgg11: it lacks features.3.weight"):
        loading.load_initial_weights(narrow_as_full("vgg11"), tmp_path / "mine.pth", "caffe")
    with pytest.raises(UserError, match="mine.pth: not a state dict of ssd300_vgg16: it"):
        loading.load_weights(tiny(), tmp_path / "mine.pth")
