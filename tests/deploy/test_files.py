"""TFLite and ONNX files say what the detector says; what they are made of, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.deploy import card, counting, network, onnx_file, runtimes, tflite
from fgfi_tf.deploy.card import Card
from fgfi_tf.deploy.network import RawNetwork
from fgfi_tf.deploy.predictor import network_inputs
from fgfi_tf.errors import UserError
from fgfi_tf.geometry.suppression import Suppression, suppress
from fgfi_tf.models import registry
from fgfi_tf.models.pixels import CAFFE, NORMALIZED, SIGNED
from fgfi_tf.prediction import Predictor, detect_images

CARD = Card((64, 96), "stretch", (1.0, 2.0, 3.0), ("a", "b"), Suppression(0.4, 50, 64))


def graph_of(model: bytes):
    """Names of the operations of a TFLite file, and its tensors' types."""
    from tensorflow.lite.python import schema_py_generated as schema

    loaded = schema.ModelT.InitFromPackedBuf(model, 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in loaded.operatorCodes]
    graph = loaded.subgraphs[0]
    return [(codes[op.opcodeIndex], [graph.tensors[o].type for o in op.outputs]) for op in graph.operators]


@pytest.fixture(scope="module", name="raw_network")
def network_fixture(detector):
    return RawNetwork(detector)


@pytest.fixture(scope="module", name="inputs")
def inputs_fixture(detector, pictures):
    return [network_inputs(_card(detector), picture[None])[0][0] for picture in pictures]


def _card(detector):
    rule = Suppression(0.4, 50, 64, best_boxes=64, best_class=True)
    return Card(detector.input_size, detector.resize, detector.padding_color, detector.class_names, rule)


def test_raw_head_and_suppression_are_what_the_detector_detects(detector, pictures):
    raw_network = RawNetwork(detector, batch=None)
    assert raw_network.suppression == _card(detector).suppression
    images, scale = network_inputs(_card(detector), np.stack(pictures[:4]))
    raw = raw_network.function(tf.constant(images))
    assert raw["boxes"].shape == (4, 4 * 6 * 9, 4)
    expected = detect_images(detector, tf.constant(images))  # of the network's size: scale 1
    for i in range(4):
        found = suppress(raw["boxes"][i].numpy(), raw["scores"][i].numpy(), raw_network.suppression)
        count = int(expected["count"][i])
        assert count == len(found["scores"]) > 5
        np.testing.assert_allclose(found["scores"], expected["scores"][i, :count], atol=1e-6)
        np.testing.assert_allclose(found["boxes"], expected["boxes"][i, :count], atol=1e-3)
    np.testing.assert_allclose(scale, [64 / 75, 96 / 130], rtol=1e-6)


def test_float32_file_is_exact_and_of_built_in_operations(exported, detector, pictures):
    # the picture is rounded to whole numbers on its way in: of the network's size it is the same
    images = np.stack([network_inputs(_card(detector), picture[None])[0][0] for picture in pictures])
    found = Predictor.load(exported / "model.tflite")(images)
    expected = Predictor.of_detector(detector)(images)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["classes"], other["classes"])
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)
        np.testing.assert_allclose(one["boxes"], other["boxes"], atol=0.02)
    kinds = [kind for kind, _ in graph_of((exported / "model.tflite").read_bytes())]
    assert not {kind for kind in kinds if kind in ("CUSTOM", "PLACEHOLDER_FOR_GREATER_OP_CODES")}
    # pixels, stem, 16 units of two pointwise and one depthwise, three parts of the head; batch norm folded
    assert kinds.count("CONV_2D") == 2 + 16 * 2 + 3
    assert kinds.count("DEPTHWISE_CONV_2D") == 16
    # the shuffles of narrow groups are folded into kernels; six units have groups wide enough to stay apart
    assert kinds.count("TRANSPOSE") == 6


def test_the_converter_is_given_no_layers(raw_network, monkeypatch):
    """Keras would trace each of them anew, in most of the conversion's time."""
    given = []

    def make(functions, network):
        given.append(network)
        return types.SimpleNamespace(target_spec=types.SimpleNamespace(), convert=lambda: b"")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_concrete_functions", make)
    assert tflite.convert(raw_network) == b""
    (network,) = given
    assert not network.submodules
    assert {v.ref() for v in network.variables} == {v.ref() for v in raw_network.detector.variables}


def test_int8_network_and_float_decoding(exported):
    operations = graph_of((exported / "model_int8.tflite").read_bytes())
    int8, float32 = 9, 0
    network_kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D")
    assert {tuple(types) for kind, types in operations if kind in network_kinds} == {(int8,)}
    kinds = [kind for kind, types in operations if types[0] == int8]
    assert kinds.count("CONV_2D") == 37
    # of three means 4 stretches each: inside, right, below, the corner; no kernel of int8 pools fast
    assert kinds.count("DEPTHWISE_CONV_2D") == 16 + 3 * 4
    assert not {"REVERSE_V2", "AVERAGE_POOL_2D"} & {kind for kind, _ in operations}
    # nothing of the network is rounded twice: the input's values and no others enter it from float32
    assert [kind for kind, types in operations if kind == "QUANTIZE"] == ["QUANTIZE"]
    # what turns logits and deltas into scores and boxes
    assert {"EXP", "SPLIT", "MUL"} <= {kind for kind, _ in operations}
    assert all(
        types == [float32] * len(types) for kind, types in operations if kind in ("EXP", "SPLIT", "MUL")
    )
    assert [kind for kind, _ in operations].count("DEQUANTIZE") == 3


@pytest.mark.parametrize("pixels", [CAFFE, SIGNED, NORMALIZED, None])
def test_pixels_are_those_of_the_detector(pixels):
    class Pretended:
        def preprocess(self, images):
            return tf.cast(images, tf.float32) * 2.0

    detector = Pretended()
    detector.pixels = pixels
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (1, 3, 4, 3)), tf.uint8)
    expected = detector.preprocess(images) if pixels is None else pixels.of(images)
    np.testing.assert_allclose(network._preprocess(detector, images), expected, rtol=1e-4, atol=1e-4)


def test_int8_stays_near(exported, detector, inputs):
    exact = runtimes.open_runtime(exported / "model.tflite", 1)(np.stack(inputs))
    near = runtimes.open_runtime(exported / "model_int8.tflite", 1)(np.stack(inputs))
    assert 0 < np.abs(near.scores - exact.scores).max() < 0.1
    assert np.median(np.abs(near.boxes - exact.boxes)) < 0.5


def test_input_is_uint8_of_a_fixed_size(exported):
    interpreter = runtimes.tflite_interpreter()(model_path=str(exported / "model_int8.tflite"))
    (given,) = interpreter.get_input_details()
    assert (given["dtype"], given["shape"].tolist()) == (np.uint8, [1, 64, 96, 3])
    assert {made["dtype"] for made in interpreter.get_output_details()} == {np.float32}


@pytest.mark.long
def test_weights_of_half_and_quarter_size(raw_network, exported):
    whole = (exported / "model.tflite").stat().st_size
    assert len(tflite.convert(raw_network, "float16")) < 0.62 * whole
    assert len(tflite.convert(raw_network, "dynamic")) < 0.5 * whole


@pytest.mark.parametrize("pictures", [None, list])
def test_int8_without_pictures(raw_network, pictures):
    with pytest.raises(UserError, match="--quantize=int8 is calibrated on pictures: --images or --data_dir"):
        tflite.convert(raw_network, "int8", pictures)


def test_detectors_that_have_no_such_form():
    faster = registry.build("faster_rcnn_vgg11", input_size=(64, 0), class_names=("a",), width=0.05)
    with pytest.raises(UserError, match="faster_rcnn_vgg11 has no raw head .*in two stages.*--format=saved"):
        RawNetwork(faster)
    by_batch = registry.build(
        "yolov2", input_size=(64, 96), class_names=("a",), width=1 / 32, resize="shorter_side"
    )
    with pytest.raises(UserError, match="yolov2: with --resize=shorter_side pictures decide the size of"):
        RawNetwork(by_batch)


class Unknown(tf.Module):
    """A network with an operation that no file format has."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector
        signature = [tf.TensorSpec([1, 8, 8, 3], tf.uint8, name="images")]
        self.function = tf.function(self._call, input_signature=signature, autograph=False)
        self.concrete = self.function.get_concrete_function()

    def _call(self, images):
        boxes = tf.math.bessel_i1(tf.cast(images, tf.float32))
        return {"boxes": boxes, "scores": boxes}


def test_operation_that_tflite_has_not(detector, capfd):
    with pytest.raises(
        UserError, match="TFLite cannot hold this network with its built-in operations.*saved"
    ):
        tflite.convert(Unknown(detector))


def test_onnx(detector, pictures, exported, tmp_path):
    for name in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra [onnx]")
    (tmp_path / "model.onnx").write_bytes(onnx_file.convert(RawNetwork(detector, batch=None)))
    _card(detector).write(tmp_path)
    tflite_file, source = exported / "model.tflite", counting.of_detector(detector).multiply_adds
    counted = [counting.of_file(file).multiply_adds for file in (tmp_path / "model.onnx", tflite_file)]
    assert counted[0] == counted[1] > source
    images = np.stack([network_inputs(_card(detector), picture[None])[0][0] for picture in pictures])
    expected = Predictor.of_detector(detector)(images)
    for one, other in zip(Predictor.load(tmp_path / "model.onnx")(images), expected, strict=True):
        np.testing.assert_array_equal(one["classes"], other["classes"])
        np.testing.assert_allclose(one["boxes"], other["boxes"], atol=0.02)
    with pytest.raises(UserError, match="ONNX has no form of .*BesselI1.*savedmodel"):
        onnx_file.convert(Unknown(detector))


@pytest.fixture(name="absent")
def absent_fixture(monkeypatch):
    """Makes packages impossible to import."""
    return lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]


def test_onnx_without_its_packages(absent, raw_network, tmp_path):
    absent("tf2onnx", "onnxruntime")
    with pytest.raises(
        UserError, match=r"--format=onnx needs tf2onnx.*onnxruntime: pip install -e '.\[onnx\]'"
    ):
        onnx_file.convert(raw_network)
    with pytest.raises(UserError, match=r"run by onnxruntime: pip install -e '.\[onnx\]'"):
        runtimes.open_runtime(tmp_path / "a.onnx")


def test_without_ai_edge_litert(absent, exported, inputs):
    exact = runtimes.open_runtime(exported / "model.tflite", 1)(inputs[0][None])
    absent("ai_edge_litert.interpreter", "ai_edge_litert")
    assert runtimes.tflite_interpreter() is tf.lite.Interpreter
    again = runtimes.open_runtime(exported / "model.tflite", 1)(inputs[0][None])
    np.testing.assert_allclose(again.boxes, exact.boxes, atol=0.05)


def test_damaged_files(exported, tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"not a model at all, but some bytes")
    with pytest.raises(UserError, match="a.tflite is not a TFLite file that runs here"):
        runtimes.open_runtime(tmp_path / "a.tflite")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="a.onnx is not an ONNX file that runs here"):
        runtimes.open_runtime(tmp_path / "a.onnx")


def test_letterboxed_pictures_are_padded_with_the_padding_colour():
    letterbox = dataclasses.replace(CARD, resize="letterbox")
    assert policies.resize("letterbox").keep_aspect_ratio
    images, scale = network_inputs(letterbox, np.full((1, 32, 96, 3), 200, np.uint8))
    np.testing.assert_array_equal(scale, [1.0, 1.0])
    assert (images[0, :32] == 200).all()
    assert (images[0, 32:] == [1, 2, 3]).all()


def test_card(tmp_path):
    with pytest.raises(UserError, match="has no detector.json, which export.py writes beside its files"):
        Card.read(tmp_path)
    CARD.write(tmp_path)
    assert Card.read(tmp_path) == CARD
    assert json.loads((tmp_path / card.CARD_FILE).read_text())["class_names"] == ["a", "b"]
    (tmp_path / card.CARD_FILE).write_text('{"input_size": [64, 96]}')
    with pytest.raises(UserError, match="detector.json is malformed: 'resize'; export the detector again"):
        Card.read(tmp_path)


def test_which_file_a_path_names(tmp_path):
    assert card.model_file(tmp_path) is None
    CARD.write(tmp_path)
    with pytest.raises(UserError, match=r"holds no exported file: .tflite or .onnx"):
        card.model_file(tmp_path)
    (tmp_path / "model.tflite").touch()
    assert (
        card.model_file(tmp_path) == card.model_file(tmp_path / "model.tflite") == tmp_path / "model.tflite"
    )
    with pytest.raises(UserError, match="absent.tflite: no such file"):
        card.model_file(tmp_path / "absent.tflite")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(UserError, match=r"model.onnx, model.tflite\): name one of them"):
        card.model_file(tmp_path)
