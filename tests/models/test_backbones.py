"""Backbones under ShuffleDet's head: sizes, folding, gradients, what each network is given."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from spread import spread_statistics

from fgfi_tf.errors import UserError
from fgfi_tf.models import backbones, pixels, registry
from fgfi_tf.models.backbones import keras_applications
from fgfi_tf.models.shuffledet.joined_maps import JoinedMaps, doubled

CLASSES = ("Car", "Pedestrian", "Cyclist")
SIZE = (48, 80)  # 3 x 5 cells, and 2 x 3 of the deeper map

# Published parameters without the classifier, and what of them lies behind the last map used.
TRAINABLE = {
    "efficientnet_lite0": 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000),
    "mobilenet_v2": 2_223_872 - (320 * 1280 + 2 * 1280),
    "efficientnet_b0": 4_007_548 - (320 * 1280 + 2 * 1280),
    "resnet50": 23_534_592,
    "resnet18": 11_689_512 - 513_000,
    "vgg11": 132_863_336 - 123_642_856,  # three fully connected layers
}
CHANNELS = {
    "efficientnet_lite0": (112, 320),
    "mobilenet_v2": (96, 320),
    "efficientnet_b0": (112, 320),
    "resnet50": (1024, 2048),
    "resnet18": (256, 512),
    "vgg11": (512, 512),
}


@pytest.fixture(scope="module", params=CHANNELS)  # ResNet-34, 101 and VGG16 are the others' code
def detector(request):
    """With statistics other than 0 and 1, so that folding has something to fold."""
    tf.random.set_seed(1)
    model = registry.build(f"{request.param}_shuffledet", input_size=SIZE, class_names=CLASSES)
    spread_statistics(model)
    return model


def name_of(detector):
    return detector.variant.removesuffix("_shuffledet")


def images(count=2):
    return tf.constant(np.random.default_rng(1).integers(0, 256, (count, *SIZE, 3)).astype(np.uint8))


def test_parameters_by_hand(detector):
    """The published network's, two 1 x 1 and one 3 x 3 convolution with batch norm, and the head."""
    fine, coarse = CHANNELS[name_of(detector)]
    neck = (fine + coarse) * 256 + 9 * 256 * 256 + 3 * 2 * 256
    head = 9 * 256 * 72 + 72
    total = sum(int(np.prod(v.shape)) for v in detector.trainable_variables)
    assert total == TRAINABLE[name_of(detector)] + neck + head
    assert detector.backbone.trunk.channels == (fine, coarse)


def test_every_variable_learns_and_every_statistic_moves(detector):
    before = [value.numpy() for value in detector.non_trainable_variables]
    with tf.GradientTape() as tape:
        outputs = detector(detector.preprocess(images()), training=True)
        loss = tf.reduce_sum(tf.square(outputs["predictions"])) + tf.reduce_sum(outputs["features"][0])
    gradients = tape.gradient(loss, detector.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    moved = [np.any(a != b.numpy()) for a, b in zip(before, detector.non_trainable_variables, strict=True)]
    assert len(moved) % 2 == 0 and all(moved)  # a mean and a variance for each batch norm


def test_the_inference_copy_is_the_same_function(detector):
    folded, inputs = detector.inference_copy(), detector.preprocess(images())
    ours, theirs = folded(inputs), detector(inputs)
    assert ours["features"][0].shape == (2, 3, 5, 256)
    assert ours["predictions"].shape == (2, 3, 5, 72)
    for found, expected in (
        (ours["features"][0], theirs["features"][0]),
        (ours["predictions"], theirs["predictions"]),
    ):
        scale = float(tf.reduce_max(tf.abs(expected)))
        assert scale > 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)
    np.testing.assert_array_equal(detector.imitation_features(inputs)[0], theirs["features"][0])
    assert not folded.trainable_variables
    assert not any("moving" in variable.name for variable in folded.variables)


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (128, 416), (112, 64)])
def test_any_size_divisible_by_16(size):
    model = registry.build("efficientnet_lite0_shuffledet", input_size=size, class_names=CLASSES)
    outputs = tf.function(model, autograph=False)(tf.zeros([1, *size, 3]))
    height, width = size[0] // 16, size[1] // 16
    assert outputs["predictions"].shape == (1, height, width, 72)
    fine, coarse = model.backbone.trunk(tf.zeros([1, *size, 3]))
    assert fine.shape == (1, height, width, 112)
    assert coarse.shape == (1, -(-height // 2), -(-width // 2), 320)


@pytest.mark.parametrize(
    ("size", "message"), [((100, 96), "divisible by 16"), ((16, 96), "must be at least 32")]
)
def test_impossible_sizes_are_refused(size, message):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}: height and width .*{message}"):
        registry.build("efficientnet_lite0_shuffledet", input_size=size, class_names=CLASSES)


def test_doubling_by_hand():
    """Bilinear, between centres of cells: a quarter and three quarters; an odd size loses the last."""
    x = tf.reshape(tf.constant([0.0, 4.0, 8.0]), [1, 1, 3, 1])
    np.testing.assert_allclose(doubled(x, [1, 2, 6, 1])[0, :, :, 0], [[0, 1, 3, 5, 7, 8]] * 2)
    np.testing.assert_allclose(doubled(x, [1, 1, 5, 1])[0, :, :, 0], [[0, 1, 3, 5, 7]])


def test_maps_are_joined_by_their_sum():
    """Both halves of the join reach the output: the same as its own parts, put together here."""

    class Maps(backbones.Backbone):
        channels = (4, 6)

        def call(self, inputs, training=False):
            return inputs[..., :4], tf.nn.avg_pool2d(inputs, 2, 2, "SAME")

    join, x = JoinedMaps(Maps()), tf.random.normal([2, 3, 5, 6])
    out = join(x)
    coarse = tf.image.resize(join.coarse(tf.nn.avg_pool2d(x, 2, 2, "SAME")), [4, 6])[:, :3, :5]
    np.testing.assert_allclose(out, join.smooth(tf.nn.relu(join.fine(x[..., :4]) + coarse)), atol=1e-6)


def test_what_each_network_is_given():
    x = np.random.default_rng(0).uniform(0, 255, (1, 4, 5, 3)).astype(np.float32)
    for name, module in (
        ("mobilenet_v2", keras.applications.mobilenet_v2),
        ("resnet50", keras.applications.resnet),
    ):
        found = keras_applications.APPLICATIONS[name].pixels.of(tf.constant(x))
        np.testing.assert_allclose(found, module.preprocess_input(x.copy()), atol=1e-4)
    torch = keras.applications.imagenet_utils.preprocess_input(x.copy(), mode="torch")
    np.testing.assert_allclose(pixels.NORMALIZED.of(tf.constant(x)), torch, atol=1e-5)
    found = backbones.EfficientNetLite0.pixels.of(tf.constant(x))
    np.testing.assert_allclose(found, (x - 127) / 128, atol=1e-6)


def test_teacher_and_student_share_images_where_they_are_given_the_same():
    built = {
        name: registry.build(name, input_size=SIZE, class_names=CLASSES).preprocessing
        for name in (
            "shuffledet_0.25x",
            "shuffledet_1x",
            "efficientnet_lite0_shuffledet",
            "resnet50_shuffledet",
        )
    }
    assert built["shuffledet_0.25x"] == built["shuffledet_1x"] == built["resnet50_shuffledet"]
    assert built["efficientnet_lite0_shuffledet"] != built["shuffledet_1x"]


PYRAMID = {"mobilenet_v2": (24, 32, 96, 320), "efficientnet_b0": (24, 40, 112, 320)}


@pytest.mark.parametrize("name", PYRAMID)
def test_maps_of_every_stride(name):
    backbone = keras_applications.KerasBackbone(name, (64, 96), strides=(4, 8, 16, 32))
    maps = backbone(tf.zeros([1, 64, 96, 3]))
    assert backbone.channels == PYRAMID[name] and backbone.strides == (4, 8, 16, 32)
    assert [m.shape for m in maps] == [
        (1, 64 // stride, 96 // stride, channels)
        for stride, channels in zip(backbone.strides, PYRAMID[name], strict=True)
    ]


def test_a_pyramid_of_any_size():
    """ResNet-50's C2 to C5 (Lin et al. 2017), whatever the size of a batch."""
    backbone = keras_applications.KerasBackbone("resnet50", None, strides=(4, 8, 16, 32))
    for height, width in ((64, 96), (96, 64)):
        shapes = [m.shape for m in backbone(tf.zeros([1, height, width, 3]))]
        assert shapes == [
            (1, height // 4, width // 4, 256),
            (1, height // 8, width // 8, 512),
            (1, height // 16, width // 16, 1024),
            (1, height // 32, width // 32, 2048),
        ]


def test_what_a_classifier_cannot_give():
    with pytest.raises(ValueError, match="mobilenet_v2 has maps of the strides 4, 8, 16, 32"):
        keras_applications.KerasBackbone("mobilenet_v2", (64, 96), strides=(2, 16))
    with pytest.raises(ValueError, match="mobilenet_v2 pads by the size of its inputs: input_size has to"):
        keras_applications.KerasBackbone("mobilenet_v2", None)


def test_no_strided_1x1_convolution_is_left_to_tensorflow():
    """Its gradient on CPUs writes where it should not; what takes its place computes the same."""
    backbone = keras_applications.KerasBackbone("resnet50", None, strides=(8,))
    images = tf.random.stateless_normal([1, 33, 47, 3], [1, 2])
    graph = tf.function(backbone.call, autograph=False).get_concrete_function(images).graph
    operations = [op for op in graph.get_operations() if op.type == "Conv2D"]
    shapes = {(tuple(op.inputs[1].shape[:2]), op.get_attr("strides")[1]) for op in operations}
    assert shapes == {((7, 7), 2), ((3, 3), 1), ((1, 1), 1)}
    original = keras_applications.without_top("resnet50", None)
    expected = keras.Model(original.inputs, original.get_layer("conv3_block4_out").output)
    for layer in backbone.model.layers:
        if layer.weights:
            expected.get_layer(layer.name).set_weights(layer.get_weights())
    np.testing.assert_allclose(backbone(images)[0], expected(images), rtol=1e-4, atol=1e-4)
