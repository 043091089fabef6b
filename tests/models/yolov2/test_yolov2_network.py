"""YOLOv2's network: sizes, the reorganisation, Darknet's own outputs, weight files."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.interop import darknet_weights
from fgfi_tf.models.yolov2 import network, reorg

NARROW = network.Variant(1 / 16)


def build(variant, anchors=5, classes=1, size=32, **options):
    net = network.Network(variant, anchors, classes, **options)
    net(tf.zeros([1, size, size, 3]))
    return net


def floats(net):
    """Values of a weight file: kernels, four for each normalised channel, the last bias."""
    return sum(int(tf.size(v)) for v in net.variables)


@pytest.mark.parametrize(
    "name, count", [("yolov2", 50_578_686), ("yolov2_0.25x", 3_174_870), ("yolov2_0.15x", 1_154_053)]
)
def test_published_sizes(name, count):
    assert floats(build(network.VARIANTS[name])) == count


def test_shapes_at_any_multiple_of_32():
    net = build(NARROW, classes=3)
    found = net(tf.zeros([2, 96, 160, 3]))
    assert found["stride_16"].shape == (2, 6, 10, 32) and found["trunk"].shape == (2, 3, 5, 64)
    assert found["features"].shape == (2, 3, 5, 64) and found["predictions"].shape == (2, 3, 5, 40)
    assert found["predictions"].dtype == tf.float32


def test_space_to_depth_by_hand():
    x = tf.reshape(tf.range(8), [1, 2, 2, 2])  # pixel (y, x) has channels 4y + 2x, 4y + 2x + 1
    np.testing.assert_array_equal(reorg.space_to_depth(x)[0, 0, 0], range(8))


def test_original_reorg_by_hand():
    # Memory of one 4 x 2 x 2 image is 0 .. 15: taken as one plane of 4 x 4, whose 2 x 2 blocks become
    # channels, first all upper left corners 0 2 8 10, which are then four channels of one pixel.
    x = tf.transpose(tf.reshape(tf.range(16), [1, 4, 2, 2]), [0, 2, 3, 1])
    np.testing.assert_array_equal(
        reorg.original_reorg(x)[0, 0, 0], [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]
    )
    with pytest.raises(ValueError, match="a multiple of 4 channels, not 10"):
        reorg.original_reorg(tf.zeros([1, 2, 2, 10]))


def test_reorg_golden(shared_path, run_mode):
    golden = np.load(shared_path("golden/yolov2/reorg.npz"))
    for i in range(3):
        x = golden[f"x{i}"].transpose(1, 2, 0)[None]
        for name, function in (("original", reorg.original_reorg), ("space_to_depth", reorg.space_to_depth)):
            found = run_mode(function)(tf.constant(x))[0].numpy().transpose(2, 0, 1)
            np.testing.assert_array_equal(found, golden[f"{name}{i}"])


def of_golden(golden, **options):
    """The network of a golden file: its width, anchors and classes."""
    anchors = len(golden["anchors"])
    classes = len(golden["region_original"]) // anchors - 5
    variant = network.Variant(len(golden["conv22"]) / network.LAST_CHANNELS)
    return network.Network(variant, anchors, classes, **options)


@pytest.mark.parametrize("kind", ["original", "space_to_depth"])
def test_forward_golden(shared_path, kind):
    folder = shared_path("golden/yolov2")
    golden = np.load(folder / "forward.npz")
    images = tf.constant(golden["input"].transpose(1, 2, 0)[None])
    net, folded = of_golden(golden, reorg=kind), of_golden(golden, reorg=kind, folded=True)
    net(images)
    path = folder / "narrow.weights"
    seen = darknet_weights.load_weights(path, net.convolutions(), net.predict)
    assert seen == np.frombuffer(path.read_bytes()[12:20], "<i8")  # the header of version 0.2
    folded(images)
    folded.fold_from(net)
    for form in (net, folded):
        found = {key: value[0].numpy().transpose(2, 0, 1) for key, value in form(images).items()}
        for key, name in (
            ("stride_16", "conv16"),
            ("trunk", "conv22"),
            ("features", f"feature29_{kind}"),
            ("predictions", f"last_conv_{kind}"),
        ):
            np.testing.assert_allclose(found[key], golden[name], atol=1e-3, err_msg=name)


def test_weight_files_write_back_bit_equal(shared_path, tmp_path):
    path = shared_path("golden/yolov2/narrow.weights")
    golden = np.load(shared_path("golden/yolov2/forward.npz"))
    net = of_golden(golden)
    net(tf.zeros([1, 32, 32, 3]))
    seen = darknet_weights.load_weights(path, net.convolutions(), net.predict)
    darknet_weights.save_weights(tmp_path / "w", net.convolutions(), net.predict, seen)
    assert (tmp_path / "w").read_bytes() == path.read_bytes()


@pytest.fixture
def written(tmp_path):
    net = build(NARROW, classes=3)
    darknet_weights.save_weights(tmp_path / "w.weights", net.convolutions(), net.predict, 77)
    return net, tmp_path / "w.weights"


def test_both_headers_and_a_trunk(written, tmp_path):
    net, path = written
    body = path.read_bytes()[20:]
    old = tmp_path / "old.weights"
    old.write_bytes(np.array([0, 1, 0, 77], "<i4").tobytes() + body)
    other = build(NARROW, classes=3)
    assert darknet_weights.load_weights(old, other.convolutions(), other.predict) == 77
    for ours, theirs in zip(net.variables, other.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    trunk = [conv for conv in net.trunk if conv is not None]
    darknet_weights.save_weights(tmp_path / "trunk", trunk)
    third = build(NARROW, classes=3)
    darknet_weights.load_weights(tmp_path / "trunk", [conv for conv in third.trunk if conv is not None])
    np.testing.assert_array_equal(third.trunk[-1].kernel, net.trunk[-1].kernel)
    assert (third.last.kernel.numpy() != net.last.kernel.numpy()).any()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data[:10], "is too short"),
        (lambda data: data[:17], "is too short"),
        (lambda data: data[:-4], "this network has 2[0-9]{5}"),
        (lambda data: data + b"\0\0", "another width, number of classes or anchors"),
        (lambda data: np.array([1001, 2, 0], "<i4").tobytes() + data[12:], "transposed layers"),
        (lambda data: np.array([-1, 2, 0], "<i4").tobytes() + data[12:], "is no Darknet weight file"),
        (lambda data: data[:-4] + np.array([np.nan], "<f4").tobytes(), "not finite"),
    ],
)
def test_files_that_are_refused(written, change, message):
    net, path = written
    before = net.predict.kernel.numpy()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        darknet_weights.load_weights(path, net.convolutions(), net.predict)
    np.testing.assert_array_equal(net.predict.kernel, before)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="gone: cannot be read"):
        darknet_weights.load_weights(tmp_path / "gone", [])


def test_the_original_reorg_needs_fitting_widths():
    with pytest.raises(ValueError, match="a multiple of 4 passthrough channels, not 10"):
        network.Network(network.VARIANTS["yolov2_0.15x"], 5, 1, reorg="original")
