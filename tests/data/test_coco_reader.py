"""``--dataset=coco``: annotations as JSON."""

import dataclasses
import json

import numpy as np
import pytest
from own_fixtures import coco, open_split, picture

from fgfi_tf.data import splits
from fgfi_tf.data.coco_json import CocoIds
from fgfi_tf.data.readers.coco import Coco
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.results import write_coco

BOX = [5, 2.5, 10, 8]


def frames(root, split="all", fraction=0.2):
    """By image id, without records."""
    return {frame.image_id: frame for frame in splits.frames_of(Coco(), root, split, fraction, {})}


def one(root, split="all"):
    (frame,) = frames(root, split).values()
    return frame


def test_boxes_categories_crowds_and_areas(tmp_path):
    picture(tmp_path / "train2017/a.jpg")
    picture(tmp_path / "train2017/b.jpg")
    objects = [
        (100, 90, BOX),
        (100, 7, [0, 0, 40, 20], {"iscrowd": 1, "area": 31.5}),
        (100, 7, [5, 5, 0, 3]),
        (101, 7, [1, 1, 2, 2], {"ignore": 1}),
    ]
    coco(tmp_path / "annotations/instances_train2017.json", ["a.jpg", "b.jpg"], objects)
    found = frames(tmp_path, "train2017")
    assert list(found) == ["train2017/a", "train2017/b"]
    first = found["train2017/a"]
    # x, y, width, height to inclusive corners
    assert first.boxes.tolist() == [[5, 2.5, 14, 9.5], [0, 0, 39, 19], [5, 5, 4, 7]]
    assert first.names == ("vest", "helmet", "helmet") and first.ignore.tolist() == [False, True, True]
    assert first.attributes["crowd"].tolist() == [False, True, False]
    assert first.attributes["area"].tolist() == [80, 31.5, 0]
    assert first.image_size == (20, 40) and first.notes == ["boxes without area, ignored"]
    assert found["train2017/b"].ignore.tolist() == [True]
    data = open_split("coco", tmp_path, "train2017")
    assert data.learnt_names == ("helmet", "vest") and data.num_examples == 2
    sample = data.sample(0)
    assert sample["attributes"]["area"].numpy().tolist() == [80, 31.5, 0]
    assert sample["classes"].numpy().tolist() == [1, 0, 0]
    np.testing.assert_array_equal(sample["boxes"][:2], [[5, 2.5, 14, 9.5], [0, 0, 39, 19]])


@pytest.mark.parametrize(
    "file, split",
    [
        ("annotations/instances_val.json", "val"),
        ("annotations/instances_val2017.json", "val"),
        ("annotations/mine.json", "mine"),
        ("val.json", "valid"),
        ("valid/_annotations.coco.json", "val"),
        ("annotations/instances_val.json", "annotations/instances_val.json"),
    ],
)
def test_where_annotations_lie(tmp_path, file, split):
    picture(tmp_path / "images/sub/a.png")
    coco(tmp_path / "annotations/instances_train.json", ["sub/a.png"], [])
    coco(tmp_path / file, ["sub/a.png"], [(100, 7, BOX)])
    assert one(tmp_path, split).names == ("helmet",)
    with pytest.raises(UserError, match="has no split 'nothing'; it has .*train"):
        frames(tmp_path, "nothing")


@pytest.mark.parametrize(
    "place, name",
    [
        ("a.png", "a.png"),
        ("images/a.png", "a.png"),
        ("images/train/a.png", "a.png"),
        ("train/a.png", "a.png"),
        ("some/where/a.png", "a.png"),
        ("some/where/a.PNG", "where\\a.png"),
        ("a.jpeg", "a.jpg"),
        ("x/y/a.png", "y/a.png"),
    ],
)
def test_where_pictures_lie(tmp_path, place, name):
    picture(tmp_path / place)
    coco(tmp_path / "annotations/instances_train.json", [name], [(100, 7, BOX)])
    frame = one(tmp_path)
    assert frame.image_path == tmp_path / place and frame.image_id == place.rpartition(".")[0]


def test_equal_names_in_two_folders(tmp_path):
    for folder in ("x", "y"):
        picture(tmp_path / folder / "a.png")
    path = coco(tmp_path / "train.json", ["y/a.png", "x/a.png"], [(100, 7, BOX)])
    assert [len(frame.names) for frame in frames(tmp_path).values()] == [1, 0]
    assert list(frames(tmp_path)) == ["y/a", "x/a"]
    coco(path, ["a.png"], [])
    with pytest.raises(UserError, match="a.png may be .*x/a.png or .*y/a.png: give its folder there"):
        frames(tmp_path)


def test_pictures_found_by_their_names_alone_are_counted(tmp_path, caplog):
    """An export's folders may be those of another machine; two of its pictures cannot be one of ours."""
    picture(tmp_path / "cam2/a.png")
    path = coco(tmp_path / "train.json", ["cam1/a.png"], [])
    (frame,) = frames(tmp_path).values()
    assert frame.notes[0] == "pictures that are not where the labels say, found by their names"
    coco(path, ["cam2/a.png"], [])
    assert one(tmp_path).notes == []
    coco(path, ["cam1/a.png", "cam3/a.png"], [])
    with pytest.raises(
        UserError, match="cam1/a.png and cam3/a.png may both be .*cam2/a.png: give its folder"
    ):
        frames(tmp_path)


def test_a_picture_under_two_ids(tmp_path):
    picture(tmp_path / "a.png")
    path = coco(tmp_path / "train.json", ["a.png", "a.png"], [])
    with pytest.raises(UserError, match=f"{path}: .*a.png is listed twice"):
        frames(tmp_path, "train")


def test_a_single_file_is_divided_by_the_names_of_its_pictures(tmp_path):
    names = [f"{i}.png" for i in range(30)]
    for name in names:
        picture(tmp_path / "images" / name)
    coco(tmp_path / "annotations/instances_default.json", names, [])
    train, val = frames(tmp_path, "train"), frames(tmp_path, "val")
    assert len(train) + len(val) == 30 and 1 < len(val) < 15 and not train.keys() & val.keys()
    assert len(frames(tmp_path, "default")) == 30


def test_sizes_that_are_not_given(tmp_path, caplog):
    picture(tmp_path / "a.png")
    images = [{"id": 100, "file_name": "a.png", "width": 0}]
    coco(tmp_path / "train.json", [], [(100, 7, BOX)], images=images)
    data = open_split("coco", tmp_path, "all")
    assert data.labels()[0]["image_size"].tolist() == [20, 40]
    assert "sizes that the labels do not give, read from the picture: 1, in a" in caplog.text
    for width in (float("inf"), 10**400):
        coco(tmp_path / "train.json", [], [], images=[{**images[0], "width": width, "height": 20}])
        assert one(tmp_path).image_size is None
    coco(tmp_path / "train.json", [], [], images=[{**images[0], "width": 20, "height": 40}])
    with pytest.raises(UserError, match="train.json: says 20 x 40, but .*a.png is 40 x 20; where EXIF turns"):
        open_split("coco", tmp_path, "all")


def test_results_carry_the_ids_of_the_files(tmp_path):
    """A split's ids go with its labels to the result file; those of two files that clash do not."""
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        picture(tmp_path / name)
    objects = [(100, 90, BOX), (101, 7, BOX)]
    coco(tmp_path / "annotations/instances_train.json", ["a.png", "b.png"], objects)
    coco(tmp_path / "annotations/instances_val.json", ["c.png"], [(100, 7, BOX)])
    data = open_split("coco", tmp_path, "train", classes="Helmet,van=vest,vest")
    truth = Boxes.of_ground_truth(data.labels(), data.class_names)
    assert truth.coco_ids == CocoIds({"train/a": 100, "train/b": 101}, {"helmet": 7, "vest": 90})
    boxes = {"boxes": [[5, 2.5, 14, 9.5]], "scores": [0.5], "classes": [0]}
    found = Boxes.of_detections({"train/b": boxes, "train/a": boxes | {"classes": [1]}}, ("Helmet", "cap"))
    text = write_coco(dataclasses.replace(found, coco_ids=truth.coco_ids))["detections.json"]
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in json.loads(text)] == [
        (101, 7, BOX),
        (100, 92, BOX),  # of no category of the file: behind them
    ]
    both = open_split("coco", tmp_path, "all")
    assert Boxes.of_ground_truth(both.labels(), both.class_names).coco_ids is None
    names = [frame["coco_ids"] for frame in both.labels()]
    assert [number for number, _ in names] == [100, 101, 100]


@pytest.mark.parametrize(
    "annotation, message",
    [
        ({"image_id": 5}, r"annotations\[1\]: unknown image_id 5"),
        ({"image_id": [100]}, r"annotations\[1\]: unknown image_id \[100\]"),
        ({"category_id": 1}, "unknown category_id 1"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\] is not four numbers x, y, width, height"),
        ({"bbox": [1, 2, -3, 4]}, r"bbox \[1, 2, -3, 4\] is not four numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, r"bbox \[1, 2, nan, 4\] is not four numbers"),
        ({"bbox": ["1", 2, 3, 4]}, "is not four numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "is not four numbers"),
        ({"bbox": [1, 2, float("-inf"), 4]}, "is not four numbers"),
        ({"area": "big"}, "area 'big' is no finite number"),
        ({"iscrowd": 2}, "iscrowd 2 is neither 0 nor 1"),
    ],
)
def test_wrong_annotations(tmp_path, annotation, message):
    picture(tmp_path / "a.png")
    path = coco(tmp_path / "train.json", ["a.png"], [(100, 7, BOX), (100, 7, BOX)])
    found = json.loads(path.read_text())
    found["annotations"][1] |= annotation
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=message):
        frames(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "train.json: is no JSON file"),
        ("[]", "train.json: COCO's annotations are an object with images, annotations and categories"),
        ('{"images": []}', "train.json: holds no list of categories"),
        ('{"images": 1, "categories": []}', "train.json: holds no list of images"),
        (
            '{"images": [], "categories": []}',
            "list of annotations; pictures alone are no ground truth",
        ),
        ('{"images": [], "categories": [], "annotations": {}}', "train.json: holds no list of annotations"),
        (
            '{"annotations": [], "images": [{"id": 1}], "categories": []}',
            r"images\[0\] has no id or no file_name",
        ),
        (
            '{"annotations": [], "images": [], "categories": [{"id": 1, "name": " "}]}',
            r"categories\[0\] has no id or no name",
        ),
        (
            '{"annotations": [], "images": [], '
            '"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            r"categories\[1\]: the id 1 stands there twice",
        ),
        (
            '{"annotations": [], "images": [{"id": 1, "file_name": "q.png"}], "categories": []}',
            "there is no picture q.png in",
        ),
        ('{"annotations": [], "images": [], "categories": []}', "the split 'all' holds no picture"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(UserError, match=message):
        frames(tmp_path)


def test_up_to_twenty_problems_are_told(tmp_path):
    picture(tmp_path / "a.png")
    coco(tmp_path / "train.json", ["a.png"], [(100, 8, BOX)] * 30)
    with pytest.raises(UserError, match="20 problems, there may be more:"):
        frames(tmp_path)
    with pytest.raises(
        UserError, match="no annotations in COCO's format; it must hold annotations/instances_"
    ):
        frames(tmp_path / "images")
