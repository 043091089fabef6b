"""Feature pyramids on VGG: maps, parameters, what is frozen, steps, imitation between families."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models import registry
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.faster_rcnn import FasterRCNNConfig, assembly

SMALL = {"width": 1 / 32, "fpn_channels": 8, "head_units": 16}
FEW = {"train_pre_nms": 60, "train_post_nms": 30, "rpn_batch": 32, "roi_batch": 16}  # regions
CLASSES = ("cat", "dog", "cow")


def build(kind="vgg16", classes=CLASSES, **options):
    keras.utils.set_random_seed(1)
    return registry.build(
        f"faster_rcnn_{kind}_fpn", input_size=(800, 1333), class_names=classes, weight_decay=0.0001, **options
    )


@pytest.fixture(scope="module", name="detector")
def detector_fixture():
    return build(**SMALL, **FEW, frozen_layers=0)


@pytest.fixture(scope="module", name="resnet")
def resnet_fixture():
    return build("resnet18", **SMALL, **FEW)


def size(variables):
    return sum(v.shape.num_elements() for v in variables)


@pytest.mark.parametrize(
    "kind, convolutions, frozen",
    # published with the classifier: 132,863,336 and 138,357,544
    [
        ("vgg11", 132_863_336 - 123_642_856, 1_792 + 73_856 + 295_168),
        ("vgg16", 138_357_544 - 123_642_856, 1_792 + 36_928 + 73_856 + 147_584),
    ],
)
def test_parameters_by_hand(kind, convolutions, frozen):
    """Three fully connected layers of the classifier are 123,642,856."""
    detector = build(kind, tuple(map(str, range(20))), fpn_channels=6, head_units=5)
    factors = 256 + 3 * 512
    pyramid = (256 + 3 * 512 + 4) * 6 + 4 * (9 * 6 * 6 + 6)
    proposals = 9 * 6 * 6 + 6 + (3 + 12) * 7
    head = 49 * 6 * 5 + 5 + 5 * 5 + 5 + (21 + 84) * 6
    assert size(detector.variables) == convolutions + factors + pyramid + proposals + head
    assert size(detector.non_trainable_variables) == frozen


def test_half_the_width_by_hand():
    detector = build("vgg11", ("cat",), width=0.5, fpn_channels=4, head_units=2)
    pairs = [(3, 32), (32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 256)]
    convolutions = sum(9 * before * after + after for before, after in pairs)
    pyramid = (128 + 3 * 256 + 4) * 4 + 4 * (9 * 4 * 4 + 4) + 128 + 3 * 256
    rest = 9 * 4 * 4 + 4 + (3 + 12) * 5 + 49 * 4 * 2 + 2 + 2 * 2 + 2 + (2 + 8) * 3
    assert size(detector.variables) == convolutions + pyramid + rest


def test_levels_are_those_of_a_resnet(detector, resnet):
    assert detector.feature_strides == resnet.feature_strides == (4, 8, 16, 32, 64)
    assert detector.roi_levels == resnet.roi_levels == 4 and detector.config.convention == "torchvision"
    assert detector.trunk.channels == (8, 16, 16, 16) and detector.pixels == VGG.pixels
    outputs = detector(tf.zeros([1, 97, 131, 3]))
    # Every pool keeps an odd row: 97 -> 49 -> 25 -> 13 -> 7 -> 4 -> 2.
    shapes = [features.shape for features in outputs["features"]]
    sizes = [(25, 33), (13, 17), (7, 9), (4, 5), (2, 3)]
    assert shapes == [(1, *cells, 8) for cells in sizes]
    ours, theirs = (found.imitation_anchors(97, 131) for found in (detector, resnet))
    for anchors, others in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(anchors, others)


def halved(x):
    """2 x 2 maxima of [B,h,w,C]; behind an odd last row or column there is nothing."""
    x = np.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)], constant_values=-np.inf)
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max(axis=(2, 4))


def test_maps_by_the_layers(detector):
    """conv3_3, conv4_3, conv5_3 and the pool behind it, each position's vector of length 20, or 0."""
    images = tf.random.stateless_normal([2, 36, 52, 3], [1, 2], stddev=58.0)
    layers, x, raw = iter(detector.trunk.convolutions), images.numpy(), []
    for count in (2, 2, 3, 3, 3):
        for _ in range(count):
            x = next(layers)(x).numpy()
        raw.append(x)
        x = halved(x)
    assert next(layers, None) is None
    for found, features in zip(detector.trunk(images), [*raw[2:], x], strict=True):
        length = np.linalg.norm(features, axis=-1, keepdims=True)
        expected = np.divide(20 * features, length, where=length > 1e-5, out=np.zeros_like(features))
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_pyramid_is_given_maps_of_one_size(detector):
    """Whatever the scale of a file's activations, which no batch norm takes to 1."""
    images = tf.random.stateless_normal([1, 64, 96, 3], [1, 2], stddev=58.0)
    before = detector.imitation_features(images)
    first, *_, last = detector.trunk.convolutions
    weights = first.get_weights(), last.get_weights()
    first.set_weights([100 * array for array in weights[0]])
    last.set_weights([0.01 * array for array in weights[1]])
    after = detector.imitation_features(images)
    first.set_weights(weights[0])
    last.set_weights(weights[1])
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind, given, count", [("vgg11", -1, 3), ("vgg16", -1, 4), ("vgg16", 6, 6)])
def test_leading_convolutions_are_frozen_as_told(kind, given, count):
    config = FasterRCNNConfig(backbone=kind, neck="fpn", convention="torchvision", frozen_layers=given)
    convolutions = assembly.parts(config).base.trunk.convolutions
    assert [n for n, layer in enumerate(convolutions) if not layer.trainable] == list(range(count))


def batch(images=2):
    """Image 0 has an object, image 1 has none."""
    return {
        "boxes": tf.constant([[[20.0, 30, 79, 89]], [[0.0, 0, 0, 0]]])[:images],
        "classes": tf.constant([[1], [0]])[:images],
        "valid": tf.constant([[True], [False]])[:images],
        "content_size": tf.constant([[96.0, 128.0], [80.0, 120.0]])[:images],
        "seed": tf.constant([3, 4]),
    }


def step(detector, images, given):
    with tf.GradientTape() as tape:
        outputs = detector(images, training=True, seed=given["seed"])
        losses = detector.detection_losses(outputs, given)
        total = tf.add_n(list(losses.values()))
    return losses, tape.gradient(total, detector.trainable_variables)


def test_a_step_is_the_same_in_a_graph(detector):
    images = tf.random.stateless_normal([2, 96, 128, 3], [1, 2], stddev=58.0)
    eager, graph = (
        step(detector, images, batch()),
        tf.function(step, autograph=False)(detector, images, batch()),
    )
    for name, loss in eager[0].items():
        assert loss > 0
        np.testing.assert_allclose(graph[0][name], loss, rtol=1e-4)
    assert len(eager[1]) == len(detector.variables) == 2 * 13 + 4 + 2 * 8 + 2 * 3 + 2 * 4
    for found, expected in zip(graph[1], eager[1], strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("image, objects", [(0, 1), (1, 0)])
def test_a_batch_of_one_image(detector, image, objects):
    """The second has no object: boxes have nothing to say, and all is background."""
    given = {key: value if key == "seed" else value[image : image + 1] for key, value in batch().items()}
    images = tf.random.stateless_normal([1, 96, 128, 3], [1, 2], stddev=58.0)
    losses, gradients = step(detector, images, given)
    assert (losses["rpn_box"] > 0, losses["rcnn_box"] > 0) == (objects > 0,) * 2
    assert losses["rpn_class"] > 0 and losses["rcnn_class"] > 0
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_inference_copy_is_the_same_function(detector):
    """Of convolutions that are frozen and others, too, which Keras orders apart."""
    for source in (detector, build("vgg11", **SMALL)):
        for layer in source.trunk.convolutions:
            layer.bias.assign(tf.random.stateless_normal(layer.bias.shape, [1, 2]))
        images = tf.random.stateless_normal([2, 64, 96, 3], [1, 2], stddev=58.0)
        copy = source.inference_copy()
        assert not copy.trainable_variables and copy.metadata is source.metadata
        ours, theirs = copy(images), source(images)
        for name in ("features", "rpn_scores", "rpn_deltas"):
            for found, expected in zip(ours[name], theirs[name], strict=True):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_it_teaches_and_learns_across_families(detector, resnet, role):
    teacher, student = (detector, resnet) if role == "teacher" else (resnet, detector)
    layer = ImitationLoss(teacher.feature_channels)
    distiller = Distiller(student, teacher, layer)
    images = tf.random.stateless_uniform([2, 96, 128, 3], [1, 2], 0, 255)
    losses = distiller.losses_of({**batch(), "image": images}, tf.constant(0, tf.int64))
    assert len(layer.kernels) == 5 and losses["imitation_loss"] > 0
    assert all(np.isfinite(loss) for loss in losses.values())
