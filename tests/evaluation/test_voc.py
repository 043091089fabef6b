"""VOC average precision against the Python evaluator's figures and hand-made cases."""

import json
import math
import tarfile

import numpy as np
import pytest
from places import GOLDEN

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import analysis, registry
from fgfi_tf.evaluation.results import write_comp4
from fgfi_tf.evaluation.voc import ap as voc
from fgfi_tf.evaluation.voc import files as voc_io
from fgfi_tf.evaluation.voc.published import ROWS, WHOLE_ROWS

CLASSES = ("cat", "dog")
PROTOCOL = registry.get("voc")


def _truths(**frames):
    """name=[(class, box, difficult), ...] with 0-based boxes."""
    return PROTOCOL.ground_truth(
        [
            {
                "image_id": name,
                "boxes": np.array([r[1] for r in rows]).reshape(-1, 4),
                "classes": [r[0] for r in rows],
                "difficult": [r[2] for r in rows],
            }
            for name, rows in frames.items()
        ],
        CLASSES,
    )


def _detections(**frames):
    """name=[(class, box, score), ...]."""
    return PROTOCOL.detections(
        {
            name: {
                "boxes": np.array([r[1] for r in rows]).reshape(-1, 4),
                "classes": [r[0] for r in rows],
                "scores": [r[2] for r in rows],
            }
            for name, rows in frames.items()
        },
        CLASSES,
    )


def check_against_reference(folder, lists):
    """``Annotations`` and ``results`` of ``folder``; ``test.txt`` and ``expected.json`` of ``lists``."""
    images = tuple(text_files.read_ids(lists / "test.txt"))
    evaluation = voc.evaluate(
        voc_io.read_detections(folder / "results", "test", images),
        voc_io.read_ground_truth(folder / "Annotations", images),
        "reference",
    )
    expected = json.loads((lists / "expected.json").read_text())
    assert len(evaluation.results) == len(expected["per_class"]) == 20
    for class_name, row in expected["per_class"].items():
        result = evaluation.results[class_name]
        for metric in voc.METRICS:
            value = float(row[f"ap_{metric}"])  # float("nan") for "nan"
            np.testing.assert_allclose(result.ap(metric), value, rtol=0, atol=1e-12, err_msg=class_name)
        assert (result.positives, result.difficult) == (row["positives"], row["difficult"])
        assert len(result.recall) == row["detections"]
        if "ignored" in row:
            found = (result.true_positives.sum(), result.false_positives.sum(), result.ignored)
            assert found == (row["true_positives"], row["false_positives"], row["ignored"])
    return evaluation, expected


def write(folder, image_set, detections, full_precision=False):
    files = write_comp4(detections, image_set, full_precision)
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


def kinds(detections, truths, protocol, class_name):
    """How many detections of a class are what."""
    own = registry.get("voc", protocol)
    settings = own.settings(detections.by_image(), truths)
    parts = analysis.analyse(detections.by_image(), truths, settings, own.rule())
    return next(part.counts() for part in parts if part.setting.class_name == class_name)


def extract(archive, folder):
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else file.extractall(folder)


def test_equals_the_reference_on_odd_cases(tmp_path):
    extract(GOLDEN / "voc_ap/adversarial.tar.xz", tmp_path)
    check_against_reference(tmp_path / "adversarial", tmp_path / "adversarial")


@pytest.mark.shared_data
def test_equals_the_reference_on_the_test_set(shared_path, tmp_path):
    folder = shared_path("golden/voc_ap")
    for archive in ("voc2007_test_annotations", "detections_robinyen"):
        extract(folder / f"{archive}.tar.xz", tmp_path)
    evaluation, expected = check_against_reference(tmp_path, folder)
    np.testing.assert_allclose(evaluation.mean_ap("11point"), expected["mean_ap_11point"], atol=1e-12)
    np.testing.assert_allclose(evaluation.mean_ap("area"), expected["mean_ap_area"], atol=1e-12)


def test_by_hand():
    truths = _truths(a=[(0, [0, 0, 9, 9], False), (0, [20, 0, 29, 9], False)], b=[(0, [0, 0, 9, 9], True)])
    detections = _detections(
        a=[
            (0, [0, 0, 9, 9], 0.9),  # true
            (0, [0, 0, 9, 8], 0.8),  # the same object again: false
            (0, [20, 0, 29, 8], 0.6),  # true
            (1, [0, 0, 9, 9], 0.7),  # no such dog: false
        ],
        b=[(0, [0, 0, 9, 9], 0.95)],  # difficult: ignored
    )
    evaluation = voc.evaluate(detections, truths)
    cat, dog = evaluation.results["cat"], evaluation.results["dog"]
    assert (cat.positives, cat.difficult, cat.ignored) == (2, 1, 1)
    np.testing.assert_allclose(cat.recall, [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(cat.precision, [0, 1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(cat.ap_11point, (6 * 1 + 5 * 2 / 3) / 11)
    np.testing.assert_allclose(cat.ap_area, 0.5 + 0.5 * 2 / 3)
    assert dog.ap_11point == 0 and math.isnan(dog.ap_area)
    assert evaluation.mean_ap(present_only=True) == cat.ap_11point
    assert evaluation.mean_ap() == cat.ap_11point / 2


@pytest.mark.parametrize("last, official, reference", [(3, 0, 0), (4, 1, 0), (5, 1, 1)])
def test_half_overlap_is_a_match_for_the_kit_and_none_for_the_2019_code(last, official, reference):
    truths = _truths(a=[(0, [0, 0, 9, 9], False)])  # 10 x 10 pixels; the detection has 10 x (last + 1)
    detections = _detections(a=[(0, [0, 0, 9, last], 0.9)])
    assert voc.evaluate(detections, truths).results["cat"].ap_area == official
    for protocol, ap in (("official", official), ("reference", reference)):
        evaluation = voc.evaluate(detections, truths, protocol)
        assert evaluation.results["cat"].ap_11point == ap
        found = kinds(detections, truths, protocol, "cat")
        assert (found["correct"], found["localisation"], found["missed"]) == (ap, 1 - ap, 1 - ap)
    other = _detections(a=[(1, [0, 0, 9, last], 0.9)])  # of another class, which has an object elsewhere
    truths = _truths(a=[(0, [0, 0, 9, 9], False), (1, [50, 0, 59, 9], False)])
    for protocol, match in (("official", official), ("reference", reference)):
        assert kinds(other, truths, protocol, "dog")["classification"] == match
    with pytest.raises(UserError, match="protocol 'kit' is not one of official, reference"):
        voc.evaluate(detections, truths, "kit")


def test_no_ap_is_above_one():
    assert voc.ap_11point(np.array([1.0]), np.array([1.0])) == 1.0
    for positives in range(1, 200):
        recall = np.arange(1, positives + 1) / positives
        assert voc.ap_area(recall, np.ones(positives)) <= 1.0
        assert voc.ap_area(recall, np.ones(positives)) == pytest.approx(1, abs=1e-12)
        assert voc.ap_11point(recall, np.ones(positives)) == 1.0
    assert math.isnan(voc.ap_area(np.array([np.nan]), np.array([0.0])))
    boxes = [(0, [20 * i, 0, 20 * i + 9, 9], False) for i in range(10)]
    found = _detections(a=[(0, box, 0.9) for _, box, _ in boxes])
    numbers = voc.evaluate(found, _truths(a=boxes)).to_json()
    assert numbers["cat"]["AP11"] == numbers["cat"]["AP_area"] == numbers["mean"]["AP11_present"] == 1.0


@pytest.mark.parametrize(("last", "ap"), [(98, 0), (100, 1)])
def test_a_match_begins_at_half_of_an_object(last, ap):
    # 99 and 101 of 200 columns: IoU 0.495 and 0.505
    truths = _truths(a=[(0, [0, 0, 199, 9], False)])
    found = voc.evaluate(_detections(a=[(0, [0, 0, last, 9], 0.9)]), truths)
    assert found.results["cat"].ap_area == ap


def test_nothing_detected_and_nothing_labelled():
    empty = PROTOCOL.detections({}, CLASSES)
    evaluation = voc.evaluate(empty, _truths(a=[(0, [0, 0, 9, 9], False)], b=[]))
    assert evaluation.mean_ap("area") == evaluation.mean_ap() == 0
    assert evaluation.n_images == 2
    assert voc.evaluate(empty, _truths(a=[])).mean_ap("area", present_only=True) == 0


def test_result_files_are_read_as_written(tmp_path):
    detections = _detections(
        a=[(0, [0, 1.26, 9, 9], 0.123456), (1, [0, 0, 9, 9], 1 / 3)], b=[(0, [3, 3, 4, 4], 0.5)]
    )
    paths = write(tmp_path, "val", detections)
    assert [p.name for p in paths] == ["comp4_det_val_cat.txt", "comp4_det_val_dog.txt"]
    assert paths[0].read_text() == "a 0.123 1.0 2.3 10.0 10.0\nb 0.500 4.0 4.0 5.0 5.0\n"
    read = voc_io.read_detections(tmp_path, "val", ("a", "b"), CLASSES)
    rounded = voc.rounded(detections)
    order = np.argsort(rounded.classes, kind="stable")  # files are by class
    for key in ("image", "classes", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(read, key), getattr(rounded, key)[order])

    write(tmp_path, "val", detections, full_precision=True)
    read = voc_io.read_detections(tmp_path, "val", ("a", "b"), CLASSES)
    np.testing.assert_array_equal(read.boxes, detections.boxes[order])
    np.testing.assert_array_equal(read.scores, detections.scores[order])


def test_a_class_whose_name_ends_as_another(tmp_path):
    names = ("helmet", "no_helmet")
    for name in names:
        (tmp_path / f"comp4_det_2007_test_{name}.txt").write_text("")
    assert voc_io.image_sets(tmp_path, names) == [("comp4", "2007_test")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 0.5 1 2 3\n", "comp4_det_val_cat.txt:1: 5 fields"),
        ("a 0.5 1 2 3 4\n\nz 0.5 1 2 3 4\n", "comp4_det_val_cat.txt:3: image 'z' is not in the set"),
        ("a x 1 2 3 4\n", "comp4_det_val_cat.txt:1: 'x' is not a finite number"),
        ("a nan 1 2 3 4\n", "comp4_det_val_cat.txt:1: 'nan' is not a finite number"),
        ("a 0.5 1 2 1e999 4\n", "comp4_det_val_cat.txt:1: '1e999' is not a finite number"),
        ("a 0.5 1 2 3_8 4\n", "comp4_det_val_cat.txt:1: '3_8' is not a finite number"),
        ("a 0.5 1 2 \u0663 4\n", "comp4_det_val_cat.txt:1: '\u0663' is not a finite number"),
        ("a 0.5 1 2 1e308 4\n", "comp4_det_val_cat.txt: a coordinate is beyond 1,000,000 pixels"),
        (b"a 0.5 1 2 \xff 4\n", "comp4_det_val_cat.txt: cannot be read: it is not UTF-8 text"),
    ],
)
def test_bad_result_files(tmp_path, text, message):
    (tmp_path / "comp4_det_val_cat.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        voc_io.read_detections(tmp_path, "val", ("a",), CLASSES, allow_missing=True)


def test_every_wrong_result_file_is_named(tmp_path):
    (tmp_path / "comp4_det_val_cat.txt").write_text("a 0.5 1 2 3 4\nb x 1 2 3 4\n")
    with pytest.raises(UserError) as error:
        voc_io.read_detections(tmp_path, "val", ("a", "b"), CLASSES)
    assert str(error.value).splitlines() == [
        "2 problems:",
        f"{tmp_path}/comp4_det_val_cat.txt:2: 'x' is not a finite number",
        f"{tmp_path}/comp4_det_val_dog.txt: no such file (--allow_missing counts it as a class without "
        "detections)",
    ]


def test_images_with_blanks_and_a_byte_order_mark(tmp_path):
    detections = _detections(**{"my photo 1": [(0, [0, 0, 9, 9], 0.5)], "b": [(0, [1, 1, 2, 2], 0.25)]})
    (path, _) = write(tmp_path, "val", detections)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    read = voc_io.read_detections(tmp_path, "val", ("b", "my photo 1"), CLASSES)
    assert read.image.tolist() == [1, 0] and read.scores.tolist() == [0.5, 0.25]
    np.testing.assert_array_equal(read.boxes, [[1, 1, 10, 10], [2, 2, 3, 3]])


def test_boxes_that_end_before_they_begin_are_false_positives(tmp_path, caplog):
    lines = "a 0.9 10 1 1 10\na 0.8 1 1 10 0\na 0.7 1 1 10 10\n"
    (tmp_path / "comp4_det_val_cat.txt").write_text(lines)
    detections = voc_io.read_detections(tmp_path, "val", ("a",), CLASSES, allow_missing=True)
    assert "boxes with xmax < xmin or ymax < ymin count as false positives: 2" in caplog.text
    truths = _truths(a=[(0, [0, 0, 9, 9], False)])
    for protocol in voc.VARIANTS:
        result = voc.evaluate(detections, truths, protocol).results["cat"]
        assert result.true_positives.tolist() == [False, False, True]
        assert result.ap_area == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "name, prefix",
    [
        ("comp4_det_my_set_dog.txt", "comp4"),
        ("comp3_det_my_set_dog.txt", "comp3"),
        ("comp4_5b5c0f7a-7c9b_det_my_set_dog.txt", "comp4_5b5c0f7a-7c9b"),
        ("comp3_a_b_det_my_set_dog.txt", "comp3_a_b"),
    ],
)
def test_names_of_result_files(tmp_path, name, prefix):
    (tmp_path / name).write_text("a 0.5 1 2 3 4\n")
    for other in ("comp5_det_my_set_dog.txt", "comp4_det_my_set_cow.txt", f"._{name}", f"{name}~"):
        (tmp_path / other).write_text("")
    assert voc_io.image_sets(tmp_path, CLASSES) == [(prefix, "my_set")]
    found = voc_io.read_detections(tmp_path, "my_set", ("a",), CLASSES, allow_missing=True, prefix=prefix)
    assert found.classes.tolist() == [1]


def test_missing_result_file(tmp_path):
    (tmp_path / "comp4_det_val_cat.txt").write_text("a 0.5 1 2 3 4\n")
    with pytest.raises(UserError, match=r"comp4_det_val_dog.txt: no such file \(--allow_missing counts it"):
        voc_io.read_detections(tmp_path, "val", ("a",), CLASSES)
    assert len(voc_io.read_detections(tmp_path, "val", ("a",), CLASSES, allow_missing=True).scores) == 1


def test_detections_of_other_images_and_other_classes():
    truths = _truths(a=[(0, [0, 0, 9, 9], False)])
    with pytest.raises(UserError, match="detections of image z, which has no labels"):
        voc.evaluate(_detections(z=[(0, [0, 0, 1, 1], 0.5)]), truths)
    other = PROTOCOL.detections({"a": {"boxes": [], "classes": [], "scores": []}}, ("van", "tram"))
    with pytest.raises(UserError, match="no label is of the detections' classes"):
        voc.evaluate(other, truths)


def test_the_classes_of_a_detector_are_those_evaluated():
    # dog is the detector's only class, and the second of the labels, in another letter case
    truths = _truths(a=[(0, [0, 0, 9, 9], False), (1, [20, 0, 29, 9], False)], b=[])
    frame = {"boxes": [[20, 0, 29, 9]], "classes": [0], "scores": [0.5]}
    evaluation = voc.evaluate(PROTOCOL.detections({"a": frame}, ("Dog",)), truths)
    assert list(evaluation.results) == ["Dog"] and evaluation.results["Dog"].ap_11point == 1.0


def test_published_columns_have_the_published_means():
    for row in WHOLE_ROWS:
        classes = [value for (name, _), value in ROWS[row].items() if name]
        assert len(classes) == 20
        np.testing.assert_allclose(np.mean(classes), ROWS[row]["", "mean"], atol=0.06)


def test_table():
    evaluation = voc.evaluate(_detections(a=[(0, [0, 0, 9, 9], 0.9)]), _truths(a=[(0, [0, 0, 9, 9], False)]))
    assert PROTOCOL.table({"": evaluation}).splitlines() == [
        "PASCAL VOC, AP at 11 points, 1 images, percent",
        "                    AP",
        "cat              100.0",
        "dog                  -",
        "mean              50.0",
        "mean, present    100.0",
    ]
    both = PROTOCOL.table({"mine": evaluation}, "VGG11")
    assert "VGG11 (published)" in both and "59.6" in both and "66.6" in both
    assert PROTOCOL.table({"": evaluation}, "", "2007_test").count("published") == 2
    with pytest.raises(UserError, match="--published=VGG19 is not one of VGG16, VGG11, VGG11-I"):
        PROTOCOL.table({"": evaluation}, "VGG19")
