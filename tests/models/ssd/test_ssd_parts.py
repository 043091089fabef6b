"""SSD's default boxes, matching, losses and detections: by hand, and against public code's arrays."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.geometry import coding
from fgfi_tf.geometry.boxes import centres_from_corners
from fgfi_tf.models.ssd import default_boxes, losses, matching


def encode(boxes, defaults):
    return coding.encode(centres_from_corners(tf.constant(boxes)), defaults, coding.DEVIATIONS)


def decode(offsets, defaults):
    return coding.decode(tf.constant(offsets), defaults, coding.DEVIATIONS)


def golden(shared_path, name):
    return np.load(shared_path(f"golden/ssd300/{name}.npz"))


def test_default_boxes_by_hand():
    boxes = default_boxes.default_boxes()
    assert boxes.shape == (8732, 4)
    assert [s.size**2 * s.boxes_per_position for s in default_boxes.VOC] == [5776, 2166, 600, 150, 36, 4]
    np.testing.assert_allclose(boxes[0] * 300, [4, 4, 30, 30], rtol=1e-6)
    np.testing.assert_allclose(boxes[1] * 300, [4, 4, 1800**0.5, 1800**0.5], rtol=1e-6)
    np.testing.assert_allclose(boxes[2] * 300, [4, 4, 30 * 2**0.5, 30 / 2**0.5], rtol=1e-6)
    np.testing.assert_allclose(boxes[4] * 300, [12, 4, 30, 30], rtol=1e-6)  # the next column
    np.testing.assert_allclose(boxes[-1] * 300, [150, 150, 264 / 2**0.5, 264 * 2**0.5], rtol=1e-6)


def test_default_boxes_golden(shared_path):
    expected = golden(shared_path, "default_boxes")
    for name, found in (
        ("voc", default_boxes.default_boxes()),
        ("voc_clipped_tv", default_boxes.default_boxes(clip_sizes=True)),
        ("coco", default_boxes.default_boxes(default_boxes.COCO)),
    ):
        np.testing.assert_allclose(found, expected[f"default_boxes_{name}"], atol=1e-6)


def test_coding_by_hand():
    default = tf.constant([0.5, 0.5, 0.2, 0.4])
    # Centre moved by a tenth of the width and a quarter of the height; twice as wide.
    box = tf.constant([0.52 - 0.2, 0.6 - 0.2, 0.52 + 0.2, 0.6 + 0.2])
    np.testing.assert_allclose(encode(box, default), [1.0, 2.5, np.log(2) / 0.2, 0], atol=1e-5)
    np.testing.assert_allclose(decode(encode(box, default), default), box, atol=1e-6)


def test_coding_golden(shared_path):
    expected = golden(shared_path, "box_coder")
    defaults = default_boxes.default_boxes()[expected["prior_index"]]
    np.testing.assert_allclose(encode(expected["truths"], defaults), expected["encoded"], atol=1e-4)
    np.testing.assert_allclose(decode(expected["offsets"], defaults), expected["decoded"], atol=1e-6)


# Three default boxes in a row, ground truths on and between them.
ROW = tf.constant([[0.2, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.8, 0.5, 0.2, 0.2]])


def corners(cx, w=0.2):
    return [cx - w / 2, 0.4, cx + w / 2, 0.6]


@pytest.mark.parametrize(
    "rule, expected",
    [
        # Both ground truths like the middle box best. The later one takes it; the earlier has none ...
        ("each_best", [-1, 1, -1]),
        # ... or the better pair goes first and the other one has its next best, though far below 0.5.
        ("bipartite", [-1, 0, 1]),
    ],
)
def test_two_ground_truths_with_one_best_box(run_mode, rule, expected):
    boxes = tf.constant([[corners(0.51), corners(0.55, 0.4)]])
    found = run_mode(matching.match)(boxes, tf.constant([[True, True]]), ROW, rule)
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("rule", matching.RULES)
def test_padding_and_no_ground_truth(run_mode, rule):
    boxes = tf.constant([[corners(0.2), corners(0.8)], [corners(0.2), corners(0.5)]])
    valid = tf.constant([[False, True], [False, False]])
    found = run_mode(matching.match)(boxes, valid, ROW, rule)
    np.testing.assert_array_equal(found, [[-1, -1, 1], [-1, -1, -1]])
    # Padding costs nothing and changes nothing, before an object and behind the last one of all images.
    wide = tf.concat([boxes, tf.tile(tf.constant([[corners(0.5)]]), [2, 9, 1])], axis=1)
    padded = tf.concat([valid, tf.zeros([2, 9], tf.bool)], axis=1)
    np.testing.assert_array_equal(run_mode(matching.match)(wide, padded, ROW, rule), found)
    none = run_mode(matching.match)(tf.zeros([2, 0, 4]), tf.zeros([2, 0], tf.bool), ROW, rule)
    np.testing.assert_array_equal(none, np.full((2, 3), -1))
    labels, wanted = losses.targets(none, tf.zeros([2, 0, 4]), tf.zeros([2, 0], tf.int32), ROW)
    assert not labels.numpy().any() and not wanted.numpy().any()


def test_iou_of_exactly_half_matches():
    # Half as wide, inside: IoU 0.5 in float32 as well. The other ground truth forces its own box elsewhere.
    default = tf.constant([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.25, 0.5]])
    boxes = tf.constant([[[0.375, 0.25, 0.625, 0.75]]])
    np.testing.assert_array_equal(matching.match(boxes, tf.constant([[True]]), default), [[0, 0]])


def test_losses_by_hand():
    # Five boxes, one positive (label 1): three of the four others are mined, by their cross entropy.
    logits = tf.math.log(tf.constant([[[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]]))
    labels = tf.constant([[1, 0, 0, 0, 0]])
    offsets = tf.constant([[[0.5, -2.0, 0.0, 0.0]] + [[9.0] * 4] * 4])
    found = losses.multibox_losses(logits, offsets, labels, tf.zeros([1, 5, 4]))
    assert float(found["class_loss"]) == pytest.approx(-np.log(0.5 * 0.2 * 0.6 * 0.7), rel=1e-5)
    assert float(found["box_loss"]) == pytest.approx(0.125 + 1.5)
    assert float(found["positives"]) == 1


def test_no_positives_no_loss(run_mode):
    found = run_mode(losses.multibox_losses)(
        tf.random.normal([2, 7, 4]),
        tf.random.normal([2, 7, 4]),
        tf.zeros([2, 7], tf.int32),
        tf.zeros([2, 7, 4]),
    )
    assert [float(found[name]) for name in ("class_loss", "box_loss", "positives")] == [0, 0, 0]


@pytest.mark.parametrize("rule", matching.RULES)
def test_training_golden(shared_path, run_mode, rule):
    data = golden(shared_path, "training")
    defaults = tf.constant(default_boxes.default_boxes())
    count = max(len(data[f"truths{i}"]) for i in range(3))
    boxes, classes = np.zeros((3, count, 4), np.float32), np.zeros((3, count), np.int32)
    valid = np.zeros((3, count), bool)
    for i in range(3):
        number = len(data[f"truths{i}"])
        boxes[i, :number], valid[i, :number] = data[f"truths{i}"], True
        classes[i, :number] = data[f"labels{i}"] - 1
    matched = run_mode(matching.match)(tf.constant(boxes), tf.constant(valid), defaults, rule)
    np.testing.assert_array_equal(matched, data[f"matched_{rule}"])
    labels, wanted = losses.targets(matched, tf.constant(boxes), tf.constant(classes), defaults)
    rows = tuple(data[f"positive_{rule}"].T)
    np.testing.assert_allclose(wanted.numpy()[rows], data[f"targets_{rule}"], atol=1e-4)

    logits, offsets = (tf.constant(data[name].astype(np.float32)) for name in ("logits", "offsets"))

    @run_mode
    def compute(logits, offsets):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch((logits, offsets))
            found = losses.multibox_losses(logits, offsets, labels, wanted)
            by_class, by_box = (found[name] / found["positives"] for name in ("class_loss", "box_loss"))
        return by_class, by_box, tape.gradient(by_class, logits), tape.gradient(by_box, offsets)

    by_class, by_box, of_logits, of_offsets = compute(logits, offsets)
    np.testing.assert_allclose(by_class, data[f"class_loss_{rule}"], rtol=1e-5)
    np.testing.assert_allclose(by_box, data[f"box_loss_{rule}"], rtol=1e-5)
    for found, name, place in (
        (of_logits.numpy(), "grad_logits", "selected"),
        (of_offsets.numpy(), "grad_offsets", "positive"),
    ):
        rows = tuple(data[f"{place}_{rule}"].T)
        np.testing.assert_allclose(found[rows], data[f"{name}_{rule}"], atol=1e-6)
        found[rows] = 0
        assert not found.any()


@pytest.mark.parametrize("clip", [True, False])
def test_detections_golden(shared_path, run_mode, clip):
    data, expected = golden(shared_path, "training"), golden(shared_path, "detections")
    name = "" if clip else "_unclipped_nms"
    logits, offsets = (data[key][:1].astype(np.float32) for key in ("logits", "offsets"))
    found = run_mode(losses.detect)(
        tf.constant(logits), tf.constant(offsets), tf.constant(default_boxes.default_boxes()), clip
    )
    found = {key: value[0].numpy() for key, value in found.items()}
    assert found["count"] == len(expected[f"scores{name}"])
    ours = np.concatenate([found["boxes"] * 300, found["scores"][:, None], found["classes"][:, None] + 1], 1)
    theirs = np.concatenate(
        [expected[f"boxes{name}"], expected[f"scores{name}"][:, None], expected[f"labels{name}"][:, None]], 1
    )
    # As sets: kept scores are as close as 2e-6.
    distance = np.abs(ours[:, None] - theirs[None]).max(axis=-1)
    assert (distance.min(axis=0) < 1e-3).all() and (distance.min(axis=1) < 1e-3).all()
    assert (np.diff(found["scores"]) <= 0).all()


def test_nothing_above_the_score():
    logits = tf.constant([[[20.0, 0.0, 0.0]] * 3])
    found = losses.detect(logits, tf.zeros([1, 3, 4]), ROW)
    assert int(found["count"][0]) == 0 and not found["boxes"].numpy().any()
