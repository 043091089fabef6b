"""Raw heads of SSD and YOLOv2: what is decoded outside is what the detector detects, in files as well."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import export
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image
from spread_weights import spread
from test_files import graph_of

from fgfi_tf.data import policies
from fgfi_tf.deploy import onnx_file, runtimes, tflite
from fgfi_tf.deploy.card import Card
from fgfi_tf.deploy.network import RawNetwork
from fgfi_tf.deploy.predictor import network_inputs
from fgfi_tf.errors import UserError
from fgfi_tf.geometry.suppression import CORNERS, Suppression, detections, suppress
from fgfi_tf.models import registry
from fgfi_tf.prediction import Predictor

SSD = {"input_size": (257, 272), "width": 1 / 16, "class_names": ("a", "b", "c")}
YOLO = {"input_size": (128, 96), "width": 1 / 16, "class_names": ("a", "b")}
DETECTORS = {
    "ssd300_vgg11": {**SSD, "default_boxes": "torchvision"},
    "ssd300_vgg16": SSD,
    "yolov2": {**YOLO, "resize": "stretch"},
    "yolov2_0.25x": {**YOLO, "width": 1 / 4, "class_names": ("face",), "reorg": "original"},
}


@pytest.fixture(scope="module", name="detectors")
def detectors_fixture():
    keras.utils.set_random_seed(0)
    return {name: spread(registry.build(name, **options)) for name, options in DETECTORS.items()}


def painted(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture of coloured squares and noise: equal pixels would give many boxes the same score."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (-(-height // 16), -(-width // 16), 3))
    squares = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width]
    return (squares + random.integers(0, 56, squares.shape)).astype(np.uint8)


def assert_same(found: dict, expected: dict, place: int, atol: float = 2e-3) -> int:
    """Of one image: what was suppressed outside, and a detector's padded detections; how many there are."""
    count = int(expected["count"][place])
    boxes, scores, classes = (
        np.array(expected[key])[place, :count] for key in ("boxes", "scores", "classes")
    )
    assert len(found["scores"]) == count
    np.testing.assert_allclose(found["scores"], scores, atol=atol)
    # Scores that are equal to the last digits may be in another order: each has its own in the other.
    same = (np.abs(found["boxes"][:, None] - boxes).max(axis=-1) <= atol) & (
        (found["classes"][:, None] == classes) & (np.abs(found["scores"][:, None] - scores) <= atol)
    )
    # Where an IoU is the threshold to the last digit, the two may keep another box.
    assert same.any(axis=0).mean() >= 0.98 and same.any(axis=1).mean() >= 0.98
    return count


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", [(130, 75), (60, 200)])
def test_outside_the_graph_it_is_what_the_detector_detects(detectors, name, size):
    detector = detectors[name].inference_copy()
    images = np.stack([painted(*size, seed) for seed in range(2)])
    batch = policies.resize(detector.resize).batch(tf.constant(images), detector.input_size)
    outputs = detector(detector.preprocess(batch["image"]), training=False)
    expected, raw = detector.detect(outputs, batch), detector.raw_head(outputs)
    assert raw.boxes.shape[:2] == raw.scores.shape[:2] and raw.scores.shape[2] == len(detector.class_names)
    for place in range(2):
        head = raw.boxes[place].numpy(), raw.scores[place].numpy()
        found = detections(*head, raw.suppression, batch["scale"][place].numpy(), size)
        assert assert_same(found, expected, place) > 3


def test_boxes_beyond_a_letterboxed_picture_take_no_part(detectors):
    """A picture of 60 x 200 leaves most of a 128 x 96 input empty, where boxes are found nevertheless."""
    detector = detectors["yolov2_0.25x"].inference_copy()
    assert detector.resize == "varying_letterbox"
    batch = policies.resize(detector.resize).batch(tf.constant(painted(60, 200)[None]), (128, 96))
    raw = detector.raw_head(detector(detector.preprocess(batch["image"]), training=False))
    head = raw.boxes[0].numpy(), raw.scores[0].numpy()
    scale = batch["scale"][0].numpy()
    np.testing.assert_allclose(scale, 96 / 200)
    whole = suppress(*head, raw.suppression)
    part = suppress(*head, raw.suppression, np.float32([60, 200]) * scale)
    assert 0 < len(part["scores"]) < len(whole["scores"]) <= 4 * 3 * 5
    assert ((part["boxes"][:, 1] + part["boxes"][:, 3]) / 2 <= 60 * 96 / 200).all()


def test_a_letterboxed_picture_ends_shuffledets_boxes_too():
    """60 x 200 pixels in the upper 29 of 64 rows, over which boxes reach, below which some are centred."""
    options = {"input_size": (64, 96), "class_names": ("a", "b"), "resize": "letterbox"}
    detector = spread(registry.build("shuffledet_0.25x", **options)).inference_copy()
    pictures = tf.constant(np.stack([painted(60, 200, seed) for seed in range(2)]))
    batch = policies.resize("letterbox").batch(pictures, detector.input_size)
    outputs = detector(detector.preprocess(batch["image"]), training=False)
    expected, raw = detector.detect(outputs, batch), detector.raw_head(outputs)
    for place in range(2):
        head, scale = (raw.boxes[place].numpy(), raw.scores[place].numpy()), batch["scale"][place].numpy()
        free = suppress(*head, raw.suppression)["boxes"] / np.tile(scale, 2)
        assert (free[:, 3] > 61).any() and (free[:, 1] + free[:, 3] > 122).any()
        found = detections(*head, raw.suppression, scale, (60, 200))
        assert assert_same(found, expected, place) > 3
        assert found["boxes"].min() >= 0 and (found["boxes"] <= [200, 60, 200, 60]).all()
        assert (found["boxes"][:, :2] < found["boxes"][:, 2:]).all()


def test_corners_by_hand():
    # pixels of the network input, twice those of a picture of 10 x 20 (h x w)
    boxes = np.float32([[-4, -4, 8, 8], [10, 10, 10.5, 10.5], [30, 10, 50, 30]])
    scores = np.float32([[0.9], [0.8], [0.7]])
    given = {
        kind: detections(boxes, scores, Suppression(0.5, 9, 9, corners=kind), (2.0, 2.0), (10, 20))
        for kind in CORNERS
    }
    np.testing.assert_array_equal(
        given["continuous"]["boxes"], [[-2, -2, 4, 4], [5, 5, 5.25, 5.25], [15, 5, 25, 15]]
    )
    np.testing.assert_array_equal(
        given["edges"]["boxes"], [[0, 0, 4, 4], [5, 5, 5.25, 5.25], [15, 5, 20, 10]]
    )
    np.testing.assert_array_equal(given["cut"]["boxes"], [[0, 0, 3, 3], [5, 5, 4.25, 4.25], [15, 5, 19, 9]])
    np.testing.assert_array_equal(given["pixels"]["boxes"], [[0, 0, 3, 3], [5, 5, 5, 5], [15, 5, 19, 9]])


def test_candidates_of_a_class_by_hand():
    boxes = np.float32([[0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    scores = np.float32([[0.9, 0.0], [0.8, 0.1], [0.7, 0.2], [0.6, 0.3]])
    # Of class 0 the first two take part, of which the better one stays; of class 1 the last two.
    found = suppress(boxes, scores, Suppression(0.5, 9, 9, candidates=2))
    np.testing.assert_array_equal(found["scores"], np.float32([0.9, 0.3, 0.2]))
    found = suppress(boxes, scores, Suppression(0.5, 9, 9))
    np.testing.assert_array_equal(found["scores"], np.float32([0.9, 0.7, 0.6, 0.3, 0.2, 0.1]))


FILES = ("ssd300_vgg11", "yolov2_0.25x")


@pytest.fixture(scope="module", name="files")
def files_fixture(detectors, tmp_path_factory):
    """What export.py writes of SSD and YOLOv2: TFLite files in float32 and int8."""
    made = {}
    for name in FILES:
        folder = tmp_path_factory.mktemp(name)
        Image.fromarray(painted(130, 75)).save(folder / "a.png")
        Image.fromarray(painted(75, 130, 1)).save(folder / "b.png")
        checkpoint = folder / "run" / "checkpoints"
        detectors[name].metadata.write(checkpoint)
        tf.train.Checkpoint(student=detectors[name]).write(str(checkpoint / "ckpt-1"))
        flags = "--format=tflite --quantize=none,int8 --latency_runs=0 --check_images=2".split()
        given = [f"--checkpoint={folder / 'run'}", f"--output_dir={folder / 'out'}", f"--images={folder}"]
        assert not export.main(["export.py", *given, *flags])
        made[name] = folder / "out"
    return made


@pytest.mark.parametrize("name", FILES)
def test_float32_files_say_what_the_detector_says(files, detectors, name):
    detector, folder = detectors[name], files[name]
    card = Card.read(folder)
    assert card.resize == {"ssd300_vgg11": "stretch", "yolov2_0.25x": "letterbox"}[name]
    source, exact, _ = json.loads((folder / "check.json").read_text())["rows"]
    # Counted at the size of the network input, not at the largest one of a training with many; files have
    # a 1 x 1 convolution for the pixels.
    pixels = np.prod(detector.input_size)
    assert exact["multiply_adds"] == source["multiply_adds"] + 9 * pixels
    image = np.zeros((1, *detector.input_size, 3), np.uint8)
    image[0] = painted(*detector.input_size, 3)
    expected = detector.detect(
        detector(detector.preprocess(tf.constant(image)), training=False),
        policies.resize("stretch").batch(tf.constant(image), detector.input_size),
    )
    found = Predictor.load(folder / "model.tflite")(image)[0]
    assert assert_same(found, {k: v.numpy() for k, v in expected.items()}, 0, atol=0.05) > 5
    kinds = [kind for kind, _ in graph_of((folder / "model.tflite").read_bytes())]
    assert not {"CUSTOM", "GATHER", "TOPK_V2", "WHILE", "IF", "SPLIT_V"} & set(kinds)
    # As many convolutions as the network has layers: nothing is computed in halves, no head twice.
    layers = {"ssd300_vgg11": 1 + 8 + 2 + 8 + 12, "yolov2_0.25x": 1 + 22 + 4}
    assert kinds.count("CONV_2D") + kinds.count("FULLY_CONNECTED") == layers[name]


@pytest.mark.parametrize("name", FILES)
def test_int8_files_stay_near(files, name):
    card = Card.read(files[name])
    images, _ = network_inputs(card, painted(75, 130, 1)[None])
    exact = runtimes.open_runtime(files[name] / "model.tflite", 1)(images)
    near = runtimes.open_runtime(files[name] / "model_int8.tflite", 1)(images)
    assert 0 < np.abs(near.scores - exact.scores).mean() < 0.02
    assert np.median(np.abs(near.boxes - exact.boxes)) < 0.01 * max(card.input_size)
    operations = graph_of((files[name] / "model_int8.tflite").read_bytes())
    int8, float32 = 9, 0
    assert {tuple(types) for kind, types in operations if kind == "CONV_2D"} == {(int8,)}
    assert {tuple(types) for kind, types in operations if kind in ("EXP", "SOFTMAX", "RSQRT")} == {(float32,)}


@pytest.mark.parametrize("name", FILES)
def test_example_for_a_device_decodes_them(files, name):
    pytest.importorskip("ai_edge_litert", reason="needs the extra [tflite]")
    example = str(Path(export.__file__).parent / "examples" / "detect_tflite.py")
    file, photo = str(files[name] / "model.tflite"), str(files[name].parent / "b.png")
    program = f"import json, runpy; found = runpy.run_path({example!r})['main']({file!r}, {photo!r}, 0.0)"
    done = subprocess.run(
        [sys.executable, "-c", program + "\nprint(json.dumps(found))"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    expected = Predictor.load(Path(file))(np.asarray(Image.open(photo))[None])[0]
    assert len(found) == len(expected["scores"]) > 5
    np.testing.assert_allclose([row[1] for row in found], expected["scores"], atol=0.01)
    # The picture is resized in float64 there, and pixels may be rounded otherwise.
    apart = np.abs(np.array([row[2] for row in found]) - expected["boxes"]).max(axis=1)
    assert np.mean(apart < 0.5) > 0.9


@pytest.mark.parametrize("name", FILES)
def test_onnx(detectors, tmp_path, name):
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra [onnx]")
    content = onnx_file.convert(RawNetwork(detectors[name], batch=None))
    (tmp_path / "model.onnx").write_bytes(content)
    kinds = {node.op_type for node in importlib.import_module("onnx").load_from_string(content).graph.node}
    assert not {"If", "Loop", "TopK", "NonMaxSuppression"} & kinds
    network = RawNetwork(detectors[name], batch=None)
    images = np.stack([painted(*detectors[name].input_size, seed) for seed in range(2)])
    expected = network.function(tf.constant(images))
    found = runtimes.open_runtime(tmp_path / "model.onnx", 1)(images)
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.05)


@pytest.mark.long
@pytest.mark.parametrize(
    "name, size", [("ssd300_efficientnet_lite0", (300, 300)), ("vgg11_shuffledet", (64, 96))]
)
def test_on_a_backbone(name, size):
    detector = spread(registry.build(name, input_size=size, class_names=("a",)))
    network = RawNetwork(detector)
    content = tflite.convert(network)
    kinds = [kind for kind, _ in graph_of(content)]
    assert not {"CUSTOM", "GATHER", "TOPK_V2", "WHILE", "IF"} & set(kinds)


def test_older_cards_are_read(tmp_path):
    rule = {"iou_threshold": 0.4, "max_per_class": 5, "max_total": 9, "best_boxes": 3, "best_class": True}
    fields = {"input_size": [64, 96], "resize": "stretch", "padding_color": [0, 0, 0], "class_names": ["a"]}
    (tmp_path / "detector.json").write_text(json.dumps({**fields, "suppression": rule}))
    assert Card.read(tmp_path).suppression == Suppression(0.4, 5, 9, best_boxes=3, best_class=True)
    (tmp_path / "detector.json").write_text(json.dumps({**fields, "suppression": {**rule, "corners": "odd"}}))
    with pytest.raises(UserError, match="detector.json is malformed: corners: 'odd'"):
        Card.read(tmp_path)
