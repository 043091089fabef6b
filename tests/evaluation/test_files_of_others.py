"""``scripts/evaluate.py`` on label and result files as other tools write them, and on the shared cases."""

import json

import pytest
from places import CASES

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import command

XML = """<annotation>{size}<object><name>dog</name>{more}<bndbox>
<xmin>{xmin}</xmin><ymin>61</ymin><xmax>{xmax}</xmax><ymax>120</ymax></bndbox></object>{other}</annotation>"""
SIZE = "<size><width>320</width><height>240</height><depth>3</depth></size>"
HELMET = """<object><name>helmet</name><bndbox>
<xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>"""
FOUND = "a 0.9 81 61 160 120\n"


def xml(**parts):
    return XML.format(**({"size": SIZE, "more": "", "xmin": 81, "xmax": 160, "other": ""} | parts))


def evaluate(folder, labels, **options):
    """The JSON of the dogs, or of all."""
    output = folder / "ap.json"
    config = {"detections": str(folder / "dt"), "labels": str(folder / labels), "output_json": str(output)}
    command.evaluate_files(command.FilesConfig(**(config | options)))
    return json.loads(output.read_text())


def voc_folder(folder, text, found=FOUND, name="comp4_det_test_dog.txt", encoding="utf-8"):
    for part in ("Annotations", "dt"):
        (folder / part).mkdir()
    (folder / "Annotations/a.xml").write_bytes(text.encode(encoding))
    (folder / "dt" / name).write_text(found)
    return folder


@pytest.mark.parametrize(
    "text, found",
    [
        (xml(), FOUND),
        (xml(size=""), FOUND),
        (xml(size=SIZE.replace("320", "0").replace("240", "0")), FOUND),
        (xml(xmin=0), "a 0.9 1 61 160 120\n"),
        (xml(xmax=321), "a 0.9 81 61 320 120\n"),
        (xml(other=HELMET), FOUND),
        (xml(), "a 0.9 81 61 160 90\n"),  # an IoU of exactly 0.5
        (xml(more="<difficult>false</difficult>"), FOUND),
        ('<?xml version="1.0" encoding="gb2312"?>' + xml(), FOUND),
        ("\ufeff" + xml(), "\ufeff" + FOUND),
    ],
)
def test_annotations_that_are_read(tmp_path, text, found):
    numbers = evaluate(voc_folder(tmp_path, text, found), "Annotations", format="voc", allow_missing=True)
    assert (numbers["dog"]["AP11"], numbers["dog"]["positives"]) == (1.0, 1)


def test_half_overlap_and_scores_by_the_protocol(tmp_path):
    folder = voc_folder(tmp_path, xml(), "a 0.9 81 61 160 90\n")
    options = {"format": "voc", "allow_missing": True}
    assert evaluate(folder, "Annotations", protocol="reference", **options)["dog"]["AP11"] == 0.0
    evaluate(folder, "Annotations", report_dir=str(tmp_path / "r"), **options)
    assert "IoU of at least 0.5 (official protocol)" in (tmp_path / "r/index.html").read_text()
    evaluate(folder, "Annotations", report_dir=str(tmp_path / "r"), protocol="reference", **options)
    assert "IoU above 0.5 (reference protocol)" in (tmp_path / "r/index.html").read_text()


@pytest.mark.parametrize("flag", ["True", "yes", "1", " true\n"])
def test_difficult_in_words(tmp_path, flag, capsys):
    folder = voc_folder(tmp_path, xml(more=f"<difficult>{flag}</difficult>"), "a 0.9 200 150 260 220\n")
    dog = evaluate(folder, "Annotations", format="voc", allow_missing=True)["dog"]
    assert (dog["positives"], dog["difficult"]) == (0, 1)
    assert "\ndog                  -" in capsys.readouterr().out


def test_classes_that_are_not_evaluated_are_told(tmp_path, caplog):
    evaluate(voc_folder(tmp_path, xml(other=HELMET * 2)), "Annotations", format="voc", allow_missing=True)
    assert "objects of classes that are not evaluated: 'helmet' (2)" in caplog.text


def test_hidden_files_lists_and_names_of_result_files(tmp_path):
    folder = voc_folder(tmp_path, xml(), name="comp4_5b5c0f7a-7c9b-4fa6_det_test_dog.txt")
    (folder / "Annotations/._a.xml").write_bytes(b"\x00\x05\x16\x07")
    (folder / "dt/._comp4_5b5c0f7a-7c9b-4fa6_det_test_dog.txt").write_bytes(b"\x00\x05\x16\x07")
    split = tmp_path / "list.txt"
    split.write_bytes(b"\xef\xbb\xbfa\n")
    for given in ("", str(split)):
        options = {"format": "voc", "allow_missing": True, "split": given}
        assert evaluate(folder, "Annotations", **options)["dog"]["AP11"] == 1.0
    split.write_text("a.jpg\n")
    with pytest.raises(UserError, match="list.txt line 1: 'a.jpg' is no id: .*; write 'a'$"):
        evaluate(folder, "Annotations", **options)
    with pytest.raises(UserError, match="det_test_aeroplane.txt: no such file .--allow_missing counts it"):
        evaluate(folder, "Annotations", format="voc")
    (folder / "dt/comp3_det_test_cat.txt").write_text("")
    with pytest.raises(
        UserError, match="wanted; of the sets comp3_det_test, comp4_5b5c0f7a-7c9b-4fa6_det_test"
    ):
        evaluate(folder, "Annotations", format="voc")
    (folder / "Annotations/a.xml").unlink()
    with pytest.raises(UserError, match=r"Annotations: no annotation files \(.xml\) there"):
        evaluate(folder, "Annotations", format="voc")


def test_kitti_files_with_a_byte_order_mark(tmp_path):
    for part in ("label_2", "dt"):
        (tmp_path / part).mkdir()
    label = "Car 0.00 0 -1.57 100 100 200 180 1.5 1.6 4 0 1.5 10 0"
    (tmp_path / "label_2/000000.txt").write_text(f"\ufeff{label}\n")
    (tmp_path / "label_2/._000000.txt").write_bytes(b"\x00\x05\x16\x07")
    result = "\ufeffCar -1 -1 -10 100 100 200 180 -1 -1 -1 -1000 -1000 -1000 -10 0.9\n"
    (tmp_path / "dt/000000.txt").write_text(result)
    (tmp_path / "split.txt").write_text("\ufeff000000\n")
    for split in ("", str(tmp_path / "split.txt")):
        assert evaluate(tmp_path, "label_2", split=split)["Car"]["easy"]["AP11"] == pytest.approx(1 / 11)
    (tmp_path / "label_2/000000.txt").write_text(f"{label} 1.0\n")
    with pytest.raises(UserError, match="16 fields instead of the 15 of a label .* may be a result file"):
        evaluate(tmp_path, "label_2")


DOGS_FOUND = (
    "voc_eval_box_at_zero voc_eval_mac_fork voc_eval_no_size voc_eval_salted_names voc_eval_size_zero "
    "voc_eval_unknown_class voc_eval_width_plus_1 voc_iou_exactly_half voc_list_bom voc_xml_gb2312"
)


@pytest.mark.parametrize("case", DOGS_FOUND.split())
def test_cases(tmp_path, case):
    folder = CASES / case
    (tmp_path / "dt").symlink_to(folder / "dt")
    split = folder / "list.txt"
    options = {"format": "voc", "allow_missing": True, "split": str(split) if split.exists() else ""}
    assert evaluate(tmp_path, folder / "Annotations", **options)["dog"]["AP11"] == 1.0


def test_a_case_without_positives(tmp_path):
    folder = CASES / "voc_difficult_true"
    (tmp_path / "dt").symlink_to(folder / "dt")
    dog = evaluate(tmp_path, folder / "Annotations", format="voc", allow_missing=True)["dog"]
    assert (dog["positives"], dog["difficult"]) == (0, 1)


@pytest.mark.parametrize(
    "case, options, name, points",
    [
        ("kitti_bom", {}, "Car", 1 / 11),
        ("kitti_bom", {"split": str(CASES / "kitti_bom/split.txt")}, "Car", 1 / 11),
        ("kitti_custom_class", {"classes": "hand"}, "hand", 1 / 11),
    ],
)
def test_kitti_cases(tmp_path, case, options, name, points):
    (tmp_path / "dt").symlink_to(CASES / case / "dt")
    numbers = evaluate(tmp_path, CASES / case / "label_2", **options)
    assert numbers[name]["easy"]["AP11"] == pytest.approx(points)


@pytest.mark.parametrize(
    "case, options, message",
    [
        ("kitti_16_columns", {}, "label_2/000000.txt line 1: 16 fields .* it may be a result file"),
        ("kitti_custom_class", {}, "unknown class 'hand'; KITTI has Car, .*--classes names others"),
        (
            "voc_list_ext",
            {"format": "voc", "split": str(CASES / "voc_list_ext/list.txt")},
            "list.txt line 1: 'a.jpg' is no id: .*; write 'a'$",
        ),
    ],
)
def test_cases_that_are_refused(tmp_path, case, options, message):
    (tmp_path / "dt").symlink_to(CASES / case / "dt")
    labels = "Annotations" if options else "label_2"
    with pytest.raises(UserError, match=message):
        evaluate(tmp_path, CASES / case / labels, **options)
