"""The table of boxes: from frames, chosen, sorted, renamed; and every wrong array names its image."""

import numpy as np
import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import EDGES, ONE_BASED, PIXELS, Boxes

NAMES = ("car", "dog")


def frame(**changes):
    return {"boxes": [[0, 0, 10, 20]], "scores": [0.5], "classes": [1]} | changes


def table():
    """Images a, b, c; one box in a, two in c."""
    two = {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "classes": ["DOG", "car"], "scores": [0.25, 0.75]}
    return Boxes.of_detections({"a": frame(), "b": frame(boxes=[], scores=[], classes=[]), "c": two}, NAMES)


def test_from_frames():
    found = table()
    assert found.image_ids == ("a", "b", "c") and found.class_names == NAMES and len(found) == 3
    assert found.image.tolist() == [0, 2, 2] and found.classes.tolist() == [1, 1, 0]
    assert found.scores.tolist() == [0.5, 0.25, 0.75] and found.heights.tolist() == [20, 2, 2]
    assert found.noun == "detections" and found.image_sizes is None
    assert found.of_class("Dog").tolist() == [True, True, False] and not found.of_class("cow").any()
    assert found.names(np.array([0, 2])) == ["dog", "car"]
    assert len(Boxes.of_ground_truth([], NAMES)) == len(Boxes.of_detections({}, NAMES)) == 0


def test_columns_of_ground_truth():
    frames = [
        {
            "image_id": "a",
            "image_size": (5, 6),
            "difficult": [True],
            "occlusion": [2],
            "names": ["x"],
            **frame(),
        },
        {"image_id": "b", "image_size": (7, 8), "boxes": [], "classes": [], "difficult": []},
    ]
    truth = Boxes.of_ground_truth(frames, NAMES)
    assert truth.scores is None and truth.noun == "labels" and truth.image_sizes.tolist() == [[5, 6], [7, 8]]
    assert truth.flag("crowd", "difficult").tolist() == [True] and truth.flag("crowd").tolist() == [False]
    assert truth.column("occlusion").tolist() == [2] and truth.column("alpha", -10).tolist() == [-10]
    assert set(truth.columns) == {"difficult", "occlusion"}


def test_chosen_images():
    found = table()
    chosen = found.select(["c", "a"])
    assert chosen.image.tolist() == [1, 0, 0] and chosen.boxes[0].tolist() == [0, 0, 10, 20]  # rows stay
    in_order = chosen.by_image()
    assert in_order.image.tolist() == [0, 0, 1] and in_order.scores.tolist() == [0.25, 0.75, 0.5]
    with pytest.raises(UserError, match=r"image z has no detections \(1 such images\)"):
        found.select(["a", "z"])
    filled = found.select(["z", "a"], allow_missing=True)
    assert filled.image_ids == ("z", "a") and filled.image.tolist() == [1]
    with pytest.raises(UserError, match="image a is listed more than once"):
        found.select(["a", "a"])


def test_other_class_names():
    renamed = table().with_classes(("cow", "Car"))
    assert renamed.classes.tolist() == [-1, -1, 1] and renamed.names(np.array([0, 2])) == ["other", "Car"]
    back = renamed.with_classes(NAMES)
    assert back.classes.tolist() == [-1, -1, 0]
    both = Boxes.of_detections({"a": frame(classes=["Cat"])}, ("cat", "Cat"))  # differ in nothing else
    assert both.classes.tolist() == [1] and both.of_class("Cat").all() and not both.of_class("cat").any()


def test_corners():
    found = table()
    assert found.to(ONE_BASED).boxes[0].tolist() == [1, 1, 11, 21]
    assert found.to(EDGES).boxes[0].tolist() == [0, 0, 11, 21]
    assert found.to(ONE_BASED).to(EDGES).to(PIXELS).boxes.tolist() == found.boxes.tolist()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": [np.nan]}, "image f7: scores holds a value that is not finite"),
        ({"scores": [0.5, 0.5]}, "image f7: 1 boxes but 2 scores"),
        ({"classes": [0, 0]}, "image f7: 1 boxes but 2 classes"),
        ({"boxes": [[0, 0, 10]]}, r"image f7: boxes must be \[n, 4\], not \[1, 3\]"),
        ({"boxes": [[0, 0, np.inf, 1]]}, "image f7: boxes holds a value that is not finite"),
        ({"classes": [2]}, r"image f7: a class is not in 0 \.\. 1"),
        ({"classes": [-1]}, r"image f7: a class is not in 0 \.\. 1"),
        ({"classes": ["Bus"]}, r"image f7: unknown class 'Bus' \(known: car, dog\)"),
    ],
)
def test_wrong_arrays_name_the_image(change, message):
    with pytest.raises(UserError, match=message):
        Boxes.of_detections({"f6": frame(), "f7": frame(**change)}, NAMES)


def test_boxes_that_end_before_they_begin():
    assert table().check_order()
    found = Boxes.of_detections({"a": frame(), "b": frame(boxes=[[5, 0, 4, 1]])}, NAMES)
    with pytest.raises(UserError, match="image b: a box has x2 < x1 or y2 < y1"):
        found.check_order()
