"""Boxes, masks and grids as pictures."""

import numpy as np
import pytest

from fgfi_tf import drawing

GRAY = np.full((60, 100, 3), 90, np.uint8)


def test_a_box_is_drawn_in_its_colour_at_its_corners():
    out = drawing.draw_boxes(GRAY, [[20, 10, 70, 40]], colors=[(255, 0, 0)])
    assert out.dtype == np.uint8 and out.shape == GRAY.shape
    assert [tuple(out[y, x]) for y, x in ((10, 20), (40, 70), (10, 45), (25, 20))] == [(255, 0, 0)] * 4
    assert tuple(out[25, 45]) == (90, 90, 90)  # the inside stays
    assert (GRAY == 90).all()  # and so does the input


def test_no_boxes_give_the_same_picture():
    np.testing.assert_array_equal(drawing.draw_boxes(GRAY, np.zeros((0, 4)), [], []), GRAY)


def test_float_images_are_rounded_and_clipped():
    out = drawing.draw_boxes(np.full((8, 8, 3), 300.0), np.zeros((0, 4)))
    assert (out == 255).all()


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 99, 59],
        [-20, -30, 5, 5],
        [95, 50, 140, 90],
        [200, 200, 300, 300],
        [-9, -9, -2, -2],
        [50, 20, 50, 20],
    ],
)
@pytest.mark.parametrize("size", [(60, 100), (12, 14), (3, 2)])
def test_boxes_anywhere_and_tiny_pictures_are_drawn_without_error(box, size):
    out = drawing.draw_boxes(np.zeros((*size, 3), np.uint8), [box], ["Person_sitting"], [0.987])
    assert out.shape == (*size, 3)


def test_labels_stay_inside_the_picture():
    """The plate of a label in a corner is complete: as many coloured pixels as in the middle."""
    color = drawing.class_color("Car")
    counts = []
    for box in ([50, 40, 51, 41], [98, 58, 99, 59], [0, 40, 1, 41], [98, 0, 99, 1]):
        out = drawing.draw_boxes(GRAY, [box], ["Car"])
        plate = (out == color).all(-1)
        rows, columns = np.nonzero(plate)
        counts.append(rows.max() - rows.min() + columns.max() - columns.min())
    assert min(counts) >= counts[0] - 3


def test_labels_of_the_same_box_do_not_hide_each_other():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    box = [20, 20, 59, 49]
    outline = 2 * (40 + 30)  # pixels, which the boxes of the other colours may cover
    alone = (drawing.draw_boxes(GRAY, [box], ["Car"], colors=colors[:1]) == colors[0]).all(-1).sum()
    assert alone > 2 * outline
    together = drawing.draw_boxes(GRAY, [box] * 3, ["Car"] * 3, colors=colors)
    for color in colors:
        assert (together == color).all(-1).sum() >= alone - outline


def test_boxes_with_nan_are_left_out():
    np.testing.assert_array_equal(drawing.draw_boxes(GRAY, [[np.nan, 0, 5, 5]], ["Car"]), GRAY)


def test_lists_of_another_length_are_refused():
    with pytest.raises(ValueError, match="1 boxes but 2 labels"):
        drawing.draw_boxes(GRAY, [[1, 1, 5, 5]], ["Car", "Van"])
    with pytest.raises(ValueError, match=r"must be \[H,W,3\]"):
        drawing.draw_boxes(GRAY[..., 0], [[1, 1, 5, 5]])


def test_the_mask_covers_its_share_of_the_picture():
    mask = np.zeros((2, 4), bool)
    mask[0, 1] = True  # rows 0..29, columns 25..49 of 60 x 100
    out = drawing.overlay_mask(GRAY, mask, color=(255, 0, 0), alpha=0.5)
    changed = (out != 90).any(-1)
    assert changed[:30, 25:50].all()
    assert tuple(out[10, 35]) == (172, 45, 45)  # 0.5 * 90 + 0.5 * (255, 0, 0), rounded to even
    assert not changed[32:].any() and not changed[:, :24].any() and not changed[:, 52:].any()
    np.testing.assert_array_equal(drawing.overlay_mask(GRAY, np.zeros((2, 4), bool)), GRAY)


def test_montage_places_pictures_of_any_size():
    small = np.full((30, 50, 3), 10, np.uint8)
    out = drawing.montage([GRAY, small, GRAY], ["one", "two " * 60, "three"], columns=2)
    assert out.shape[1] == 2 * 100 + 3 * 4 and out.dtype == np.uint8
    assert tuple(out[10, 10]) == (90, 90, 90)
    assert tuple(out[10, 4 + 100 + 4 + 10]) == (10, 10, 10)  # the small one scaled to the same width
    with pytest.raises(ValueError, match="no images"):
        drawing.montage([])
    with pytest.raises(ValueError, match="3 images but 1 captions"):
        drawing.montage([GRAY] * 3, ["a"])
