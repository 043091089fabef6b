"""Quantisation-aware training and pruning: what they do to layers, by hand; what is refused."""

from __future__ import annotations

import dataclasses
import sys
import types

import compress
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from spread_weights import spread

from fgfi_tf import cli
from fgfi_tf.deploy.compress import command, prune, quantize
from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.models.backbones.keras_applications import StridedPointwise
from fgfi_tf.models.backbones.norm_conv import NormConv
from fgfi_tf.models.backbones.resnet import Layout, ResNet
from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.training import build, restoring, unlabelled
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.progress import ProgressBar


@pytest.fixture(name="library")
def library_fixture():
    pytest.importorskip("tensorflow_model_optimization", reason="needs the extra [compress]")


def built(channels=12, filters=24, kind=ConvBN, **arguments):
    layer = kind(channels, filters, **arguments)
    layer(tf.zeros([1, 4, 4, channels]))
    random = np.random.default_rng(3)
    layer.norm.moving_variance.assign(random.uniform(0.5, 2.0, filters))
    for variable in (layer.norm.gamma, layer.norm.beta, layer.norm.moving_mean):
        variable.assign(random.normal(0.5, 0.5, filters))
    return layer


FORMS = [
    {"kernel_size": 3, "strides": 2},
    {"groups": 3, "shuffle_groups": 3},
    {"filters": 12, "kernel_size": 3, "depthwise": True, "activation": None},
]


@pytest.mark.parametrize("form", FORMS)
def test_folded_call_is_the_layer_in_inference(form):
    layer = built(**form)
    inputs = tf.random.normal([2, 8, 6, 16])[..., :12]
    inputs = tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, 4]])  # as the trainable form pads
    found = quantize.folded_call(layer, inputs, lambda kernel: kernel)
    np.testing.assert_allclose(found, layer(inputs, training=False), atol=2e-5)


@pytest.mark.parametrize("norm", ["frozen", "synchronised"])
@pytest.mark.parametrize("size, strides", [(1, 2), (3, 1), (7, 2)])
def test_folded_call_of_a_resnets_convolution(norm, size, strides):
    layer = built(kind=NormConv, kernel_size=size, strides=strides, norm=norm, activation=strides == 2)
    inputs = tf.random.normal([2, 9, 6, 12])
    found = quantize.folded_call(layer, inputs, lambda kernel: kernel)
    np.testing.assert_allclose(found, layer(inputs, training=False), atol=2e-5)
    rounded = quantize.folded_call(layer, inputs, tf.zeros_like)  # the bias alone is left
    np.testing.assert_allclose(rounded, np.broadcast_to(rounded[0, 0, 0], rounded.shape))


def test_kernels_have_255_levels_by_channel(library):
    layer = ConvBN(1, 2, activation=None)
    layer(tf.zeros([1, 1, 1, 1]))
    layer.norm.moving_variance.assign([1.0 - layer.norm.epsilon] * 2)  # batch norm does nothing
    model = keras.Sequential([layer])
    hooked = quantize.QuantizedLayers(model)
    assert hooked.count == 1
    layer.kernel.assign([[[[127.0, 0.0]]]])
    out = layer(tf.ones([1, 1, 1, 1]), training=True)
    np.testing.assert_allclose(out[0, 0, 0, 0], 127.0, rtol=1e-5)
    assert out[0, 0, 0, 1] == layer.norm.beta[1] == 0.0
    hooked.restore()
    assert "call" not in vars(layer)


def test_weights_between_levels_are_rounded(library):
    layer = ConvBN(2, 1, activation=None)
    layer(tf.zeros([1, 1, 1, 2]))
    layer.norm.moving_variance.assign([1.0 - layer.norm.epsilon])
    layer.kernel.assign([[[[127.0], [10.4]]]])  # levels are whole numbers
    hooked = quantize.QuantizedLayers(keras.Sequential([layer]))
    out = layer(tf.constant([[[[0.0, 1.0]]]]), training=True)
    np.testing.assert_allclose(out[0, 0, 0, 0], 10.0, atol=10 / 255)
    hooked.restore()
    out = layer(tf.constant([[[[0.0, 1.0]]]]), training=False)
    np.testing.assert_allclose(out[0, 0, 0, 0], 10.4, rtol=1e-5)


def test_a_strided_convolution_of_keras_applications(library):
    """Every second position; of the kernel as of any other, 127 levels beside 0."""
    layer = StridedPointwise(1, 1, strides=2, use_bias=False)
    layer(tf.zeros([1, 3, 3, 2]))
    layer.kernel.assign([[[[127.0], [10.4]]]])
    hooked = quantize.QuantizedLayers(keras.Sequential([layer]))
    assert hooked.count == 1
    inputs = np.zeros([1, 3, 3, 2], np.float32)
    inputs[0, :, :, 1] = [[1, 7, 2], [7, 7, 7], [3, 7, 4]]
    np.testing.assert_allclose(layer(inputs)[0, :, :, 0], [[10, 20], [30, 40]], rtol=1e-5)
    hooked.restore()
    np.testing.assert_allclose(layer(inputs)[0, :, :, 0], [[10.4, 20.8], [31.2, 41.6]], rtol=1e-5)


def test_which_layers_of_a_resnet_are_rounded(library):
    """The stem; of each of four blocks two convolutions and the sum; three shortcuts."""
    trunk = ResNet(Layout((1, 1, 1, 1), bottleneck=False), width=1 / 16, taps=(5,), norm="frozen")
    images = tf.random.stateless_normal([1, 33, 47, 3], [1, 2])
    exact = trunk(images)[0].numpy()
    hooked = quantize.QuantizedLayers(keras.Sequential([trunk]))
    assert hooked.count == 1 + 4 * (2 + 1) + 3
    rounded = trunk(images, training=True)[0].numpy()
    assert 0 < np.abs(rounded - exact).mean() < 0.1 * np.abs(exact).mean()
    steps = rounded / rounded.max() * 255  # of the last sum, which is 0 at least behind its ReLU
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    hooked.restore()
    np.testing.assert_array_equal(trunk(images)[0], exact)


def test_backbones_of_keras_applications_are_refused():
    detector = registry.build("mobilenet_v2_shuffledet", class_names=("a",), input_size=(64, 64))
    with pytest.raises(UserError, match="--method=quantize: this student's backbone is one of keras.applica"):
        quantize.QuantizedLayers(detector)


def test_a_layer_that_is_not_told_of_training_is_rounded_as_finely(library):
    """Keras calls a Conv2D without ``training``; its kernel has a range of its own nevertheless."""
    layer = keras.layers.Conv2D(2, 1)
    layer(tf.zeros([1, 1, 1, 2]))
    layer.kernel.assign([[[[1.27, 0.00127], [0.104, 0.000104]]]])  # levels are 0.01 and 0.00001
    hooked = quantize.QuantizedLayers(keras.Sequential([layer]))
    for training in (False, True):
        out = keras.Sequential([layer])(tf.constant([[[[0.0, 1.0]]]]), training=training)
        np.testing.assert_allclose(out[0, 0, 0], [0.10, 0.0001], rtol=1e-4)
    hooked.restore()
    np.testing.assert_allclose(layer(tf.constant([[[[0.0, 1.0]]]]))[0, 0, 0], [0.104, 0.000104], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("shuffledet_0.25x", {"input_size": (64, 96)}),
        ("yolov2", {"input_size": (64, 96), "width": 1 / 16}),
        ("ssd300_vgg11", {"input_size": (257, 257), "width": 1 / 16}),
        ("ssd300_resnet18", {"input_size": (257, 257), "width": 1 / 16}),
    ],
)
def test_the_first_steps_losses_are_those_of_the_detector(library, name, options):
    """Rounding changes a detector's losses by some percent: what learns is the network that was trained."""
    keras.utils.set_random_seed(1)
    detector = spread(registry.build(name, class_names=("a", "b", "c"), **options))
    height, width = options["input_size"]
    batch = {
        "image": tf.random.stateless_uniform([2, height, width, 3], (0, 1), 0, 255),
        "boxes": tf.constant([[[8.0, 8.0, 47.0, 39.0]], [[20.0, 4.0, 61.0, 55.0]]]),
        "classes": tf.constant([[0], [2]]),
        "valid": tf.ones([2, 1], tf.bool),
        "scale": tf.ones([2, 2]),
        "image_size": tf.constant([[height, width]] * 2),
        "content_size": tf.constant([[height, width]] * 2, tf.float32),
    }
    batch = detector.prepare_batch(batch)

    def losses(training):
        outputs = detector(detector.preprocess(batch["image"]), training=training)
        found = {key: float(loss) for key, loss in detector.detection_losses(outputs, batch).items()}
        return np.array(list(found.values())), outputs["features"]

    exact, maps = losses(training=False)
    hooked = quantize.QuantizedLayers(detector)
    rounded, rounded_maps = losses(training=True)
    hooked.restore()
    np.testing.assert_allclose(rounded, exact, rtol=0.05, atol=0.02)
    assert np.abs(rounded - exact).max() > 0
    for ours, theirs in zip(rounded_maps, maps, strict=True):
        assert 0 < np.abs(ours - theirs).mean() < 0.1 * np.abs(theirs).mean()
    np.testing.assert_array_equal(losses(training=False)[0], exact)


def test_a_quantised_detector_is_near_itself_and_learns(library):
    detector = spread(registry.build("shuffledet_0.25x", input_size=(32, 48), class_names=("a", "b", "c")))
    images = tf.random.stateless_uniform([2, 32, 48, 3], (0, 1), -100, 100)
    exact = detector(images, training=False)["features"][0]
    count = len(detector.trainable_variables)
    hooked = quantize.QuantizedLayers(detector)
    assert hooked.count == 1 + 16 * 4 + 1  # the stem, three convolutions and the sum of each unit, the head

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            outputs = detector(images, training=True)
            loss = tf.reduce_sum(outputs["predictions"] ** 2)
        return outputs["features"][0], tape.gradient(loss, detector.trainable_variables)

    rounded, gradients = step()
    error = np.abs(rounded - exact).mean() / np.abs(exact).mean()
    assert 0.0005 < error < 0.2
    assert len(gradients) == count and not [g for g in gradients if g is None]
    hooked.restore()
    np.testing.assert_allclose(detector(images, training=False)["features"][0], exact, rtol=1e-6)
    assert len(detector.trainable_variables) == count


def test_the_smallest_weights_become_zero(library):
    inner = keras.layers.Conv2D(5, 1)
    model = keras.Sequential([keras.Input((2, 2, 4)), inner])
    inner.kernel.assign(np.arange(1.0, 21.0).reshape(1, 1, 5, 4).swapaxes(2, 3))  # filters of 1..4, 5..8, ..
    assert list(prune.prunable(model)) == [inner]
    hook = prune.MagnitudePruning(model, 0.5, steps=10)
    for step in range(10):
        hook.on_train_batch_end(step)
    left = inner.kernel.numpy().reshape(4, 5)
    assert (left[-1] == [4, 8, 12, 16, 20]).all()  # the largest of each filter
    assert ((left > 0).sum(axis=0) == [2, 2, 2, 2, 2]).all() and (left[-2] == left[-1] - 1).all()
    assert prune.sparsity(model) == 0.5
    inner.kernel.assign_add(tf.ones_like(inner.kernel))  # an update
    hook.on_train_batch_end(10)
    assert prune.sparsity(model) == 0.5


def test_which_values_stay_by_hand():
    one, four = np.array([[3.0], [-1.0]]), np.array([[1.0, 10.0], [-2.0, -20.0]])
    # Scores 9/9 and 1/10; 1/5 and 1 of both filters, whatever their size.
    assert [mask.tolist() for mask in prune.masks([one, four], 0.05)] == [[[1], [1]], [[1, 1], [1, 1]]]
    assert [mask.tolist() for mask in prune.masks([one, four], 1 / 6)] == [[[1], [0]], [[1, 1], [1, 1]]]
    assert [mask.tolist() for mask in prune.masks([one, four], 0.5)] == [[[1], [0]], [[0, 0], [1, 1]]]
    # Of equal ones the last has nothing beside it: 1/3, 1/2, 1.
    (mask,) = prune.masks([np.ones([3, 1])], 2 / 3)
    assert mask.sum() == 1.0
    (zeros, ones) = prune.masks([np.zeros([4, 1]), np.ones([1, 4])], 0.5)
    assert not zeros.any() and ones.all()


def test_narrow_layers_keep_their_weights(library):
    detector = registry.build("shuffledet_0.25x", input_size=(32, 48), class_names=("a", "b", "c"))
    hook = prune.MagnitudePruning(detector, 0.5, steps=10)
    for step in range(10):
        hook.on_train_batch_end(step)
    assert prune.sparsity(detector) == pytest.approx(0.5, abs=0.001)
    zeros = {layer.name: [] for layer in hook.layers}
    for layer in hook.layers:
        zeros[layer.name].append(float(np.mean(layer.kernel.numpy() == 0)))
    assert max(zeros["conv1"] + zeros["conv2"]) < 0.3 < 0.6 < zeros["conv12"][0]
    of_filters = np.mean(hook.layers[-1].kernel.numpy() == 0, axis=(0, 1, 2))
    assert hook.layers[-1].name == "conv12" and np.ptp(of_filters) < 0.2


def test_what_is_pruned():
    detector = registry.build("shuffledet_0.25x", input_size=(32, 48), class_names=("a",))
    names = [layer.name for layer in prune.prunable(detector)]
    assert len(names) == 16 * 2 + 1 and "dconv" not in names
    assert names.count("conv1") == 16  # of the units; the stem, of the same name, sees three colours


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run="], "--run is missing"),
        (["--output_dir="], "--output_dir is missing"),
        (["--steps=0"], "--steps=0: must be at least 1"),
        (["--method=prune", "--steps=1"], "--steps=1: pruning takes at least 2"),
        (["--sparsity=1"], "--sparsity=1.0: must be above 0 and below 1"),
        (["--learning_rate=-1"], "--learning_rate=-1.0: must be at least 0"),
        ([], "--run=absent: no run folder: it has no flags.cfg"),
        (["--output_dir=."], "--output_dir=. is there already: name a new folder"),
    ],
)
def test_flags_that_cannot_work(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        cli.run(compress.main, ["compress.py", "--run=absent", "--output_dir=new", *arguments])
    assert end.value.code == 1
    assert message in capsys.readouterr().err


class Enough(Exception):
    """Ends a command where a test has seen it."""


def test_what_the_run_trained_on_goes_on(library, monkeypatch, tmp_path):
    """Pictures without labels too: the detection losses count the share of a batch that is labelled."""
    (tmp_path / "flags.cfg").write_text("--model=shuffledet_0.25x\n--unlabelled_dir=more\n--batch_size=4\n")
    seen = {}

    def batches(run, *given):
        seen.update(share=run.labelled_share, given=given)
        raise Enough

    distiller = types.SimpleNamespace(student=keras.Sequential())
    monkeypatch.setattr(restoring, "find", lambda folder: (tmp_path / "ckpt-7", None))
    monkeypatch.setattr(restoring, "build", lambda run, metadata: distiller)
    monkeypatch.setattr(restoring, "restore", lambda *_: None)
    monkeypatch.setattr(build, "open_split", lambda *_: "labelled")
    monkeypatch.setattr(unlabelled, "open_pictures", lambda run, *_: run.unlabelled_dir)
    monkeypatch.setattr(build, "build_batches", batches)
    config = command.CompressConfig(str(tmp_path), str(tmp_path / "new"), "prune")
    with pytest.raises(Enough):
        command.compress(config)
    assert seen["share"] == (4, 8)
    assert seen["given"][0] == "labelled" and seen.pop("given")[-2:] == (7, "more")
    (tmp_path / "file").touch()  # what cannot be written is told before the steps
    with pytest.raises(NotADirectoryError):
        command.compress(dataclasses.replace(config, output_dir=str(tmp_path / "file" / "new")))
    assert "given" not in seen


def test_it_says_how_far_it_is(monkeypatch, capsys):
    run = ExperimentConfig.of(model="shuffledet_0.25x", steps=20, batch_size=4)
    shown = command._shown(run)
    for step in range(20):
        shown.on_train_batch_begin(step)
        shown.on_train_batch_end(step, {"loss": tf.constant(2.5)})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 1/20", "step 10/20"]
    assert "loss 2.5" in lines[0] and "left 0:00:" in lines[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert isinstance(command._shown(run), ProgressBar)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    with pytest.raises(
        UserError, match=r"needs tensorflow-model-optimization: pip install -e '.\[compress\]'"
    ):
        quantize.QuantizedLayers(keras.Sequential())
