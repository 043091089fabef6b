"""ResNets and FPN: against torchvision's arrays, sizes, parameters, batch norm in its three forms."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.models.backbones import resnet_weights
from fgfi_tf.models.backbones.fpn import FPN, repeated
from fgfi_tf.models.backbones.norm_conv import NormConv
from fgfi_tf.models.backbones.resnet import LAYOUTS, Layout, ResNet, Stage
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.models.pixels import NORMALIZED

TINY = Layout((1, 1, 1, 1))


def channels_last(array):
    return np.moveaxis(array, -3, -1)


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def parameters(layer):
    """Kernels, scales and shifts; not the statistics."""
    return sum(v.shape.num_elements() for v in layer.variables if "moving" not in v.name)


@pytest.mark.parametrize("style, where", [("torchvision", "3x3"), ("caffe", "1x1")])
def test_both_stride_conventions(shared_path, run_mode, style, where):
    golden = np.load(shared_path("golden/fpn/c4.npz"))
    weights = dict(np.load(shared_path("golden/fpn/c4_weights.npz")))
    blocks = [
        len({key.split(".")[1] for key in weights if key.startswith(f"layer{n}.")}) for n in range(1, 5)
    ]
    layout, width = Layout(tuple(blocks)), len(weights["conv1.weight"]) / 64
    trunk = ResNet(layout, width=width, taps=(2, 3, 4), style=style, norm="frozen")
    last = Stage(5, layout, width, style)
    inputs = tf.constant(channels_last(golden["input"]))
    regions = tf.constant(channels_last(golden["roi_features"]))
    trunk(inputs), last(regions)  # create the weights
    targets = resnet_weights.targets_of(trunk.convolutions() | last.convolutions())
    resnet_weights.fill(targets, weights, "c4_weights.npz", "a ResNet")
    maps, pooled = run_mode(lambda: (trunk(inputs), last(regions)))()
    assert relative(maps[0][:, ::2, ::2], channels_last(golden["res2"])) < 1e-4
    assert relative(maps[1], channels_last(golden[f"res3_stride_in_{where}"])) < 1e-4
    assert relative(maps[2], channels_last(golden[f"res4_stride_in_{where}"])) < 1e-4
    assert relative(pooled, channels_last(golden[f"res5_roi_stride_in_{where}"])) < 1e-4
    mean = golden[f"res5_roi_mean_stride_in_{where}"]
    assert relative(tf.reduce_mean(pooled, [1, 2]), mean) < 1e-4
    np.testing.assert_allclose(NORMALIZED.of(golden["image_uint8"][None]), inputs, atol=1e-5)


@pytest.mark.parametrize(
    "kind, width, expected",
    # torchvision's, without their last layers (512 x 1000 + 1000, 2048 x 1000 + 1000)
    [
        ("resnet18", 1.0, 11_689_512 - 513_000),
        ("resnet34", 1.0, 21_797_672 - 513_000),
        ("resnet50", 1.0, 25_557_032 - 2_049_000),
        ("resnet50", 0.5, 5_892_640),
    ],
)
def test_parameters(kind, width, expected):
    trunk = ResNet(kind, width=width)
    trunk(tf.zeros([1, 32, 32, 3]))
    assert parameters(trunk) == expected
    assert trunk.channels == tuple(int(width * inner) * LAYOUTS[kind].expansion for inner in (256, 512))


def test_maps_of_odd_sizes():
    """Every halving rounds up: 65 -> 33 -> 17 -> 9 -> 5 -> 3."""
    trunk = ResNet(TINY, width=1 / 16, taps=(2, 3, 4, 5))
    assert trunk.strides == (4, 8, 16, 32) and trunk.channels == (16, 32, 64, 128)
    shapes = [m.shape[1:3] for m in trunk(tf.zeros([1, 65, 97, 3]))]
    assert shapes == [(17, 25), (9, 13), (5, 7), (3, 4)]
    pyramid = FPN(trunk, 6)
    assert pyramid.strides == (4, 8, 16, 32, 64) and pyramid.channels == (6,) * 5
    shapes = [m.shape[1:] for m in pyramid(tf.zeros([1, 65, 97, 3]))]
    assert shapes == [(17, 25, 6), (9, 13, 6), (5, 7, 6), (3, 4, 6), (2, 2, 6)]


def test_values_are_repeated_and_cut():
    x = tf.constant([[[[1.0], [2.0]], [[3.0], [4.0]]]])
    found = repeated(x, tf.constant([1, 3, 4, 1]))
    np.testing.assert_array_equal(found[0, ..., 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]])


def test_a_pyramid_of_one_level():
    """Two maps in, the finer one out: what it gives depends on the coarser one."""
    trunk = ResNet(TINY, width=1 / 16, taps=(4, 5))
    pyramid = FPN(trunk, 6, outputs=1, pooled=False)
    images = tf.random.stateless_normal([1, 64, 96, 3], [1, 2])
    (before,) = pyramid(images)
    assert before.shape == (1, 4, 6, 6) and pyramid.strides == (16,)
    pyramid.inner[1].bias.assign_add(tf.ones(6))
    assert np.abs(pyramid(images)[0] - before).max() > 0.1


def test_styles_have_their_pixels():
    torchvision, caffe = (ResNet(TINY, width=1 / 16, style=style) for style in ("torchvision", "caffe"))
    assert torchvision.pixels == NORMALIZED and caffe.pixels == VGG.pixels
    strides = [[conv.strides for conv in trunk.stages[1].blocks[0].convs] for trunk in (torchvision, caffe)]
    assert strides == [[1, 2, 1], [2, 1, 1]]


@pytest.mark.parametrize("norm", ["frozen", "synchronised"])
def test_what_is_trained(norm):
    """Frozen statistics stay, as scale and shift do; others follow the batch. C2 and the stem are frozen."""
    trunk = ResNet(TINY, width=1 / 16, taps=(5,), norm=norm, frozen_stages=2)
    images = tf.random.stateless_normal([2, 64, 64, 3], [1, 2])
    trunk(images)
    norms = [layer.norm for layer in trunk.convolutions().values()]
    before = [layer.moving_mean.numpy() for layer in norms]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(trunk(images, training=True)[0] ** 2)
    gradients = tape.gradient(total, trunk.trainable_variables)
    assert all(np.abs(g).max() > 0 for g in gradients)
    moved = [not np.array_equal(a, b.moving_mean) for a, b in zip(before, norms, strict=True)]
    frozen = 1 + 4  # the stem; three convolutions and the shortcut of C2
    kernels = len(norms) - frozen
    if norm == "frozen":
        assert not any(moved) and len(gradients) == kernels
    else:
        assert moved == [False] * frozen + [True] * kernels and len(gradients) == 3 * kernels


@pytest.mark.parametrize("norm", ["frozen", "synchronised"])
def test_folding_keeps_the_function(norm):
    source, target = (
        FPN(ResNet(TINY, width=1 / 16, taps=(2, 3, 4, 5), norm=norm, folded=folded), 6)
        for folded in (False, True)
    )
    images = tf.random.stateless_normal([1, 64, 64, 3], [1, 2])
    source(images), target(images)
    generator = np.random.default_rng(1)
    for layer in source.submodules:
        if isinstance(layer, BatchNorm):
            for variable in layer.variables:
                variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    target.fold_from(source)
    for found, expected in zip(target(images), source(images), strict=True):
        assert relative(found, expected.numpy()) < 1e-5
    assert not any("moving" in v.name for v in target.variables)


def test_frozen_batch_norm_by_hand():
    """(x - 1) / sqrt(4) * 3 + 5 of x = 7 * 2: 24.5."""
    conv = NormConv(1, 1, 1, activation=False)
    conv(tf.ones([1, 1, 1, 1]))
    conv.kernel.assign([[[[7.0]]]])
    for name, value in (("moving_mean", 1), ("moving_variance", 4 - 1e-5), ("gamma", 3), ("beta", 5)):
        getattr(conv.norm, name).assign([value])
    np.testing.assert_allclose(conv(tf.fill([1, 1, 1, 1], 2.0)), [[[[24.5]]]], rtol=1e-6)


def test_a_strided_convolution_of_one_pixel_takes_every_second():
    """As slices: TensorFlow 2.21's own strided one corrupts memory in its gradient, on maps of odd sizes."""
    conv = NormConv(2, 3, 1, 2, activation=False)
    x = tf.random.stateless_normal([1, 5, 7, 2], [1, 2])
    found = conv(x)
    np.testing.assert_allclose(
        found, np.einsum("bhwi,io->bhwo", x[:, ::2, ::2], conv.kernel[0, 0]), rtol=1e-4
    )
    assert found.shape == (1, 3, 4, 3)
    graph = tf.function(conv).get_concrete_function(tf.TensorSpec([1, None, None, 2])).graph
    strides = [op.get_attr("strides") for op in graph.get_operations() if op.type == "Conv2D"]
    assert strides == [[1, 1, 1, 1]]


def test_untrained_deep_networks_neither_grow_nor_vanish():
    """101 layers without statistics: the last map is of the size of the first."""
    trunk = ResNet("resnet101", width=1 / 16, taps=(2, 5), norm="frozen")
    first, last = trunk(tf.random.stateless_normal([1, 96, 96, 3], [1, 2]))
    assert 0.2 < np.std(last) / np.std(first) < 5
