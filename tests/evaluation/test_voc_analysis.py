"""What VOC detections are, on scenes worked out by hand; and the report."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import report, report_voc, voc, voc_analysis
from fgfi_tf.evaluation.voc_types import Detections, Truths

CLASSES = ("cat", "dog", "cow")


def _scene():
    truths = Truths.from_frames(
        [
            {
                "image_id": "a",
                "boxes": [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 69, 9]],
                "classes": [0, 0, 1, 0],
                "difficult": [False, False, False, True],
            },
            {"image_id": "b", "boxes": [[0, 0, 9, 9]] * 3, "classes": [0, 0, 0], "difficult": [False] * 3},
        ],
        CLASSES,
    )
    rows = [
        # cat: five objects count, so the five best that count
        (0, [0, 0, 9, 9], 0.99),  # correct
        (0, [60, 0, 69, 9], 0.98),  # difficult: not counted
        (0, [0, 0, 9, 8], 0.97),  # repeated
        (0, [40, 0, 49, 9], 0.96),  # on a dog: classification
        (0, [20, 0, 29, 3], 0.95),  # IoU 0.4: localisation
        (0, [80, 0, 89, 9], 0.94),  # background
        (0, [20, 0, 29, 9], 0.93),  # correct, but beyond the five
        (1, [40, 0, 49, 9], 0.5),  # correct
    ]
    detections = Detections.from_frames(
        {"a": dict(zip(("classes", "boxes", "scores"), map(list, zip(*rows, strict=True)), strict=True))},
        CLASSES,
    )
    return detections, truths


def test_kinds_by_hand():
    detections, truths = _scene()
    analyses = voc_analysis.analyse(detections, truths, voc.evaluate(detections, truths))
    cat = analyses["cat"]
    np.testing.assert_array_equal(cat.rows, [0, 2, 3, 4, 5])
    names = [voc_analysis.KINDS[kind] for kind in cat.kinds]
    assert names == ["correct", "repeated", "classification", "localisation", "background"]
    np.testing.assert_array_equal(cat.missed, [1, 4, 5, 6])
    assert analyses["dog"].counts()["correct"] == 1 and len(analyses["dog"].missed) == 0
    assert analyses["cow"].positives == 0 and len(analyses["cow"].rows) == 0
    np.testing.assert_array_equal(voc_analysis.errors_per_image(analyses, detections, truths), [5, 3])


def _image_folder(folder: Path) -> Path:
    for name in ("a", "b"):
        Image.fromarray(np.full([60, 100, 3], 90, np.uint8)).save(folder / f"{name}.jpg")
    return folder


def test_report_of_two_models(tmp_path):
    detections, truths = _scene()
    nothing = Detections.from_frames({}, CLASSES)
    runs = [
        report_voc.Run("none", nothing, voc.evaluate(nothing, truths)),
        report_voc.Run("some", detections, voc.evaluate(detections, truths), ("VGG11", "VGG11-I")),
    ]
    data = report_voc.build(runs, truths, _image_folder(tmp_path))
    assert "| gain of some over none |" in (text := report.to_markdown(data)) and "The same frames" in text
    page = report.write(data, tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    for row in ("VGG11", "VGG11-I"):
        assert f"| published {row} | some \N{MINUS SIGN} published {row} |" in text
    assert "| dog | 0.0 | 100.0 | 100.0 | 58.3 | 41.7 | 72.6 | 27.4 |" in text
    assert "| cow | – | – | – | 63.2 | – | 73.5 | – |" in text
    assert "- Objects: 6 and 1 difficult" in text
    assert "a: 5 errors" in text and "b: 3 errors" in text
    assert page.stat().st_size > 20_000
    numbers = json.loads((tmp_path / "report/report.json").read_text())
    assert numbers["some"]["analysis"]["cat"]["repeated"] == 1
    np.testing.assert_allclose(numbers["some"]["results"]["dog"]["AP11"], 1)


def test_curves_begin_at_the_axis_and_end_where_the_detections_do():
    # Two objects of three are found, after one wrong detection and before another.
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    frame = {"image_id": "a", "boxes": boxes, "classes": [0, 0, 0], "difficult": [False] * 3}
    truths = Truths.from_frames([frame], ("cat", "cow"))
    found = {
        "boxes": [[0, 50, 9, 59], boxes[0], boxes[1], [0, 70, 9, 79]],
        "scores": [0.9, 0.8, 0.7, 0.6],
        "classes": [0] * 4,
    }
    detections = Detections.from_frames({"a": found}, ("cat", "cow"))
    data = report_voc.build([report_voc.Run("m", detections, voc.evaluate(detections, truths))], truths)
    (panel,) = data.sections[1].parts[0].panels
    (line,) = panel.lines
    np.testing.assert_allclose(line.x, np.array([0, 0, 1, 2, 2, 2]) / 3)
    np.testing.assert_allclose(line.y, np.array([2, 2, 2, 2, 1.5, 0]) / 3)


def test_report_refusals(tmp_path):
    detections, truths = _scene()
    run = report_voc.Run("some", detections, voc.evaluate(detections, truths))
    with pytest.raises(UserError, match="no such image folder"):
        report_voc.build([run], truths, tmp_path / "nowhere")
    with pytest.raises(UserError, match="'VGG19' is no published row: choose of VGG16, VGG11, VGG11-I"):
        report_voc.build([report_voc.Run("x", detections, run.evaluation, ("VGG19",))], truths)
