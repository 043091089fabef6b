"""Exported and in-process detections are the same; what is in the SavedModel and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from fgfi_tf.deploy import counting
from fgfi_tf.errors import UserError
from fgfi_tf.export import export
from fgfi_tf.models import registry
from fgfi_tf.models.cpu_forms import halves
from fgfi_tf.prediction import Predictor, detect_images

pytestmark = pytest.mark.usefixtures("short_shuffledet")

CLASSES = ("Car", "Pedestrian", "Cyclist")


@pytest.fixture(scope="module", name="detector")
def detector_fixture():
    detector = registry.build("shuffledet_0.25x", input_size=(64, 128), class_names=CLASSES)
    generator = np.random.default_rng(0)
    for variable in detector.variables:  # far from a fresh network, in which all boxes are alike
        name = variable.name.split("/")[-1]
        if name.startswith("moving_variance"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif name.startswith(("moving_mean", "beta", "bias")):
            variable.assign(generator.normal(0, 0.2, variable.shape))
    detector.head.kernel.assign(generator.normal(0, 0.05, detector.head.kernel.shape))
    return detector


@pytest.fixture(scope="module", name="exported")
def exported_fixture(detector, tmp_path_factory):
    return export(detector, tmp_path_factory.mktemp("export") / "model")


@pytest.mark.parametrize("shape", [(1, 75, 248), (2, 64, 128), (3, 33, 47)])
def test_exported_and_in_process_detections_are_equal(detector, exported, shape):
    images = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    expected = detect_images(detector, tf.constant(images))
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    result = serve(images=tf.constant(images))
    assert set(result) == {"boxes", "scores", "classes", "count"}
    assert (result["count"].numpy() > 0).all()
    np.testing.assert_array_equal(result["count"], expected["count"])
    np.testing.assert_array_equal(result["classes"], expected["classes"])
    np.testing.assert_allclose(result["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(result["boxes"], expected["boxes"], atol=0.01)


def test_signature(exported):
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    (spec,) = serve.structured_input_signature[1].values()
    assert (spec.dtype, spec.shape.as_list(), spec.name) == (tf.uint8, [None, None, None, 3], "images")
    assert serve.structured_outputs["boxes"].dtype == tf.float32
    assert serve.structured_outputs["classes"].dtype == tf.int32


def test_class_names_and_metadata_lie_beside_it(exported):
    assert (exported / "assets" / "classes.txt").read_text() == "Car\nPedestrian\nCyclist\n"
    metadata = json.loads((exported / "assets.extra" / "model.json").read_text())
    assert metadata == {
        "model": "shuffledet_0.25x",
        "input_size": [64, 128],
        "class_names": list(CLASSES),
        "options": {},
        "dataset": "",
    }


def test_no_optimizer_and_no_teacher_inside(exported):
    names = [name for name, _ in tf.train.list_variables(str(exported / "variables" / "variables"))]
    assert names
    assert not any(
        word in name for name in names for word in ("optimizer", "teacher", "imitation", "Momentum")
    )


def test_predictor_of_both_kinds(detector, exported):
    image = np.random.default_rng(2).integers(0, 256, (1, 60, 100, 3)).astype(np.uint8)
    ours, theirs = Predictor.of_detector(detector)(image)[0], Predictor.load(exported)(image)[0]
    assert Predictor.load(exported).class_names == CLASSES
    assert len(ours["scores"]) == len(theirs["scores"]) > 0
    np.testing.assert_allclose(ours["boxes"], theirs["boxes"], atol=0.01)


def test_existing_folder_is_kept_unless_asked(detector, exported, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        export(detector, exported)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="left alone"):
        export(detector, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_export_that_is_cut_short_leaves_the_one_before(detector, exported, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    save = tf.saved_model.save

    def interrupted(serving, path, **options):
        save(serving, path, **options)
        os.remove(f"{path}/saved_model.pb")
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.saved_model, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(detector, folder, overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(KeyboardInterrupt):
        export(detector, tmp_path / "new")
    monkeypatch.setattr(tf.saved_model, "save", save)
    for name in ("new", "model"):  # of one that was killed something is left
        (tmp_path / name / ".unfinished-1/model/variables").mkdir(parents=True)
        (tmp_path / name / ".unfinished-1/classes.txt").touch()
    with pytest.raises(UserError, match="model exists already"):
        export(detector, folder)
    (folder / "assets/stale.txt").touch()
    (tmp_path / "new/mine").mkdir()
    (tmp_path / "new/mine/notes.txt").touch()
    with pytest.raises(UserError, match="new exists already"):
        export(detector, tmp_path / "new")
    shutil.rmtree(tmp_path / "new/mine")
    for path in (export(detector, folder, overwrite=True), export(detector, tmp_path / "new")):
        assert sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()) == [
            "assets.extra/model.json", "assets/classes.txt", "fingerprint.pb", "saved_model.pb",
            "variables/variables.data-00000-of-00001", "variables/variables.index",
        ]  # fmt: skip
        assert Predictor.load(path).class_names == tuple(detector.class_names)
    (folder / "notes.txt").touch()  # whoever put it there keeps it
    assert (export(detector, folder, overwrite=True) / "notes.txt").exists()


def test_it_holds_one_function_and_no_layers(detector, exported):
    """Keras writes two functions for every layer, which take longer to write and to load than the rest."""
    model = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    (graph,) = model.meta_graphs
    objects = [node.user_object.identifier for node in graph.object_graph_def.nodes]
    assert "_generic_user_object" in objects and not [name for name in objects if "keras" in name]
    assert [node.WhichOneof("kind") for node in graph.object_graph_def.nodes].count("function") == 1
    written = dict(tf.train.list_variables(str(exported / "variables/variables")))
    layers = 1 + 3 * len(detector.backbone.units) + 1  # a kernel and a bias each
    assert len([name for name in written if name.startswith("weights/")]) == 2 * layers


def test_not_a_saved_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not a SavedModel"):
        Predictor.load(tmp_path)


def test_a_copy_that_was_cut_short(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    data = tmp_path / "copy/variables/variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    for read in (Predictor.load, counting.of_saved_model):
        with pytest.raises(UserError, match="copy is not a SavedModel of this package: Read less bytes"):
            read(tmp_path / "copy")


def test_an_export_of_another_model_than_the_user_says(exported):
    assert Predictor.load(exported, "shuffledet_0.25x").class_names == CLASSES
    with pytest.raises(UserError, match=r"is of shuffledet_0\.25x, not of --model=nonsense"):
        Predictor.load(exported, "nonsense")


def test_a_module_of_the_detector_that_is_not_there(exported, tmp_path):
    """It serves the format of its dataset alone; the SavedModel needs no code of its detector."""
    shutil.copytree(exported, tmp_path / "copy")
    path = tmp_path / "copy/assets.extra/model.json"
    named = ["company.detectors", "nowhere", "/no/such/file.py"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extensions": named}))
    assert Predictor.load(tmp_path / "copy").class_names == CLASSES


@pytest.fixture(name="with_gpu")
def with_gpu_fixture(monkeypatch):
    """TensorFlow says that this machine has one."""
    real = tf.config.list_physical_devices
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")

    def listed(device_type=None):
        return [*real(device_type), *([gpu] if device_type in (None, "GPU") else [])]

    return lambda: monkeypatch.setattr(tf.config, "list_physical_devices", listed)


def _graph(folder):
    """Shapes of the variables, and how often the graph and its functions have each operation."""
    loaded = tf.saved_model.load(str(folder))
    graph = loaded.signatures["serving_default"].graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    shapes = sorted(tuple(variable.shape) for variable in loaded.signatures["serving_default"].variables)
    return shapes, Counter(node.op for node in nodes)


def test_exporting_machine_does_not_show(tmp_path, with_gpu, monkeypatch):
    # Faster R-CNN of a size where convolutions of one image are computed in halves
    monkeypatch.setattr(halves, "HALVED_CHANNELS", 16)
    detectors = [
        registry.build("shuffledet_0.5x", input_size=(64, 64), class_names=CLASSES),
        registry.build("faster_rcnn_vgg11", input_size=(64, 0), class_names=CLASSES, width=0.05),
    ]
    plain = [_graph(export(d, tmp_path / f"plain_{i}")) for i, d in enumerate(detectors)]
    with_gpu()
    assert detectors[0].inference_copy().backbone.units[-1].conv1.kernel.shape == (1, 1, 480, 96)
    for i, detector in enumerate(detectors):
        shapes, operations = _graph(export(detector, tmp_path / f"gpu_{i}"))
        assert shapes == plain[i][0]
        assert operations == plain[i][1]
    assert (1, 1, 160, 96) in plain[0][0]  # grouped
    # the last three convolutions of the base and that of the proposals ask whether an image is alone
    assert plain[1][1]["StatelessIf"] == 4
