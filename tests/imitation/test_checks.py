"""What ImitationLoss says to inputs that cannot be meant, and what it casts without a word."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.geometry.anchors import anchor_grid
from fgfi_tf.imitation.layer import ImitationLoss

GRID = anchor_grid(4, 6, 16, [16, 32], [1.0, 2.0])


def inputs(**changes):
    random = np.random.default_rng(0)
    given = {
        "student_features": [random.normal(size=[2, 4, 6, 5]).astype(np.float32)],
        "teacher_features": [random.normal(size=[2, 8, 12, 7]).astype(np.float32)],
        "anchors": [GRID],
        "boxes": np.float32([[[0, 0, 16, 16], [70, 30, 95, 63]]] * 2),
        "valid": np.array([[True, True], [False, True]]),
        "valid_mask": None,
    }
    return {**given, **changes}


def built():
    layer = ImitationLoss([7])
    layer.build([(None, None, None, 5)])
    layer.kernels[0].assign(tf.random.stateless_normal([3, 3, 5, 7], [1, 2]))
    return layer


def centred(grid):
    """(cx, cy, w, h), which the layer cannot know from corners but for what they say."""
    return np.concatenate([(grid[..., :2] + grid[..., 2:]) / 2, grid[..., 2:] - grid[..., :2]], -1)


REFUSED = {
    "height_and_width": (
        {"student_features": [np.zeros([2, 6, 4, 5], np.float32)]},
        ValueError,
        "anchors[0] has shape [4, 6, 4, 4]; [h, w, K, 4] of the student's map is expected, here [6, 4, ?, 4]",
    ),
    "student_channels": (
        {"student_features": [np.zeros([2, 4, 6, 3], np.float32)]},
        ValueError,
        "student_features[0] has shape [2, 4, 6, 3]; [B, h, w, Cs] is expected, here [?, ?, ?, 5]",
    ),
    "teacher_channels": (
        {"teacher_features": [np.zeros([2, 8, 12, 9], np.float32)]},
        ValueError,
        "teacher_features[0] has shape [2, 8, 12, 9]; [B, H, W, Ct] is expected, here [2, ?, ?, 7]",
    ),
    "teacher_batch": (
        {"teacher_features": [np.zeros([1, 8, 12, 7], np.float32)]},
        ValueError,
        "teacher_features[0] has shape [1, 8, 12, 7]; [B, H, W, Ct] is expected, here [2, ?, ?, 7]",
    ),
    "rank": (
        {"student_features": [np.zeros([4, 6, 5], np.float32)]},
        ValueError,
        "student_features[0] has shape [4, 6, 5]; [B, h, w, Cs] is expected",
    ),
    "levels": (
        {"teacher_features": [np.zeros([2, 8, 12, 7], np.float32)] * 2},
        ValueError,
        "teacher_features has 2 feature levels, teacher_channels 1: a list with one entry for each level",
    ),
    "anchor_levels": (
        {"anchors": [GRID, GRID]},
        ValueError,
        "anchors has 2 feature levels, teacher_channels 1",
    ),
    "flat_anchors": (
        {"anchors": [GRID.reshape(-1, 4)]},
        ValueError,
        "anchors[0] has shape [96, 4]; [h, w, K, 4] is expected",
    ),
    "anchors_centred": (
        {"anchors": [centred(GRID)]},
        ValueError,
        "anchors[0]: anchors are continuous corners (xmin, ymin, xmax, ymax) in pixels of the network input; "
        "some have no width or height",
    ),
    "anchors_no_grid": (
        {"anchors": [GRID + np.arange(24, dtype=np.float32).reshape(4, 6, 1, 1)]},
        ValueError,
        "anchors[0] is no grid: x must depend on the column and the shape alone",
    ),
    "boxes_rank": (
        {"boxes": np.zeros([2, 4], np.float32)},
        ValueError,
        "boxes has shape [2, 4]; [B, M, 4] is expected",
    ),
    "boxes_batch": (
        {"boxes": np.zeros([3, 2, 4], np.float32), "valid": np.zeros([3, 2], bool)},
        ValueError,
        "boxes has shape [3, 2, 4]; [B, M, 4] is expected, here [2, ?, 4]",
    ),
    "boxes_width_height": (
        {"boxes": np.float32([[[70, 30, 20, 12], [0, 0, 5, 5]]] * 2)},
        ValueError,
        "boxes are continuous corners (xmin, ymin, xmax, ymax) in pixels of the network input; got "
        "[70.0, 30.0, 20.0, 12.0]",
    ),
    "boxes_nan": (
        {"boxes": np.full([2, 2, 4], np.nan, np.float32)},
        ValueError,
        "boxes: one that is valid has a coordinate that is no finite number",
    ),
    "valid_shape": (
        {"valid": np.ones([2, 3], bool)},
        ValueError,
        "valid has shape [2, 3]; [B, M] is expected, here [2, 2]",
    ),
    "valid_mask_shape": (
        {"valid_mask": [np.ones([2, 6, 4], bool)]},
        ValueError,
        "valid_mask[0] has shape [2, 6, 4]; [B, h, w] is expected, here [2, 4, 6]",
    ),
    "valid_mask_levels": (
        {"valid_mask": [np.ones([2, 4, 6], bool)] * 2},
        ValueError,
        "valid_mask has 2 feature levels, teacher_channels 1",
    ),
    "text": ({"boxes": np.full([2, 2, 4], "a")}, TypeError, "boxes must hold numbers, not string"),
    "bool_features": (
        {"student_features": [np.ones([2, 4, 6, 5], bool)]},
        TypeError,
        "student_features[0] must hold numbers, not bool",
    ),
    "none": ({"boxes": None}, TypeError, "boxes is no tensor: NoneType"),
    "ragged": ({"valid": [[True], [True, False]]}, TypeError, "valid is no tensor: list"),
}
# What only values tell is not known while a graph is traced; the anchors are constants there.
OF_VALUES = {"boxes_width_height", "boxes_nan"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_with_what_is_expected(name):
    changes, kind, message = REFUSED[name]
    with pytest.raises(kind) as raised:
        built().measure(**inputs(**changes))
    assert message in str(raised.value) and "\n" not in message


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - OF_VALUES - {"none", "text", "ragged"}))
def test_the_same_while_a_graph_is_traced(name):
    changes, kind, message = REFUSED[name]
    given = inputs(**changes)
    layer = built()
    student, constants = given.pop("student_features"), given
    traced = tf.function(lambda features: layer.measure(features, **constants))
    with pytest.raises(kind) as raised:
        traced(student)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"valid": np.int64([[1, 1], [0, 1]])},
        {"boxes": np.int32([[[0, 0, 16, 16], [70, 30, 95, 63]]] * 2)},
        {"boxes": [[[0, 0, 16, 16], [70, 30, 95, 63]]] * 2, "valid": [[1, 1], [0, 1]]},
        {"anchors": [GRID.astype(np.float64)]},
        {"anchors": GRID},
        {"student_features": inputs()["student_features"][0], "valid_mask": np.ones([2, 4, 6])},
        {"teacher_features": [inputs()["teacher_features"][0].astype(np.float64)]},
        {"boxes": np.float32([[[0, 0, 16, 16], [70, 30, 95, 63]], [[9, 9, 2, np.nan], [70, 30, 95, 63]]])},
    ],
)
def test_what_is_harmless_is_cast(run_mode, changes):
    layer = built()
    call = run_mode(lambda given: layer.measure(**given).loss)
    plain, given = inputs(), inputs(**changes)
    for other in (plain, given):
        del other["valid_mask"]
    assert float(call(given)) == pytest.approx(float(call(plain)), rel=1e-5)
    assert float(call(plain)) > 0


def test_images_without_objects_and_without_boxes_are_fine(run_mode):
    layer = built()
    given = inputs(boxes=np.zeros([2, 0, 4], np.float32), valid=np.zeros([2, 0], bool))
    del given["valid_mask"]
    assert float(run_mode(lambda g: layer.measure(**g).loss)(given)) == 0.0


def test_sizes_that_are_not_known_are_not_checked():
    layer, given = built(), inputs()

    @tf.function(input_signature=[[tf.TensorSpec([None, None, None, 5])], [tf.TensorSpec([None] * 4)]])
    def loss(student, teacher):
        return layer(student, teacher, given["anchors"], given["boxes"], given["valid"])

    expected = float(layer.measure(**given).loss)
    assert float(loss(given["student_features"], given["teacher_features"])) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_number_of_channels_must_be_known():
    @tf.function(input_signature=[[tf.TensorSpec([None] * 4)]])
    def loss(student):
        return ImitationLoss([7]).measure(**inputs(student_features=student)).loss

    with pytest.raises(ValueError, match=r"student_features\[0\]: the number of channels must be known"):
        loss(inputs()["student_features"])
