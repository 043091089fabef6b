"""Weights of other programs into SSD: torchvision's detector with all its keys, and VGGs to start from."""

import h5py
import numpy as np
import pytest
import tensorflow as tf
from pth_writer import save

from fgfi_tf.errors import UserError
from fgfi_tf.models import builtin, loading, registry
from fgfi_tf.models.backbones import vgg_weights
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.pixels import CAFFE, NORMALIZED, Pixels
from fgfi_tf.models.ssd import default_boxes

WIDTH = 1 / 16
# Indices of the convolutions in the sequential VGG, and their channels.
FEATURES = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "vgg11": (0, 3, 6, 8, 11, 13, 16, 18),
}
CHANNELS = {
    "vgg16": (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    "vgg11": (64, 128, 256, 256, 512, 512, 512, 512),
}
IN_CONV5 = {"vgg16": 3, "vgg11": 2}
BOXES = (4, 6, 6, 6, 4, 4)


def tiny(variant="vgg16", class_names=("a", "b", "c")):
    return registry.build(f"ssd300_{variant}", input_size=(300, 300), class_names=class_names, width=WIDTH)


class State(dict):
    """Random arrays by torchvision's names."""

    def __init__(self, width=1.0):
        super().__init__()
        self.width, self.before = width, 3

    def of(self, channels):
        return max(1, round(channels * self.width))

    def conv(self, name, channels, size, before=None):
        shape = (channels, self.before if before is None else before, size, size)
        random = np.random.default_rng(len(self))
        self[f"{name}.weight"] = random.standard_normal(shape, np.float32) * np.float32(0.1)
        self[f"{name}.bias"] = random.standard_normal(channels, np.float32)
        self.before = channels


def detector_state(variant="vgg16", classes=3, width=WIDTH):
    state, places, sources = State(width), FEATURES[variant], []
    extra = len(places) - IN_CONV5[variant]
    for number, (place, channels) in enumerate(zip(places, CHANNELS[variant], strict=True)):
        in_extra = number >= extra
        if number == extra:
            sources.append(state.before)
        name = f"backbone.extra.0.{1 + 2 * (number - extra)}" if in_extra else f"backbone.features.{place}"
        state.conv(name, state.of(channels), 3)
    block = f"backbone.extra.0.{1 + 2 * IN_CONV5[variant]}"
    state.conv(f"{block}.1", state.of(1024), 3)
    state.conv(f"{block}.3", state.of(1024), 1)
    sources.append(state.before)
    blocks = ((256, 512), (128, 256), (128, 256), (128, 256))
    for number, (narrow, wide) in enumerate(blocks, start=1):
        state.conv(f"backbone.extra.{number}.0", state.of(narrow), 1)
        state.conv(f"backbone.extra.{number}.2", state.of(wide), 3)
        sources.append(state.before)
    state["backbone.scale_weight"] = np.linspace(8, 30, sources[0], dtype=np.float32)
    for head, outputs in (("classification", classes + 1), ("regression", 4)):
        for level, (channels, boxes) in enumerate(zip(sources, BOXES, strict=True)):
            state.conv(f"head.{head}_head.module_list.{level}", boxes * outputs, 3, channels)
    return state


def same(variable, array):
    np.testing.assert_array_equal(variable.numpy(), array.transpose(2, 3, 1, 0))


def test_the_names_are_torchvisions(shared_path):
    theirs = np.load(shared_path("golden/ssd300/weights.npz"))
    ours = detector_state()
    assert {name: array.shape for name, array in ours.items()} == {
        name: theirs[name].shape for name in theirs.files
    }


@pytest.mark.parametrize("variant", ["vgg16", "vgg11"])
def test_a_state_dict_fills_every_variable(tmp_path, variant):
    state = detector_state(variant)
    save(dict(state), tmp_path / "ssd.pth")
    model = tiny(variant)
    for variable in model.variables:
        variable.assign(tf.fill(variable.shape, np.nan))
    loading.load_weights(model, tmp_path / "ssd.pth")
    assert all(np.isfinite(variable).all() for variable in model.variables)
    assert sum(v.shape.num_elements() for v in model.variables) == sum(a.size for a in state.values())
    # torchvision's boxes come with its weights, for evaluation and export too.
    maps, clipped = default_boxes.KINDS["torchvision"]
    np.testing.assert_array_equal(model.defaults, default_boxes.default_boxes(maps, clipped))
    assert model.metadata.options == {"width": WIDTH, "default_boxes": "torchvision"}
    same(model.backbone.vgg.convolutions[0].kernel, state["backbone.features.0.weight"])
    same(
        model.backbone.vgg.convolutions[-1].kernel,
        state[f"backbone.extra.0.{2 * IN_CONV5[variant] - 1}.weight"],
    )
    same(model.backbone.extras[3][1].kernel, state["backbone.extra.4.2.weight"])
    same(model.heads.logits[5].kernel, state["head.classification_head.module_list.5.weight"])
    np.testing.assert_array_equal(model.backbone.norm.scale, state["backbone.scale_weight"])


@pytest.mark.slow
def test_the_published_file_of_91_classes_at_full_size(tmp_path):
    """All keys and shapes of ssd300_vgg16_coco-b556d3b4.pth, which has 35,641,826 parameters."""
    state = detector_state(classes=90, width=1.0)
    assert sum(array.size for array in state.values()) == 35_641_826
    save(dict(state), tmp_path / "ssd.pth")
    names = [str(i) for i in range(90)]
    model = registry.build("ssd300_vgg16", input_size=(300, 300), class_names=names)
    loading.load_weights(model, tmp_path / "ssd.pth")
    assert sum(v.shape.num_elements() for v in model.trainable_variables) == 35_641_826
    same(model.heads.logits[2].kernel, state["head.classification_head.module_list.2.weight"])


def test_cocos_80_classes_are_taken_from_91(tmp_path):
    state = detector_state(classes=90)
    save(dict(state), tmp_path / "ssd.pth")
    model = tiny(class_names=builtin.COCO_CLASSES)
    loading.load_weights(model, tmp_path / "ssd.pth")
    # The second box of a position: background, person (1), and stop sign, the 12th class, whose number is 13.
    bias = model.heads.logits[0].bias.numpy()
    theirs = state["head.classification_head.module_list.0.bias"]
    assert builtin.COCO_CLASSES[11] == "stop sign"
    np.testing.assert_array_equal(bias[81 + np.array([0, 1, 12])], theirs[91 + np.array([0, 1, 13])])
    same(model.heads.offsets[0].kernel, state["head.regression_head.module_list.0.weight"])


def test_other_classes_start_from_it_and_are_told(tmp_path, caplog):
    state = detector_state(classes=5)
    save(dict(state), tmp_path / "ssd.pth")
    model = tiny()
    before = model.heads.logits[0].kernel.numpy()
    with pytest.raises(UserError, match=r"ssd.pth: detects 5 classes, not 3"):
        loading.load_weights(model, tmp_path / "ssd.pth")
    assert loading.load_initial_weights(model, tmp_path / "ssd.pth") == ""
    assert "of 5 classes: all but their predictions is loaded" in caplog.text
    assert "was trained with --default_boxes=torchvision" in caplog.text and model.box_kind == "voc"
    np.testing.assert_array_equal(model.heads.logits[0].kernel, before)
    same(model.heads.offsets[0].kernel, state["head.regression_head.module_list.0.weight"])


def changed(**entries):
    state = dict(detector_state())
    for name, value in entries.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    "state, message",
    [
        (
            changed(backbone__scale_weight=None),
            "not a state dict of ssd300_vgg16: it lacks backbone.scale_weight",
        ),
        (changed(backbone__scale_weight=np.ones(3, np.float32)), r"scale_weight is \(3,\), here \(32,\)"),
        (changed(**{"backbone__features__0__bias": None}), "it lacks backbone.features.0.bias"),
        (
            changed(**{"backbone__extra__5__0__weight": np.ones([1])}),
            "it also holds backbone.extra.5.0.weight",
        ),
        (
            changed(backbone__scale_weight=np.full(32, np.nan, np.float32)),
            "damaged: backbone.scale_weight holds values that are no finite numbers",
        ),
        (
            changed(**{"head__classification_head__module_list__0__weight": None}),
            "it lacks head.classification_head.module_list.0.weight",
        ),
        (detector_state(width=1 / 32), r"not a state dict of ssd300_vgg16: .*\(16,\), here \(32,\)"),
    ],
)
def test_files_that_do_not_fit_change_nothing(tmp_path, state, message):
    save(dict(state), tmp_path / "ssd.pth")
    model = tiny()
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(UserError, match=message):
        loading.load_weights(model, tmp_path / "ssd.pth")
    assert all(np.array_equal(a, b) for a, b in zip(before, model.variables, strict=True))


# --- classifiers


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
