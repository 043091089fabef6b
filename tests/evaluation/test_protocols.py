"""Every protocol over any data: own classes, --metric, COCO and WIDER FACE from the command, a stranger's."""

import json
import subprocess
import sys

import numpy as np
import pytest
from places import GOLDEN, REPOSITORY

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import command, registry
from fgfi_tf.evaluation.protocol import Metrics, Protocol
from fgfi_tf.evaluation.report.build import Run, build
from fgfi_tf.training import evaluate_command, flags
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.validation import validate_values

KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist", "Van", "DontCare")
LABEL = "{} 0.00 0 -10 {} 20 {} 120 -1 -1 -1 -1000 -1000 -1000 -10\n"
RESULT = "{} -1 -1 -10 {} 20 {} 120 -1 -1 -1 -1000 -1000 -1000 -10 {}\n"


def tables(protocol, class_names, box, learnt, **columns):
    """One object, 100 x 100 pixels, of the last class; and one detection of the learnt class."""
    index = class_names.index(learnt[-1])
    truth = {"boxes": [[0, 0, 99, 99]], "classes": [index]} | {key: [value] for key, value in columns.items()}
    found = {"boxes": [box], "classes": [len(learnt) - 1], "scores": [0.9]}
    return protocol.detections({"a": found}, learnt), protocol.ground_truth(
        [{"image_id": "a", **truth}], class_names
    )


# --- KITTI's protocol of other classes ----------------------------------------------------------


@pytest.mark.parametrize(("overlap", "found"), [({}, True), ({"van": 0.7}, False)])
def test_a_class_of_one_s_own_by_kitti_s_rules(overlap, found):
    # 60 of 99 columns of the box count: an IoU of 0.61
    protocol = registry.get("kitti", "", overlap)
    result = protocol.evaluate(*tables(protocol, KITTI_CLASSES, [0, 0, 60, 99], ("Van",)))
    assert list(result.results) == ["Van"]
    value = result["Van"]["easy"]
    assert value.n_gt == 1 and value.ap11 == pytest.approx(found / 11)


def test_result_files_name_every_class_and_the_three_are_evaluated(tmp_path):
    protocol = registry.get("kitti", "", {"Van": 0.7})
    for folder in ("labels", "dt"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels/a.txt").write_text(LABEL.format("Van", 0, 100))
    (tmp_path / "dt/a.txt").write_text(RESULT.format("Van", 0, 100, 0.5))
    truth = protocol.read_ground_truth(str(tmp_path / "labels"))
    found = protocol.read_detections(str(tmp_path / "dt"), truth)
    result = protocol.evaluate(found, truth)
    assert list(result.results) == ["Car", "Pedestrian", "Cyclist", "Van"]
    assert result["Van"]["easy"].ap11 == pytest.approx(1 / 11)
    assert list(registry.get("kitti").evaluate(found, truth).results) == ["Car", "Pedestrian", "Cyclist"]
    assert "mean of nine" not in protocol.table({"": result}) and "\nmean " in protocol.table({"": result})
    with pytest.raises(UserError, match="--min_overlap=Lorry=...: the data has no such class"):
        registry.get("kitti", "", {"Lorry": 0.7}).evaluate(found, truth)


def test_objects_that_are_difficult_elsewhere_do_not_count_for_kitti():
    protocol = registry.get("kitti")
    detections, truth = tables(protocol, ("dog",), [0, 0, 99, 99], ("dog",), difficult=True)
    result = protocol.evaluate(detections, truth)["dog"]["easy"]
    assert (result.n_gt, result.fp.tolist()) == (0, [])


@pytest.mark.parametrize(
    "text, message",
    [
        ("Van", "'Van' is not CLASS=IOU"),
        ("Van=x", "'Van=x' is not CLASS=IOU"),
        ("Van=1.5", "between 0 and 1"),
        ("Van=0.5,Van=0.6", "once a class"),
    ],
)
def test_overlaps_that_cannot_be_meant(text, message):
    assert command.parse_overlaps("Van=0.7,a=b=0.5") == {"Van": 0.7, "a=b": 0.5}
    with pytest.raises(UserError, match=message):
        command.parse_overlaps(text)


@pytest.mark.parametrize("class_names", ["hand", "Hand, cow"])
def test_classes_that_are_listed_are_those_of_the_files(tmp_path, class_names, caplog):
    for folder in ("labels", "dt", "Annotations", "comp4"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels/a.txt").write_text(LABEL.format("hand", 0, 100) + LABEL.format("Car", 300, 400))
    (tmp_path / "dt/a.txt").write_text(RESULT.format("hand", 0, 100, 0.5))
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    xml = f"<annotation><object><name>hand</name>{box}</object></annotation>"
    (tmp_path / "Annotations/a.xml").write_text(xml)
    (tmp_path / "comp4/comp4_det_val_hand.txt").write_text("a 0.5 1 1 9 9\n")
    output = tmp_path / "ap.json"

    def run(**options):
        command.evaluate_files(command.FilesConfig(classes=class_names, output_json=str(output), **options))
        return json.loads(output.read_text())

    kitti = run(detections=str(tmp_path / "dt"), labels=str(tmp_path / "labels"))
    names = class_names.split(", ")
    absent = "--classes: the labels hold no cow"
    assert [r.getMessage() for r in caplog.records] == ([absent] if "cow" in class_names else [])
    assert list(kitti) == names and kitti[names[0]]["easy"]["AP11"] == pytest.approx(1 / 11)
    if class_names == "hand":
        voc = {
            "format": "voc",
            "labels": str(tmp_path / "Annotations"),
            "detections": str(tmp_path / "comp4"),
        }
        assert run(**voc)["hand"]["AP11"] == 1.0
        with pytest.raises(UserError, match="unknown class 'hand'; KITTI has Car"):
            command.evaluate_files(
                command.FilesConfig(detections=str(tmp_path / "dt"), labels=str(tmp_path / "labels"))
            )
    with pytest.raises(UserError, match="--classes=a,A: a class is named twice"):
        command.evaluate_files(command.FilesConfig(classes="a,A", detections="x", labels="y"))


def test_a_run_s_metric_is_checked_before_it_starts():
    with pytest.raises(UserError, match="--metric=mine: no such protocol; known are coco"):
        validate_values(ExperimentConfig(output_dir="x", metric="mine"))
    with pytest.raises(UserError, match="--min_overlap: 'Van' is not CLASS=IOU"):
        validate_values(ExperimentConfig(output_dir="x", metric="kitti", min_overlap="Van"))


# --- VOC's and COCO's of other data -------------------------------------------------------------


def test_voc_of_kitti_s_labels(tmp_path):
    # IoU of 101 x 101 pixels and of 51 x 101 is 0.505: enough for VOC, not for KITTI's cars
    for folder in ("labels", "dt"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels/a.txt").write_text(LABEL.format("Car", 0, 100) + LABEL.format("Van", 300, 400))
    (tmp_path / "dt/a.txt").write_text(RESULT.format("Car", 0, 50, 0.5))
    output = tmp_path / "ap.json"
    options = {"detections": str(tmp_path / "dt"), "labels": str(tmp_path / "labels")}
    command.evaluate_files(command.FilesConfig(metric="voc", output_json=str(output), **options))
    numbers = json.loads(output.read_text())
    assert list(numbers) == ["Car", "Pedestrian", "Cyclist", "mean"] and numbers["Car"]["AP11"] == 1.0
    command.evaluate_files(command.FilesConfig(output_json=str(output), **options))
    assert json.loads(output.read_text())["Car"]["easy"]["AP11"] == 0.0


def test_coco_of_any_labels():
    pytest.importorskip("pycocotools", reason="pycocotools computes COCO AP")
    # IoU 80 / 100 of boxes with inclusive corners counts at 0.5 .. 0.8, 7 of 10 thresholds
    protocol = registry.get("coco")
    names = ("cat", "dog", "DontCare")
    detections, truth = tables(protocol, names, [0, 0, 99, 79], ("cat", "dog"))
    result = protocol.evaluate(detections, truth)
    assert result.metrics["AP"] == pytest.approx(0.7) and result.metrics["dog"] == pytest.approx(0.7)
    assert result.class_names == ("cat", "dog") and result.metrics["APl"] == pytest.approx(0.7)
    assert "APs" not in result.metrics  # there is no small object
    # what training ignores is a crowd: neither found nor missed
    detections, truth = tables(protocol, names, [0, 0, 99, 79], ("dog",), ignore=True)
    assert protocol.evaluate(detections, truth).stats[0] == -1
    assert protocol.evaluate(detections, truth).metrics == {"AP": 0.0}


def test_the_command_on_coco_s_files(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pycocotools", reason="pycocotools computes COCO AP")
    output, folder = tmp_path / "ap.json", GOLDEN / "coco_ap"
    config = command.FilesConfig(
        format="coco",
        labels=str(folder / "ground_truth.json"),
        detections=str(folder / "detections.json"),
        output_json=str(output),
        report_dir=str(tmp_path / "report"),
    )
    command.evaluate_files(config)
    expected = np.load(folder / "expected.npz")
    numbers = json.loads(output.read_text())
    np.testing.assert_allclose(numbers["stats"], expected["stats"], rtol=0, atol=1e-12)
    assert len(numbers["classes"]) == len(expected["category_ids"])
    assert "20.0" in capsys.readouterr().out
    text = (tmp_path / "report/report.md").read_text()
    assert "## Precision and recall" in text and "## What the detections are" in text
    command.evaluate_files(config)  # its own results are replaced
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    monkeypatch.setattr("fgfi_tf.evaluation.coco.files.read_ground_truth", lambda *_: pytest.fail("was read"))
    with pytest.raises(UserError, match=r"pip install -e '\.\[coco\]'"):
        command.evaluate_files(config)


def test_without_scipy_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    config = command.FilesConfig(format="wider", labels=str(tmp_path), detections=str(tmp_path))
    with pytest.raises(UserError, match=r"pip install -e '\.\[wider\]'"):
        command.evaluate_files(config)


def test_wider_of_faces_without_settings():
    # Two faces, one invalid: a single setting in which the valid one counts.
    protocol = registry.get("wider")
    truth = protocol.ground_truth(
        [
            {
                "image_id": "a",
                "boxes": [[0, 0, 9, 9], [50, 0, 59, 9]],
                "classes": [0, 0],
                "ignore": [False, True],
            }
        ],
        ("face",),
    )
    found = {"boxes": [[0, 0, 9, 9], [50, 0, 59, 9]], "classes": [0, 0], "scores": [0.5, 0.9]}
    result = protocol.evaluate(protocol.detections({"a": found}, ("face",)), truth)
    assert result.metrics == {"all": 1.0} and result.to_json()["faces"] == {"all": 1}


# --- a stranger's -------------------------------------------------------------------------------


class Recall(Protocol):
    """The share of images in which as many boxes are found as there are."""

    title = "Counting"
    files = "two files of boxes"
    published = {"paper": {("", "counted"): 50.0}}

    def evaluate(self, detections, ground_truth):
        found, there = (
            np.bincount(table.image, minlength=len(ground_truth.image_ids))
            for table in (detections, ground_truth)
        )
        return Metrics({"counted": float((found == there).mean())})


@pytest.fixture
def registered():
    registry.register("counting", Recall)
    yield "counting"
    registry.unregister("counting")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("fgfi_tf.nowhere:A", "'fgfi_tf.nowhere:A' is registered, and there is no module fgfi_tf.nowhere"),
        ("fgfi_tf.errors:No", "'fgfi_tf.errors:No' is registered, and fgfi_tf.errors has no No"),
    ],
)
def test_a_protocol_registered_where_there_is_none(registered, place, message):
    registry.register(registered, place, replace=True)
    with pytest.raises(UserError, match=message):
        registry.protocol_class(registered)


@pytest.mark.parametrize("entry", [5, dict, object()])
def test_what_is_no_protocol_is_not_registered(entry):
    with pytest.raises(
        UserError, match="protocol 'mine': .* is no subclass of fgfi_tf.evaluation.protocol.Pro"
    ):
        registry.register("mine", entry)
    assert "mine" not in registry.names()


def test_a_stranger_s_protocol(registered, tmp_path, capsys):
    assert registered in registry.names() and isinstance(registry.get(registered), Recall)
    with pytest.raises(UserError, match="there is a protocol 'kitti' already"):
        registry.register("kitti", Recall)
    with pytest.raises(
        UserError, match="unknown protocol 'mine'; known are coco, counting, kitti, voc, wider"
    ):
        registry.get("mine")
    with pytest.raises(UserError, match="--protocol=reference is not one of official"):
        registry.get(registered, "reference")
    text = " ".join(flags.help_text("evaluate.py", evaluate_command.EvaluateConfig).split())
    assert "counting: two files of boxes" in text and "counting: paper" in text

    (tmp_path / "truth.csv").write_text("image,class,xmin,ymin,xmax,ymax\na,cat,0,0,9,9\nb,dog,0,0,9,9\n")
    lines = "image,class,score,xmin,ymin,xmax,ymax\na,cat,0.5,0,0,9,9\na,cat,0.4,0,0,9,9\nb,cat,0.4,0,0,9,9\n"
    (tmp_path / "found.csv").write_text(lines)
    options = {"labels": str(tmp_path / "truth.csv"), "detections": str(tmp_path / "found.csv")}
    config = command.FilesConfig(
        format=registered, output_json=str(tmp_path / "r.json"), report_dir=str(tmp_path / "r"), **options
    )
    command.evaluate_files(config)
    assert json.loads((tmp_path / "r.json").read_text()) == {"metrics": {"counted": 0.5}}
    assert capsys.readouterr().out.splitlines()[2].split() == ["counted", "50.0"]
    assert "# Counting: model" in (tmp_path / "r/report.md").read_text()
    command.evaluate_files(config)  # its own results are replaced, others are not
    (tmp_path / "r.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="holds no results of an evaluation"):
        command.evaluate_files(config)


def test_registered_by_text_nothing_is_imported_before_it_is_used():
    code = (
        "import sys; from fgfi_tf.evaluation import registry; registry.names(); "
        "assert not any(name.startswith('fgfi_tf.evaluation.kitti') for name in sys.modules); "
        "registry.get('voc'); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


# --- nothing at all -----------------------------------------------------------------------------

NOTHING = {"boxes": [], "classes": [], "scores": []}
ONE = {"boxes": [[0, 0, 9, 99]], "classes": [1], "scores": [0.5], "difficult": [False]}


@pytest.mark.parametrize("name", ["kitti", "voc", "coco", "wider"])
@pytest.mark.parametrize("labelled", [NOTHING, ONE, None])
@pytest.mark.parametrize("found", [NOTHING, ONE])
def test_nothing_labelled_and_nothing_found(name, labelled, found):
    if name == "coco":
        pytest.importorskip("pycocotools", reason="pycocotools computes COCO AP")
    protocol, names = registry.get(name), ("dog", "face")
    frames = [] if labelled is None else [{"image_id": "a", **labelled}]
    truth = protocol.ground_truth(frames, names)
    detections = protocol.detections({frame["image_id"]: found for frame in frames}, names)
    result = protocol.evaluate(detections, truth)
    first = next(iter(result.metrics.values()))
    hit = labelled is ONE and found is ONE
    # One object, of one of two classes: of KITTI's eleven recall positions the first alone has a threshold.
    assert first == pytest.approx({"kitti": 1 / 2 / 11}.get(name, 1.0) if hit else 0.0)
    json.dumps(result.to_json())
    assert protocol.table({"": result})
    runs = [Run(model, detections, result) for model in "xy"]
    numbers = build(protocol, runs, truth).numbers
    assert list(numbers) == ["x", "y"] and numbers["x"]["images"] == len(frames)
