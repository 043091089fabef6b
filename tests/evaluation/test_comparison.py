"""Gains over a baseline and shares of the gap to a teacher, by hand."""

import numpy as np
import pytest
from PIL import Image

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.comparison import Comparison
from fgfi_tf.evaluation.report import same_images
from fgfi_tf.evaluation.report.pictures import ImageFolder

MODELS = {
    "teacher": {"mAP11": 0.70, "Car_easy": 0.80},
    "plain": {"mAP11": 0.10, "Car_easy": 0.20},
    "imitating": {"mAP11": 0.40, "Car_easy": 0.15},
}


def test_pairs():
    names = list(MODELS)
    assert Comparison("plain", "teacher").pairs(names) == [("plain", "imitating")]
    assert Comparison(teacher="teacher").pairs(names) == [("plain", "imitating")]
    assert Comparison().pairs(names) == [("teacher", "plain"), ("teacher", "imitating")]
    assert Comparison(baseline="imitating").pairs(names) == [("imitating", "teacher"), ("imitating", "plain")]
    assert Comparison(teacher="teacher").pairs(["teacher", "plain"]) == []
    assert Comparison().pairs(["plain"]) == []


def test_gain_and_share_of_the_gap():
    (gain,) = Comparison("plain", "teacher").gains(MODELS)
    assert gain.metrics == pytest.approx({"mAP11": 0.30, "Car_easy": -0.05})
    assert gain.gap_share == pytest.approx(0.5)  # 0.30 of 0.60


def test_no_share_of_a_gap_that_is_not_there():
    level = {**MODELS, "teacher": {"mAP11": 0.10, "Car_easy": 0.9}}
    (gain,) = Comparison("plain", "teacher").gains(level)
    assert gain.gap_share is None
    (sentence,) = Comparison("plain", "teacher").sentences(level)
    assert sentence == "imitating gains 30.0 points of mAP11 over plain (40.0 against 10.0)."


def test_sentences():
    (sentence,) = Comparison("plain", "teacher").sentences(MODELS)
    assert sentence == (
        "imitating gains 30.0 points of mAP11 over plain (40.0 against 10.0): "
        "50 % of the gap to teacher (70.0)."
    )
    (sentence,) = Comparison("imitating", "teacher").sentences(MODELS)
    assert sentence == "plain loses 30.0 points of mAP11 to imitating (10.0 against 40.0)."


def test_a_tie_neither_gains_nor_loses():
    for imitating in (0.1004, 0.0996):
        tie = {**MODELS, "imitating": {"mAP11": imitating, "Car_easy": 0.2}}
        (sentence,) = Comparison("plain", "teacher").sentences(tie)
        assert sentence == "imitating gains no points of mAP11 over plain (10.0 against 10.0)."
        assert Comparison("plain", "teacher").table(tie).splitlines()[1].endswith(" +0.0")


def test_table():
    assert Comparison("plain", "teacher").table(MODELS).splitlines() == [
        "percent    teacher    plain  imitating  gain of imitating",
        "mAP11         70.0     10.0       40.0              +30.0",
        "Car_easy      80.0     20.0       15.0               -5.0",
    ]


@pytest.mark.parametrize(
    "comparison, message",
    [
        (Comparison(baseline="x"), "--baseline=x is none of the compared models: teacher, plain, imitating"),
        (Comparison(teacher="y"), "--teacher=y is none of the compared models"),
        (Comparison("plain", "plain"), "--baseline=plain cannot be the --teacher as well"),
    ],
)
def test_wrong_names(comparison, message):
    with pytest.raises(UserError, match=message):
        comparison.check(list(MODELS))


def test_images_are_spread_over_those_with_objects():
    objects = np.array([0, 2, 3, 1, 5, 2, 2, 0, 4])
    at_hand = np.ones(9, bool)
    # candidates with two objects or more: 1, 2, 4, 5, 6, 8
    assert same_images.images_to_show(objects, at_hand, 3) == [1, 4, 8]
    at_hand[4] = False
    assert same_images.images_to_show(objects, at_hand, 2) == [1, 8]
    # too few of them: any frame with an image
    assert same_images.images_to_show(np.zeros(9), at_hand, 2) == [0, 8]


def test_a_model_s_boxes_below_the_score_are_not_drawn(tmp_path):
    Image.fromarray(np.full((60, 416, 3), 90, np.uint8)).save(tmp_path / "a.png")
    one = {"boxes": [[10.0, 10, 60, 50]], "classes": [0]}
    truth = Boxes.of_ground_truth({"a": one}, ("Car",))

    def columns(score):
        found = Boxes.of_detections({"a": one | {"scores": [score]}}, ("Car",))
        section = same_images.section({"m": found}, truth, ImageFolder.of(tmp_path, ["a"]), 0.3)
        montage = section.parts[0].pictures[0].image
        return montage[10:50, 5:421], montage[10:50, 426:842]  # two pictures of 416 with gaps of 5

    labelled, model = columns(0.2)
    assert (labelled != 90).any() and (model == 90).all()
    assert (columns(0.4)[1] != 90).any()
