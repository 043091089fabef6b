"""Files of torchvision, the 2019 code and keras.applications into Faster R-CNNs on ResNets."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from pth_writer import save

from fgfi_tf.errors import UserError
from fgfi_tf.models import builtin, loading, registry
from fgfi_tf.models.backbones.resnet import ResNet
from fgfi_tf.models.backbones.resnet_weights import keras_name

BOTTLENECKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def norm(generator, channels):
    return {
        "weight": generator.uniform(0.5, 1.5, channels),
        "bias": generator.normal(0, 0.1, channels),
        "running_mean": generator.normal(0, 0.1, channels),
        "running_var": generator.uniform(0.5, 1.5, channels),
    }


def resnet(generator, blocks=(3, 4, 6, 3), width=1.0, prefix=""):
    """A state dict of torchvision's bottleneck ResNet, as its source names and shapes it."""

    def kernel(out, inside, size):
        return generator.normal(0, (inside * size * size) ** -0.5, (out, inside, size, size))

    stem, before = int(64 * width), int(64 * width)
    found = {"conv1.weight": kernel(stem, 3, 7)}
    found |= {f"bn1.{part}": value for part, value in norm(generator, stem).items()}
    for stage, count in enumerate(blocks, start=1):
        inner = int(64 * width) * 2 ** (stage - 1)
        for block in range(count):
            at = f"layer{stage}.{block}"
            shapes = {1: (inner, before, 1), 2: (inner, inner, 3), 3: (4 * inner, inner, 1)}
            for number, shape in shapes.items():
                found[f"{at}.conv{number}.weight"] = kernel(*shape)
                for part, value in norm(generator, shape[0]).items():
                    found[f"{at}.bn{number}.{part}"] = value
            if block == 0:
                found[f"{at}.downsample.0.weight"] = kernel(4 * inner, before, 1)
                for part, value in norm(generator, 4 * inner).items():
                    found[f"{at}.downsample.1.{part}"] = value
            before = 4 * inner
    return {f"{prefix}{key}": np.float32(value) for key, value in found.items()}


def fpn_detector(generator, classes, blocks=(3, 4, 6, 3), width=1.0, channels=256, units=1024, wrapped=True):
    """A state dict of torchvision's fasterrcnn_resnet50_fpn; early ones do not wrap the convolutions."""
    found = resnet(generator, blocks, width, "backbone.body.")
    inner = ".0" if wrapped else ""

    def add(name, *shape):
        found[f"{name}.weight"] = generator.normal(0, 0.02, shape).astype(np.float32)
        found[f"{name}.bias"] = generator.normal(0, 0.02, shape[0]).astype(np.float32)

    for level in range(4):
        add(f"backbone.fpn.inner_blocks.{level}{inner}", channels, int(256 * width) * 2**level, 1, 1)
        add(f"backbone.fpn.layer_blocks.{level}{inner}", channels, channels, 3, 3)
    add("rpn.head.conv" + (".0.0" if wrapped else ""), channels, channels, 3, 3)
    add("rpn.head.cls_logits", 3, channels, 1, 1)
    add("rpn.head.bbox_pred", 12, channels, 1, 1)
    add("roi_heads.box_head.fc6", units, channels * 49)
    add("roi_heads.box_head.fc7", units, units)
    add("roi_heads.box_predictor.cls_score", classes, units)
    add("roi_heads.box_predictor.bbox_pred", 4 * classes, units)
    return found


def build(name, classes, **options):
    size = registry.declaration(name).input_size
    return registry.build(name, input_size=size, class_names=classes, **options)


def parameters(detector, statistics=False):
    pattern = "moving" if statistics else "moving|gamma|beta"
    return sum(v.shape.num_elements() for v in detector.variables if not re.search(pattern, v.name))


def sums(arrays):
    return sorted(float(np.sum(np.asarray(array), dtype=np.float64)) for array in arrays)


@pytest.mark.slow
def test_torchvisions_detector_of_full_size(tmp_path):
    """Random values, all keys, 91 classes: 41,755,286 parameters, and every tensor has its place."""
    weights = fpn_detector(np.random.default_rng(1), 91)
    path = save(weights, tmp_path / "fasterrcnn_resnet50_fpn.pth")
    detector = build("faster_rcnn_resnet50_fpn", tuple(f"class {n}" for n in range(90)))
    assert parameters(detector) == 41_755_286
    loading.load_weights(detector, path)
    assert len(detector.variables) == len(weights)
    np.testing.assert_allclose(sums(detector.variables), sums(weights.values()), rtol=1e-6, atol=1e-6)


SMALL = {"width": 1 / 16, "fpn_channels": 8, "head_units": 16}


def small(generator, classes, **options):
    return fpn_detector(generator, classes, width=1 / 16, channels=8, units=16, **options)


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_80_classes_of_coco_that_exist(tmp_path, wrapped):
    """Class 12 of 91 (a street sign) is none; a stop sign, 13, is the twelfth of the 80."""
    weights = small(np.random.default_rng(2), 91, wrapped=wrapped)
    detector = build("faster_rcnn_resnet50_fpn", builtin.COCO_CLASSES, **SMALL)
    loading.load_weights(detector, save(weights, tmp_path / "a.pth"))
    scores = weights["roi_heads.box_predictor.cls_score.weight"]
    rows = {0: 0, 1: 1, 11: 11, 12: 13, 80: 90}
    for ours, theirs in rows.items():
        np.testing.assert_array_equal(detector.head.scores.kernel[:, ours], scores[theirs])
    deltas = weights["roi_heads.box_predictor.bbox_pred.bias"]
    np.testing.assert_array_equal(detector.head.deltas.bias[48:52], deltas[52:56])
    assert builtin.COCO_CLASSES[11] == "stop sign" and builtin.COCO_IDS[11] == 13
    assert len(builtin.COCO_CLASSES) == len(set(builtin.COCO_CLASSES)) == len(builtin.COCO_IDS) == 80


@pytest.mark.parametrize(
    "name, epsilon",
    [("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 0.0), ("fasterrcnn_resnet50_fpn.pth", 1e-5)],
)
def test_the_published_file_has_batch_norm_without_epsilon(tmp_path, name, epsilon):
    """torchvision's own rule, of this one file: gamma / sqrt(variance); it matters where that is small."""
    weights = small(np.random.default_rng(5), 91)
    weights["backbone.body.bn1.running_var"][:] = [1e-4, 1e-3, 1e-2, 1.0]
    detector = build("faster_rcnn_resnet50_fpn", builtin.COCO_CLASSES, **SMALL)
    loading.load_weights(detector, save(weights, tmp_path / name))
    scale, shift = detector.trunk.convolutions()["conv1"].affine()
    gamma, beta, mean, variance = (
        weights[f"backbone.body.bn1.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    exact = gamma / np.sqrt(variance.astype(np.float64) + epsilon)
    np.testing.assert_allclose(scale, exact, rtol=1e-5)
    np.testing.assert_allclose(shift, beta - mean * exact, rtol=1e-4, atol=1e-6)


def test_another_number_of_classes(tmp_path, caplog):
    """As weights to start from all is taken but the last layers; as a trained detector nothing is."""
    path = save(small(np.random.default_rng(2), 91), tmp_path / "a.pth")
    detector = build("faster_rcnn_resnet50_fpn", ("cat", "dog"), **SMALL)
    before = [v.numpy() for v in detector.variables]
    with pytest.raises(
        UserError, match=r"cls_score.weight is \(91, 16\), as \(16, 91\) it does not fit \(16, 3\)"
    ):
        loading.load_weights(detector, path)
    for variable, value in zip(detector.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    loading.load_initial_weights(detector, path)
    changed = [not np.array_equal(v, b) for v, b in zip(detector.variables, before, strict=True)]
    assert changed.count(False) == 4
    assert "90 classes, here 2: all but the last layers is loaded" in caplog.text


def test_a_file_of_the_2019_code(tmp_path):
    """Its base is a sequence of stem, batch norm, ReLU, pool and three stages; C5 is what follows."""
    generator = np.random.default_rng(3)
    places = {"conv1": "RCNN_base.0", "bn1": "RCNN_base.1", "layer1": "RCNN_base.4", "layer2": "RCNN_base.5"}
    places |= {"layer3": "RCNN_base.6", "layer4": "RCNN_top.0"}
    weights = {}
    for key, value in resnet(generator, BOTTLENECKS[50], 1 / 16).items():
        part, rest = key.split(".", 1)
        weights[f"{places[part]}.{rest}"] = value
        if rest == "running_mean":
            weights[f"{places[part]}.num_batches_tracked"] = np.array(7)
    for name, shape in (
        ("RCNN_rpn.RPN_Conv", (32, 64, 3, 3)),
        ("RCNN_rpn.RPN_cls_score", (18, 32, 1, 1)),
        ("RCNN_rpn.RPN_bbox_pred", (36, 32, 1, 1)),
        ("RCNN_cls_score", (21, 128)),
        ("RCNN_bbox_pred", (84, 128)),
    ):
        weights[f"{name}.weight"] = generator.normal(0, 0.02, shape).astype(np.float32)
        weights[f"{name}.bias"] = generator.normal(0, 0.02, shape[0]).astype(np.float32)
    path = save({"model": weights, "epoch": 7}, tmp_path / "faster_rcnn_1_7_10021.pth")
    detector = build("faster_rcnn_resnet50", builtin.VOC_CLASSES, width=1 / 16)
    loading.load_weights(detector, path)
    expected = [value for key, value in weights.items() if "tracked" not in key]
    assert len(detector.variables) == len(expected)
    np.testing.assert_allclose(sums(detector.variables), sums(expected), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"weights of caffe's ResNet.*pass --resnet_style=caffe"):
        build(
            "faster_rcnn_resnet50", builtin.VOC_CLASSES, width=1 / 16, resnet_style="torchvision"
        ).load_trained(path)


def imagenet(tmp_path, name, blocks=BOTTLENECKS[50]):
    weights = resnet(np.random.default_rng(4), blocks, 1 / 16)
    extra = {"fc.weight": np.ones([10, 128], np.float32), "fc.bias": np.ones(10, np.float32)}
    extra |= {
        key.replace("running_mean", "num_batches_tracked"): np.array(1) for key in weights if "_mean" in key
    }
    return weights, save(weights | extra, tmp_path / name)


@pytest.mark.parametrize(
    "model, file, options",
    [
        ("faster_rcnn_resnet50_fpn", "resnet50-0676ba61.pth", SMALL),
        ("faster_rcnn_resnet50", "resnet50_caffe.pth", {"width": 1 / 16}),
        ("faster_rcnn_resnet50", "resnet50-0676ba61.pth", {"width": 1 / 16, "resnet_style": "torchvision"}),
    ],
)
def test_imagenet_weights(tmp_path, model, file, options):
    weights, path = imagenet(tmp_path, file)
    detector = build(model, ("cat", "dog"), **options)
    assert loading.load_initial_weights(detector, path) == ""
    for layer, key in (("conv1", "conv1"), ("layer3.5.conv2", "layer3.5.conv2")):
        kernel = detector.trunk.convolutions()[layer].kernel
        np.testing.assert_array_equal(kernel, weights[f"{key}.weight"].transpose(2, 3, 1, 0))
    last = detector.trunk if "fpn" in model else detector.head.stage
    last = last.convolutions()["layer4.0.downsample.0"]
    np.testing.assert_array_equal(last.norm.moving_variance, weights["layer4.0.downsample.1.running_var"])


def test_what_is_refused(tmp_path):
    _, path = imagenet(tmp_path, "mine.pth")
    detector = build("faster_rcnn_resnet50_fpn", ("cat", "dog"), **SMALL)
    with pytest.raises(UserError, match="pass --init_pixels=caffe or --init_pixels=torchvision"):
        detector.load_pretrained(path)
    with pytest.raises(UserError, match="in the first 1 x 1 convolutions .* pass --resnet_style=caffe"):
        detector.load_pretrained(path, "caffe")
    with pytest.raises(UserError, match="imagenet: weights of caffe's ResNet"):
        detector.load_pretrained("imagenet")
    detector.load_pretrained(path, "torchvision")
    with pytest.raises(UserError, match="mine.pth: not torchvision's resnet50 FPN: it lacks roi_heads"):
        detector.load_trained(path)
    _, path = imagenet(tmp_path, "resnet101-0123abcd.pth", BOTTLENECKS[101])
    with pytest.raises(UserError, match=r"not an ImageNet resnet50: it also holds layer3.6.* and \d+ more"):
        detector.load_pretrained(path)
    with pytest.raises(UserError, match="no such file"):
        detector.load_pretrained(tmp_path / "none.pth", "torchvision")
    with pytest.raises(UserError, match="holds ImageNet weights, not a trained detector"):
        detector.load_trained(tmp_path / "a.h5")
    small_one = build("faster_rcnn_resnet18", ("cat", "dog"), width=1 / 16)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(UserError, match="keras.applications has resnet50, resnet101 only, not resnet18"):
        small_one.load_pretrained(tmp_path / "a.h5")
    other = build("faster_rcnn_efficientnet_lite0", ("cat", "dog"), fpn_channels=8, head_units=8)
    detector_file = save(small(np.random.default_rng(2), 3), tmp_path / "detector.pth")
    with pytest.raises(UserError, match="no files of trained detectors for faster_rcnn_efficientnet_lite0"):
        other.load_trained(detector_file)
    assert not detector.load_trained(tmp_path / "ckpt-3") and not detector.load_pretrained(
        tmp_path / "ckpt-3"
    )


@pytest.mark.long
def test_a_file_of_keras_applications(tmp_path):
    """The stem reads the middle of its window alone: no padding then, which has a colour of its own."""
    source = keras.applications.ResNet50(include_top=False, weights=None)
    generator = np.random.default_rng(5)
    for layer in source.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([generator.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
        elif layer.name.endswith("conv"):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, generator.normal(0, 0.1, bias.shape)])
    kernel, bias = source.get_layer("conv1_conv").get_weights()
    middle = np.zeros_like(kernel)
    middle[3, 3] = kernel[3, 3]
    source.get_layer("conv1_conv").set_weights([middle, bias])
    path = tmp_path / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    source.save_weights(path)
    trunk = ResNet("resnet50", taps=(5,), style="caffe", norm="frozen")
    images = generator.uniform(0, 255, [1, 64, 64, 3]).astype(np.float32)
    trunk(tf.zeros([1, 32, 32, 3]))
    trunk.load_pretrained(path)
    expected = source(keras.applications.resnet50.preprocess_input(images.copy()))
    (found,) = trunk(trunk.pixels.of(images))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert keras_name("layer3.0.downsample.0", "conv") == "conv4_block1_0_conv"
