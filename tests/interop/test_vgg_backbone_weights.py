"""ImageNet VGGs under a pyramid and under the one-map head: maps as their layers define, pixels, refusals."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from pth_writer import save
from ssd_states import CHANNELS as PUBLISHED_CHANNELS
from ssd_states import FEATURES, State
from test_keras_weights import _write as write_h5
from test_torch_weights import WIDTH, _base, _features, max_pool

from fgfi_tf.errors import UserError
from fgfi_tf.models import loading, registry
from fgfi_tf.models.backbones.vgg import LAST_POOL, VGG
from fgfi_tf.models.pixels import CAFFE, FAST_RCNN, NORMALIZED

CLASSES = ("cat", "dog")


def pyramid(kind="vgg16"):
    """A narrow network that passes for one of full width: the files here are as narrow."""
    detector = registry.build(
        f"faster_rcnn_{kind}_fpn",
        input_size=(800, 1333),
        class_names=CLASSES,
        width=WIDTH,
        fpn_channels=4,
        head_units=4,
    )
    detector.trunk.width = 1
    return detector


def torch_state(kind):
    state = {}
    _base(state, kind, "features")
    return state | {"classifier.0.weight": np.zeros([4, 4], np.float32)}  # nothing here reads it


@pytest.mark.parametrize("kind", ["vgg11", "vgg16"])
def test_maps_as_the_layers_of_pytorch_define_them(tmp_path, kind):
    state = torch_state(kind)
    trunk = VGG(kind, WIDTH, taps=(5, LAST_POOL), keep_odd=True)
    trunk(tf.zeros([1, 32, 32, 3]))
    trunk.width = 1
    trunk.load_pretrained(save(state, tmp_path / f"{kind}_caffe.pth"))
    images = np.random.default_rng(3).uniform(-50, 50, (1, 3, 64, 96)).astype(np.float32)
    fine = _features(state, kind, "features", images)  # without the last pool
    found = trunk(tf.constant(images.transpose(0, 2, 3, 1)))
    for ours, theirs in zip(found, (fine, max_pool(fine)), strict=True):
        np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-3)
    assert [ours.shape[1:3] for ours in found] == [(4, 6), (2, 3)]


def first_layer_says(vgg, image):
    layer = vgg.convolutions[0]
    return tf.nn.conv2d(vgg.pixels.of(image), layer.kernel, 1, "VALID") + layer.bias


@pytest.mark.parametrize(
    "name, pixels, trained",
    [
        ("vgg16-397923af.pth", "auto", NORMALIZED),
        ("mine.pth", "torchvision", NORMALIZED),
        ("mine.pth", "caffe", FAST_RCNN),
        ("vgg16.h5", "auto", CAFFE),
    ],
)
def test_a_pyramid_starts_from_every_kind_of_file(tmp_path, name, pixels, trained):
    path, detector = tmp_path / name, pyramid()
    if name.endswith("h5"):
        weights = write_h5(path)
        (kernel, bias), last = weights["block1_conv1"], weights["block5_conv3"][0]
    else:
        state = torch_state("vgg16")
        save(state, path)
        kernel, bias = state["features.0.weight"].transpose(2, 3, 1, 0), state["features.0.bias"]
        last = state["features.28.weight"].transpose(2, 3, 1, 0)
    others = [v.numpy() for v in detector.variables if "conv" not in v.name.split("/")[-2]]
    assert loading.load_initial_weights(detector, path, pixels) == ""
    image = tf.random.stateless_uniform([1, 9, 9, 3], [1, 2], 0, 255)
    expected = tf.nn.conv2d(trained.of(image), kernel.astype(np.float32), 1, "VALID") + bias
    np.testing.assert_allclose(first_layer_says(detector.trunk, image), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(detector.trunk.convolutions[-1].kernel, last, rtol=1e-6)
    kept = [v for v in detector.variables if "conv" not in v.name.split("/")[-2]]
    for variable, value in zip(kept, others, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_the_one_map_head_is_told_the_pixels(tmp_path):
    """Of full width, since it has no option for another; the file's name does not tell."""
    state = State()
    for place, channels in zip(FEATURES["vgg11"], PUBLISHED_CHANNELS["vgg11"], strict=True):
        state.conv(f"features.{place}", channels, 3)
    path = save(dict(state), tmp_path / "mine.pth")
    detector = registry.build("vgg11_shuffledet", input_size=(32, 48), class_names=CLASSES)
    with pytest.raises(UserError, match="mine.pth.*pass --init_pixels=caffe or --init_pixels=torchvision"):
        loading.load_initial_weights(detector, path)
    loading.load_initial_weights(detector, path, "torchvision")
    image = tf.random.stateless_uniform([1, 5, 5, 3], [1, 2], 0, 255)
    kernel, bias = state["features.0.weight"].transpose(2, 3, 1, 0), state["features.0.bias"]
    expected = tf.nn.conv2d(NORMALIZED.of(image), kernel, 1, "VALID") + bias
    found = first_layer_says(detector.backbone.trunk, image)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_imagenet_is_the_download_of_keras(monkeypatch):
    """Of VGG16, the only one it has."""
    given = {}

    def vgg16(include_top, weights):
        given.update(include_top=include_top, weights=weights)
        inputs = outputs = keras.Input([None, None, 3])
        for stage, channels in enumerate(((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)), start=1):
            for index, count in enumerate(channels, start=1):
                name = f"block{stage}_conv{index}"
                outputs = keras.layers.Conv2D(count, 3, padding="same", name=name)(outputs)
            outputs = keras.layers.MaxPooling2D(name=f"block{stage}_pool")(outputs)
        given["model"] = keras.Model(inputs, outputs)
        return given["model"]

    def offline(**_):
        raise Exception("URL fetch failure on https://example.org: None -- no network")

    detector = pyramid()
    monkeypatch.setattr(keras.applications, "VGG16", vgg16)
    assert registry.is_pretrained("faster_rcnn_vgg16_fpn", "imagenet")
    assert loading.load_initial_weights(detector, "imagenet") == ""
    assert (given["include_top"], given["weights"]) == (False, "imagenet")
    for number, layer in enumerate(detector.trunk.convolutions):
        name = [f"block{s}_conv{i}" for s, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)][
            number
        ]
        np.testing.assert_array_equal(layer.kernel, given["model"].get_layer(name).kernel)
    monkeypatch.setattr(keras.applications, "VGG16", offline)
    with pytest.raises(UserError, match="cannot download VGG16: URL fetch failure.*pass the path"):
        loading.load_initial_weights(detector, "imagenet")
    with pytest.raises(UserError, match="imagenet: keras.applications has VGG16 only, not vgg11"):
        loading.load_initial_weights(pyramid("vgg11"), "imagenet")


def test_what_is_refused_changes_nothing(tmp_path):
    detector = pyramid("vgg11")
    before = [v.numpy() for v in detector.variables]
    mine, other = save(torch_state("vgg11"), tmp_path / "mine.pth"), tmp_path / "vgg16_caffe.pth"
    save(torch_state("vgg16"), other)
    write_h5(tmp_path / "vgg16.h5")
    reference = save({"RCNN_base.0.weight": np.zeros(3, np.float32)}, tmp_path / "faster_rcnn_1_7_10021.pth")
    nan = save({**torch_state("vgg11"), "features.18.bias": np.full(8, np.nan)}, tmp_path / "vgg11_caffe.pth")
    for path, message in (
        (mine, "pass --init_pixels=caffe or --init_pixels=torchvision"),
        (other, "vgg16_caffe.pth: not an ImageNet vgg11: it lacks features.3.weight"),
        (tmp_path / "vgg16.h5", "vgg16.h5: keras.applications has VGG16 only, not vgg11"),
        (reference, "there are no files of trained detectors for faster_rcnn_vgg11_fpn"),
        (nan, "vgg11_caffe.pth: damaged: features.18.bias holds values that are no finite numbers"),
        (tmp_path / "none.pth", "none.pth: no such file"),
    ):
        with pytest.raises(UserError, match=message):
            detector.load_pretrained(path)
    for path, message in (
        (tmp_path / "vgg16.h5", "holds ImageNet weights, not a"),
        (reference, "no files of trained detectors"),
    ):
        with pytest.raises(UserError, match=message):
            detector.load_trained(path)
    detector.trunk.width = WIDTH
    for path in (mine, "imagenet"):
        with pytest.raises(UserError, match="a network of full width; --width=0.015625 cannot start from it"):
            detector.load_pretrained(path, "caffe")
    for variable, value in zip(detector.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
