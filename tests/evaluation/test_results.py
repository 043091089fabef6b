"""Result files of every format: the text by hand, and that what is written is read back."""

import json

import numpy as np
import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry, results
from fgfi_tf.evaluation.boxes import ONE_BASED, Boxes, CocoIds
from fgfi_tf.evaluation.coco import files as coco_files

NAMES = ("cat", "dog")


def table():
    frames = {
        "000007": {"boxes": [[0, 1, 9, 10]], "scores": [0.25], "classes": [1]},
        "b c": {"boxes": [], "scores": [], "classes": []},
        "e/d": {"boxes": [[1.5, 2, 3, 4], [1, 2, 4, 7]], "scores": [0.5, 1 / 3], "classes": [1, 0]},
    }
    return Boxes.of_detections(frames, NAMES)


def test_kitti():
    files = results.write_kitti(table().to(ONE_BASED))
    assert list(files) == ["000007.txt", "b c.txt", "e/d.txt"] and files["b c.txt"] == ""
    assert files["000007.txt"] == "dog -1 -1 0.0 0.0 1.0 9.0 10.0 0 0 0 0 0 0 0 0.25\n"
    with pytest.raises(UserError, match="class 'hot dog': a line .* names of one word only"):
        results.write_kitti(table().with_classes(("hot dog", "dog")))


def test_comp4():
    files = results.write_comp4(table(), "2007_test")
    assert files == {
        "comp4_det_test_cat.txt": "e/d 0.3333333333333333 2.0 3.0 5.0 8.0\n",
        "comp4_det_test_dog.txt": "000007 0.25 1.0 2.0 10.0 11.0\ne/d 0.5 2.5 3.0 4.0 5.0\n",
    }
    assert list(results.write_comp4(table()))[0] == "comp4_det_images_cat.txt"
    with pytest.raises(UserError, match="class 'a/b': its name is part of the name of a file"):
        results.write_comp4(table().with_classes(("a/b", "dog")))


def test_coco():
    (text,) = results.write_coco(table()).values()
    first, second, third = json.loads(text)
    assert first == {
        "image_id": 7,
        "image_name": "000007",
        "category_id": 2,
        "category_name": "dog",
        "bbox": [0.0, 1.0, 10.0, 10.0],
        "score": 0.25,
    }
    assert (second["image_id"], second["bbox"]) == ("e/d", [1.5, 2.0, 2.5, 3.0])
    assert (third["category_id"], third["score"]) == (1, 1 / 3)
    assert json.loads(results.write_coco(table().take([]))["detections.json"]) == []


def test_coco_by_names_is_read_with_the_ids_of_the_ground_truth(tmp_path):
    ids = CocoIds({"000007": 100, "b c": 7, "e/d": 5}, {"dog": 90, "cat": 3})  # 7 is another image
    path = tmp_path / "dt.json"
    rows = json.loads(results.write_coco(table())["detections.json"])
    path.write_text(json.dumps(rows))
    found = coco_files.read_detections(path, ids)
    assert found.image_ids == ("000007", "b c", "e/d") and found.class_names == ("dog", "cat")
    assert found.image.tolist() == [0, 2, 2] and found.classes.tolist() == [0, 0, 1]
    again = json.loads(results.write_coco(found)["detections.json"])
    assert [(row["image_id"], row["category_id"]) for row in again] == [(100, 90), (5, 90), (5, 3)]


def test_coco_numbers_of_two_images_are_two():
    boxes = {"boxes": [[0, 1, 9, 10]], "scores": [0.25], "classes": [1]}
    text = results.write_coco(Boxes.of_detections({"7": boxes, "007": boxes}, NAMES))["detections.json"]
    assert [row["image_id"] for row in json.loads(text)] == ["7", "007"]


def test_csv(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text(results.write_csv(table())["detections.csv"])
    assert path.read_text().splitlines()[:2] == [
        "image,class,score,xmin,ymin,xmax,ymax",
        "000007,dog,0.25,0.0,1.0,9.0,10.0",
    ]
    read = results.read_csv(path, scored=True).select(table().image_ids, allow_missing=True)
    np.testing.assert_array_equal(read.boxes, table().boxes)
    np.testing.assert_array_equal(read.scores, table().scores)
    assert read.names(np.arange(3)) == ["dog", "dog", "cat"]
    (tmp_path / "list.txt").write_text("b c\n000007\n")
    assert results.read_csv(path, str(tmp_path / "list.txt")).image_ids == ("b c", "000007")


@pytest.mark.parametrize(
    "text, message",
    [
        ("image,class\n", "found.csv: the first line names no column score"),
        (
            "image,class,score,xmin,ymin,xmax,ymax\na,b,0.5,1,2,3\n",
            "found.csv line 2: wants image,class,score",
        ),
        ("image,class,score,xmin,ymin,xmax,ymax\na,b,nan,1,2,3,4\n", "found.csv line 2: wants"),
        ("image,class,score,xmin,ymin,xmax,ymax\n" + "a,b,x,1,2,3,4\n" * 3, "3 problems"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "found.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        results.read_csv(tmp_path / "found.csv", scored=True)


@pytest.mark.parametrize("name", sorted(results.FORMATS))
def test_texts_of_several_images_follow_one_another(name):
    form = results.format_of(name)
    whole = form.write(table(), "")
    parts: dict[str, str] = {}
    for image in table().image_ids:
        for path, text in form.write(table().select([image]), "").items():
            parts[path] = parts.get(path, "") + text
    assert (parts == whole) == form.grows
    assert {registry.protocol_class(known).results for known in registry.names()} <= set(results.FORMATS)


def test_an_unknown_format():
    with pytest.raises(UserError, match="unknown format of result files 'yolo'; known are kitti, comp4"):
        results.format_of("yolo")
