"""Images in folders of folders: every format of results is written, and read back by the evaluation."""

import json

import numpy as np
import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import command, registry, results
from fgfi_tf.evaluation.boxes import PIXELS, Boxes
from fgfi_tf.evaluation.wider import files as wider_files

IDS = ("cam1/0001", "cam2/0001", "top")
BOX = np.array([10.0, 20.0, 49.0, 99.0])  # 0-based, inclusive: 40 x 80
XML = """<annotation><object><name>person</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>50</xmax>
<ymax>100</ymax></bndbox></object></annotation>"""


def detections(names):
    """In each image one box a pixel further to the right than in the one before."""
    frames = {
        name: {"boxes": [BOX + [n, 0, n, 0]], "scores": [0.5 + n / 8], "classes": [0]}
        for n, name in enumerate(IDS)
    }
    return Boxes.of_detections(frames, names)


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def labels(folder, form):
    if form == "coco":
        truth = {
            "images": [{"id": 10 + n, "file_name": f"{name}.jpg"} for n, name in enumerate(IDS)],
            "categories": [{"id": 3, "name": "person"}],
            "annotations": [
                {"image_id": 10 + n, "category_id": 3, "bbox": [10, 20, 40, 80]} for n in range(3)
            ],
        }
        return write(folder, {"truth.json": json.dumps(truth)}) / "truth.json"
    text, suffix = (XML, "xml") if form == "voc" else ("person 0 0 0 10 20 49 99 0 0 0 0 0 0 0\n", "txt")
    return write(folder / "labels", {f"{name}.{suffix}": text for name in IDS})


@pytest.mark.parametrize("form, written", [("kitti", "kitti"), ("voc", "comp4"), ("coco", "coco")])
@pytest.mark.parametrize("listed", [IDS, IDS[:2]])
def test_what_is_written_is_evaluated(tmp_path, form, written, listed):
    found = write(tmp_path / "dt", results.format_of(written).write(detections(("person",)), ""))
    path = str(found / results.COCO_FILE if form == "coco" else found)
    split = write(tmp_path, {"list.txt": "\n".join(listed)}) / "list.txt" if listed != IDS else ""
    protocol = registry.get(form, class_names=() if form == "coco" else ("person",))
    truth = protocol.read_ground_truth(str(labels(tmp_path, form)), str(split))
    assert truth.image_ids == listed
    if listed != IDS and form in ("voc", "coco"):  # their files are of exactly the set
        return
    table = protocol.read_detections(path, truth, str(split)).to(PIXELS)
    assert table.image_ids == listed and table.scores.tolist() == [0.5, 0.625, 0.75][: len(listed)]
    np.testing.assert_array_equal(table.boxes, [BOX + [n, 0, n, 0] for n in range(len(listed))])


def test_csv_and_wider(tmp_path):
    table = detections(("face",))
    write(tmp_path, results.write_csv(table))
    write(tmp_path, {"list.txt": "\n".join(IDS[::2])})
    read = results.read_csv(tmp_path / results.CSV_FILE, str(tmp_path / "list.txt"), scored=True)
    assert read.image_ids == IDS[::2] and read.scores.tolist() == [0.5, 0.75]
    read = wider_files.read_detections(write(tmp_path / "wider", results.write_wider(table)), IDS).to(PIXELS)
    assert read.image_ids == IDS and read.scores.tolist() == table.scores.tolist()
    np.testing.assert_array_equal(read.boxes, table.boxes)


def test_kitti_and_voc_by_the_script(tmp_path, capsys):
    for form, written in (("kitti", "kitti"), ("voc", "comp4")):
        folder = tmp_path / form
        found = write(folder / "dt", results.format_of(written).write(detections(("person",)), ""))
        flags = {"detections": str(found), "labels": str(labels(folder, form)), "classes": "person"}
        command.evaluate_files(command.FilesConfig(format=form, output_json=str(folder / "ap.json"), **flags))
    assert json.loads((tmp_path / "voc/ap.json").read_text())["person"]["positives"] == 3
    assert "3 frames" in capsys.readouterr().out


def test_a_folder_above_the_annotations_is_told(tmp_path):
    write(tmp_path / "VOC/Annotations", {"a.xml": XML})
    with pytest.raises(UserError, match=r"VOC: no annotation files \(.xml\) there; give .*VOC/Annotations"):
        registry.get("voc").read_ground_truth(str(tmp_path / "VOC"))
