"""COCO AP: by hand, the goldens of pycocotools, and the files."""

import json
import sys

import numpy as np
import pytest
from places import GOLDEN

from fgfi_tf.data.coco_json import CocoIds
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry
from fgfi_tf.evaluation.coco import ap, files
from fgfi_tf.evaluation.results import write_coco


def truth(*boxes, categories=((1, "cat"), (7, "dog"))):
    """Boxes: (image, category, x, y, w, h)."""
    images = sorted({box[0] for box in boxes} | {1})
    return {
        "images": [{"id": image} for image in images],
        "annotations": [
            {
                "id": i,
                "image_id": b[0],
                "category_id": b[1],
                "bbox": list(b[2:]),
                "area": b[4] * b[5],
                "iscrowd": 0,
            }
            for i, b in enumerate(boxes, start=1)
        ],
        "categories": [{"id": key, "name": name} for key, name in categories],
    }


def found(*boxes):
    """Boxes: (image, category, x, y, w, h, score)."""
    return [{"image_id": b[0], "category_id": b[1], "bbox": list(b[2:6]), "score": b[6]} for b in boxes]


def evaluated(folder, truth, found):
    """The result of two JSON files."""
    for name, content in (("truth", truth), ("found", found)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    table = files.read_ground_truth(folder / "truth.json")
    return ap.evaluate(files.read_detections(folder / "found.json", table.coco_ids), table)


def test_by_hand(tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools computes COCO AP")
    # IoU 80 / 100 counts at 0.5 .. 0.8 (7 of 10 thresholds); the second cat is missed: recall 0.5,
    # precision 1 at the 51 recall points 0 .. 0.5.
    two = truth((1, 1, 0, 0, 10, 10), (2, 1, 0, 0, 10, 10))
    result = evaluated(tmp_path, two, found((1, 1, 0, 0, 10, 8, 0.9)))
    by_class = dict(result)
    assert by_class["cat"].ap50 == pytest.approx(51 / 101) and by_class["cat"].ap == pytest.approx(
        0.7 * 51 / 101
    )
    assert by_class["cat"].ar == pytest.approx(0.7 * 0.5)
    assert np.isnan(by_class["dog"].ap)
    assert result.stats[0] == pytest.approx(0.7 * 51 / 101) and result.n_images == 2
    written = json.loads(json.dumps(result.to_json()))
    assert written["AP"] == written["stats"][0] and written["classes"]["dog"]["ap"] is None


def test_nothing_found(tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools computes COCO AP")
    result = evaluated(tmp_path, truth((1, 1, 0, 0, 10, 10)), [])
    assert result.stats[0] == 0.0 and dict(result)["cat"].ap == 0.0


@pytest.mark.parametrize("place", ["committed", "shared"])
def test_goldens(shared_path, tmp_path, place):
    pytest.importorskip("pycocotools", reason="pycocotools computes COCO AP")
    folder = GOLDEN / "coco_ap" if place == "committed" else shared_path("golden/coco_ap")
    expected = np.load(folder / "expected.npz")
    protocol = registry.get("coco")
    ground_truth = protocol.read_ground_truth(folder / "ground_truth.json")
    found = protocol.read_detections(folder / "detections.json", ground_truth)
    result = protocol.evaluate(found, ground_truth)
    if place == "committed":  # what is written is read back, and evaluated alike
        (tmp_path / "found.json").write_text(write_coco(found)["detections.json"])
        again = protocol.read_detections(tmp_path / "found.json", ground_truth)
        np.testing.assert_allclose(
            protocol.evaluate(again, ground_truth).stats, result.stats, rtol=0, atol=1e-12
        )
    np.testing.assert_allclose(result.stats, expected["stats"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.precision, expected["precision"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.recall, expected["recall"], rtol=0, atol=1e-12)
    assert tuple(ground_truth.coco_ids.categories.values()) == tuple(expected["category_ids"].tolist())
    for key, name in (("ap", "ap_per_class"), ("ap50", "ap50_per_class"), ("ar", "ar100_per_class")):
        ours = [-1.0 if np.isnan(getattr(one, key)) else getattr(one, key) for _, one in result]
        np.testing.assert_allclose(ours, expected[name], rtol=0, atol=1e-12)


def test_without_pycocotools_a_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[coco\]'"):
        evaluated(tmp_path, truth((1, 1, 0, 0, 10, 10)), [])


def test_what_is_left_out_is_filled_in(tmp_path):
    given = truth((1, 1, 0, 0, 4, 5))
    for key in ("id", "area", "iscrowd"):
        del given["annotations"][0][key]
    (tmp_path / "gt.json").write_text("\ufeff" + json.dumps(given), encoding="utf-8")
    table = files.read_ground_truth(tmp_path / "gt.json")
    assert table.columns["area"].tolist() == [20] and table.columns["crowd"].tolist() == [False]
    assert table.boxes.tolist() == [[0, 0, 4, 5]] and table.image_sizes is None
    for height in (None, "16", 0, 10**400):
        given["images"] = [{**given["images"][0], "height": height, "width": 24}]
        assert files.read_ground_truth(write(tmp_path / "gt.json", given)).image_sizes is None
    given["images"][0]["height"] = 16
    assert files.read_ground_truth(write(tmp_path / "gt.json", given)).image_sizes.tolist() == [[16, 24]]


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        ("[1]", "COCO's annotations are an object with images, annotations and categories"),
        ("{", "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ({"images": []}, "holds no list of categories"),
        ({**truth(), "annotations": [1]}, "holds no list of annotations"),
        ({**truth(), "images": [{}]}, r"images\[0\] has no id"),
        ({**truth(), "categories": [{"id": 1}]}, r"categories\[0\] has no id or no name"),
        ({**truth(), "images": [{"id": 1}, {"id": 1}]}, r"images\[1\]: the id 1 stands there twice"),
        (truth(categories=((1, "cat"), (2, "cat"))), "gt.json: two categories have the same name"),
        ({**truth((1, 1, 0, 0, 1, 1)), "images": []}, "unknown image_id 1"),
        (truth((1, 9, 0, 0, 1, 1)), r"annotations\[0\]: unknown category_id 9"),
        (truth((1, 1, 0, 0, -1, 1)), r"bbox \[0, 0, -1, 1\] is not four numbers"),
        (truth((1, 1, 0, 0, float("nan"), 1)), "is not four numbers"),
    ],
)
def test_bad_ground_truth(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        files.read_ground_truth(write(tmp_path / "gt.json", change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, "results are a list"),
        (found((5, 1, 0, 0, 1, 1, 0.5)), "unknown image_id 5"),
        (found((1, 1, 0, 0, 1, 1, "high")), "score 'high' is no finite number"),
        (found((1, 1, 0, 0, 1, 1, True)), "score True is no finite number"),
        ([{"image_id": [1]}], r"unknown image_id \[1\]"),
        (found(*[(5, 1, 0, 0, 1, 1, 0.5)] * 30), "20 problems, there may be more"),
        (found((1, 1, 0, 0, 1, 1e13, 0.5)), r"bbox .* is not four numbers"),
    ],
)
def test_bad_detections(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        files.read_detections(write(tmp_path / "dt.json", change), CocoIds({"1": 1}, {"cat": 1, "dog": 7}))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="gone.json: cannot be read"):
        files.read_ground_truth(tmp_path / "gone.json")
