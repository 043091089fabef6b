"""Several feature maps: which ones a box marks, and which of the teacher's each is compared with."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.imitation import masks
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.imitation.levels import level_of_boxes, pair_by_stride


@pytest.mark.parametrize("letter, levels", [("a", "best"), ("b", "assigned"), ("c", "each")])
def test_masks_over_levels(shared_path, run_mode, letter, levels):
    golden = np.load(shared_path("golden/multi_level_mask/masks.npz"))
    count = sum(name.startswith("anchors_") for name in golden.files)
    anchors = [golden[f"anchors_{level}"] for level in range(count)]
    strides = [int(grid[0, 1, 0, 0] - grid[0, 0, 0, 0]) for grid in anchors]
    sizes = [14 * stride for stride in strides]
    boxes, valid = tf.constant(golden["boxes"]), tf.constant(golden["valid"])
    found = run_mode(masks.fine_grained_masks)(
        [tf.constant(grid) for grid in anchors],
        boxes,
        valid,
        float(golden["psi"]),
        levels=levels,
        level_sizes=sizes,
    )
    for level, mask in enumerate(found):
        np.testing.assert_array_equal(mask, golden[f"mask_{letter}_{level}"].astype(bool))
    own = tf.where(valid, level_of_boxes(boxes, sizes), -1)
    np.testing.assert_array_equal(own, golden["level_b"])


def squares(side, stride, size):
    """One square anchor a position, centred in its cell: [h, w, 1, 4]."""
    centre = (np.arange(side) + 0.5) * stride
    x, y = np.meshgrid(centre, centre)
    grid = np.stack([x, y, x, y], -1) + np.float32([-size, -size, size, size]) / 2
    return tf.constant(grid[:, :, None], tf.float32)


# 32 x 32 pixels: 4 x 4 positions with anchors of 8 pixels, 2 x 2 with anchors of 16.
GRIDS = [squares(4, 8, 8), squares(2, 16, 16)]
SMALL, LARGE = [0.0, 0.0, 8.0, 8.0], [16.0, 16.0, 32.0, 32.0]


@pytest.mark.parametrize(
    "levels, fine, coarse",
    [
        # Each box is an anchor (IoU 1); of the other map's it has an IoU of a quarter.
        ("best", [(0, 0)], [(1, 1)]),
        ("assigned", [(0, 0)], [(1, 1)]),
        ("each", [(0, 0), (2, 2), (2, 3), (3, 2), (3, 3)], [(0, 0), (1, 1)]),
    ],
)
def test_levels_by_hand(run_mode, levels, fine, coarse):
    """Two images: a small and a large box; a large one as padding, nothing."""
    boxes = tf.constant([[SMALL, LARGE], [LARGE, LARGE]])
    valid = tf.constant([[True, True], [False, False]])
    found = run_mode(masks.imitation_masks)(GRIDS, boxes, valid, levels=levels, level_sizes=[0, 16])
    for mask, expected in zip(found, (fine, coarse), strict=True):
        assert np.argwhere(mask.numpy()).tolist() == [[0, *place] for place in expected]


def test_the_size_rule_counts_for_the_inside_of_boxes_too(run_mode):
    boxes, valid = tf.constant([[SMALL, LARGE]]), tf.constant([[True, True]])
    arguments = {"region": "gt_box", "levels": "assigned", "level_sizes": [0, 16]}
    fine, coarse = run_mode(lambda *given: masks.imitation_masks(*given, **arguments))(GRIDS, boxes, valid)
    assert np.argwhere(fine[0].numpy()).tolist() == [[0, 0]]
    assert np.argwhere(coarse[0].numpy()).tolist() == [[1, 1]]


def test_a_box_belongs_to_the_level_of_its_side():
    # 56 x 224 has the side 112, which is that of the second of strides 4, 8, 16.
    boxes = tf.constant([[0.0, 0, 56, 223], [0, 0, 56, 224], [0, 0, 9, 9], [5, 5, 5, 9], [0, 0, 900, 900]])
    assert level_of_boxes(boxes, [56, 112, 224]).numpy().tolist() == [0, 1, 0, 0, 2]


def test_sizes_must_be_those_of_the_maps():
    with pytest.raises(ValueError, match=r"needs level_sizes, .* of each of the 2 maps; got \[0\]"):
        masks.imitation_masks(
            GRIDS, tf.zeros([1, 1, 4]), tf.ones([1, 1], tf.bool), levels="assigned", level_sizes=[0]
        )
    with pytest.raises(ValueError, match="levels must be one of best, assigned, each; got 'all'"):
        masks.imitation_masks(GRIDS, tf.zeros([1, 1, 4]), tf.ones([1, 1], tf.bool), levels="all")


@pytest.mark.parametrize(
    "student, teacher, maps, expected",
    [
        ((8, 16, 32, 64, 100, 300), (4, 8, 16, 32, 64), (6, 5), ((0, 1), (1, 2), (2, 3), (3, 4))),
        ((16,), (4, 8, 16, 32), (1, 4), ((0, 2),)),
        ((8, 16), (16,), (2, 1), ((1, 0),)),
        ((16,), (8,), (1, 1), ((0, 0),)),  # resized, as ever
        ((), (), (2, 2), ((0, 0), (1, 1))),
        ((8, 16), (), (2, 2), ((0, 0), (1, 1))),
    ],
)
def test_maps_pair_by_stride(student, teacher, maps, expected):
    assert pair_by_stride(student, teacher, *maps) == expected


@pytest.mark.parametrize(
    "student, teacher, maps, message",
    [
        ((16,), (8, 32), (1, 2), "no feature map has the stride of one of the teacher's"),
        ((16,), (), (1, 2), "the feature maps to imitate differ in number"),
    ],
)
def test_maps_that_do_not_pair(student, teacher, maps, message):
    with pytest.raises(ValueError, match=message):
        pair_by_stride(student, teacher, *maps)


@pytest.mark.parametrize("compute", ["gathered", "dense"])
def test_pairs_by_hand(run_mode, compute):
    """The student's coarse map, with the teacher's second one: of two sizes, three channels."""
    layer = ImitationLoss((9, 3), kernel_size=1, compute=compute, pairs=((1, 1),))
    layer.build([(None, None, None, 5), (None, None, None, 1)])
    assert [tuple(kernel.shape) for kernel in layer.kernels] == [(1, 1, 1, 3)]
    layer.kernels[0].assign([[[[1.0, 2.0, 0.0]]]])
    student = [tf.ones([1, 4, 4, 5]), tf.reshape(tf.constant([9.0, 9.0, 9.0, 3.0]), [1, 2, 2, 1])]
    teacher = [tf.ones([1, 8, 8, 9]), tf.ones([1, 4, 4, 3])]
    boxes, valid = tf.constant([[SMALL, LARGE]]), tf.constant([[True, True]])
    found = run_mode(lambda: tuple(layer.measure(student, teacher, GRIDS, boxes, valid)))()
    # The small box marks the fine map alone, which has no partner: of the coarse one remains (1, 1), whose
    # outputs are 3, 6 and 0 for a teacher of ones; it is one of 4 positions, two thirds of it active.
    assert [float(value) for value in found] == pytest.approx([(4 + 25 + 1) / 2, 1 / 4, 2 / 3])
    positions = layer.count_positions(GRIDS, boxes, valid, [tf.ones([1, 4, 4]) > 0, tf.ones([1, 2, 2]) > 0])
    assert positions.numpy().tolist() == [1, 4]


def test_pairs_of_maps_that_there_are_not():
    layer = ImitationLoss((3, 3), pairs=((2, 1),))
    with pytest.raises(ValueError, match="pairs name maps of a student of 2 maps"):
        layer.build([(None, None, None, 1)] * 2)
    student, teacher = [tf.ones([1, 4, 4, 1])], [tf.ones([1, 4, 4, 3])] * 2
    with pytest.raises(ValueError, match="anchors has 2 feature levels, student_features 1"):
        layer.measure(student, teacher, GRIDS, tf.zeros([1, 1, 4]), tf.ones([1, 1], tf.bool))
    with pytest.raises(ValueError, match="pairs name maps of a student of 1 maps"):
        layer.measure(student, teacher, GRIDS[:1], tf.zeros([1, 1, 4]), tf.ones([1, 1], tf.bool))
