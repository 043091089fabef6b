"""ShuffleDet against arrays of the 2019 code: decoding, targets, losses, masks (see ``tests/golden``)."""

import numpy as np
import pytest
import tensorflow as tf
from places import GOLDEN

from fgfi_tf.geometry import anchors, boxes
from fgfi_tf.geometry import coding as box_coding
from fgfi_tf.geometry.iou import iou as iou_of
from fgfi_tf.imitation import masks
from fgfi_tf.models.shuffledet import ShuffleDet, coding
from fgfi_tf.models.shuffledet.single_map import make_targets

SIZE, GRID, ANCHORS = (384, 1248), (24, 78), 24 * 78 * 9


def iou_of_centres(a, b):
    return iou_of(boxes.corners_from_centres(a), boxes.corners_from_centres(b))


@pytest.fixture(scope="module", name="frames")
def frames_fixture():
    """Of twelve frames, each: boxes (cx, cy, w, h), labels, anchor_index, deltas, mask."""
    golden = np.load(GOLDEN / "shuffledet/targets.npz")
    ends = np.cumsum(golden["count"].astype(int))[:-1]
    frames = {
        key: np.split(golden[key], ends) for key in ("boxes_cxcywh", "labels", "anchor_index", "deltas")
    }
    frames["mask"] = np.unpackbits(golden["mask"]).reshape(12, *GRID).astype(bool)
    return frames


@pytest.fixture(scope="module", name="losses")
def losses_fixture():
    return dict(np.load(GOLDEN / "shuffledet/losses.npz"))


def _grid():
    return anchors.shuffledet_anchors(*SIZE).reshape(-1, 4)


def _padded(frames, numbers, slots=24):
    boxes_out = np.zeros([len(numbers), slots, 4], np.float32)
    classes = np.zeros([len(numbers), slots], np.int32)
    valid = np.zeros([len(numbers), slots], bool)
    for row, n in enumerate(numbers):
        count = len(frames["labels"][n])
        boxes_out[row, :count], classes[row, :count] = frames["boxes_cxcywh"][n], frames["labels"][n]
        valid[row, :count] = True
    return boxes_out, classes, valid


def test_anchors_by_their_formula():
    """Centres divide the input evenly; nine clustered shapes; order row, column, shape."""
    widths, heights = (36, 366, 115, 162, 38, 258, 224, 78, 72), (37, 174, 59, 87, 90, 173, 108, 170, 43)
    shapes = list(zip(widths, heights, strict=True))
    expected = [
        (column * 1248 / 79, row * 384 / 25, *shape)
        for row in range(1, 25)
        for column in range(1, 79)
        for shape in shapes
    ]
    assert len(expected) == ANCHORS
    np.testing.assert_allclose(_grid(), expected, rtol=1e-6)


def test_decoded_boxes_scores_and_classes_of_two_rows():
    """Row 11, and row 22, whose boxes reach the lower border."""
    golden = np.load(GOLDEN / "shuffledet/decoded.npz")
    model = ShuffleDet("shuffledet_0.5x")
    predictions = np.zeros([1, *GRID, 72], np.float32)
    predictions[0, golden["rows"]] = golden["preds"]
    decoded, score, classes = model.decode({"predictions": tf.constant(predictions)})
    rows = lambda x: tf.reshape(x, [*GRID, 9, -1]).numpy()[golden["rows"]]  # noqa: E731
    np.testing.assert_allclose(rows(decoded), golden["boxes_cxcywh"], atol=0.01)
    np.testing.assert_allclose(rows(score)[..., 0], golden["score"], atol=1e-5)
    np.testing.assert_array_equal(rows(classes)[..., 0], golden["class_index"])


def test_assignment_and_deltas_of_twelve_frames_in_one_batch(frames, run_mode):
    """Every anchor is the reference's, save where several have the very same IoU.

    There the reference's choice is that of an unstable sort; ours must be as good.
    """
    padded, classes, valid = _padded(frames, range(12))
    grid = _grid()
    targets = run_mode(make_targets)(
        tf.constant(padded), tf.constant(classes), tf.constant(valid), tf.constant(grid)
    )
    equal = 0
    for n in range(12):
        expected, truth = frames["anchor_index"][n], frames["boxes_cxcywh"][n]
        count = len(expected)
        index = targets["anchor_index"][n].numpy()
        ours, theirs = _iou(grid[index[:count]], truth), _iou(grid[expected], truth)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        same = index[:count] == expected
        assert np.all(same | _tied(grid, truth, theirs))
        assert len(set(index[:count])) == count
        deltas = targets["deltas"][n, :count].numpy()
        np.testing.assert_allclose(deltas[same], frames["deltas"][n][same], atol=1e-5)
        assert np.all(targets["deltas"][n, count:] == 0.0)
        equal += same.sum()
    assert equal >= 60  # of 90; the others have ties


def _iou(a, b):
    """float64 IoU of (cx, cy, w, h) rows, broadcast; written apart from the code under test."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = np.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    intersection = np.prod(np.maximum(high - low, 0), axis=-1)
    return intersection / (np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - intersection)


def _tied(grid, truth, chosen):
    """For each box whether more than one anchor has the IoU of the chosen one."""
    return (np.abs(_iou(grid[None], truth[:, None]) - chosen[:, None]) < 1e-6).sum(axis=1) > 1


def test_deltas_at_the_references_anchors(frames):
    grid = _grid()
    for n in range(12):
        assigned = tf.constant(grid[frames["anchor_index"][n]])
        deltas = box_coding.encode(tf.constant(frames["boxes_cxcywh"][n]), assigned)
        np.testing.assert_allclose(deltas, frames["deltas"][n], atol=1e-5)


def test_masks_of_twelve_frames_in_one_batch(frames, run_mode):
    padded, _, valid = _padded(frames, range(12))
    grid = boxes.corners_from_centres(tf.constant(anchors.shuffledet_anchors(*SIZE)))
    corners = boxes.corners_from_centres(tf.constant(padded))
    mask = run_mode(lambda b, v: masks.imitation_masks([grid], b, v)[0])(corners, tf.constant(valid))
    for n in range(12):
        np.testing.assert_array_equal(mask[n], frames["mask"][n])


@pytest.fixture(name="case")
def case_fixture(frames, losses):
    """Predictions, targets, and what the 2019 code predicted at the assigned anchors of frames 0 and 1.

    Of all other anchors' predictions the losses see the sum of the squared confidences alone: here each has
    the one confidence with which that sum is the same.
    """
    padded, classes, valid = _padded(frames, (0, 1))
    index, deltas = np.zeros(valid.shape, np.int32), np.zeros([*valid.shape, 4], np.float32)
    assigned = [losses[f"confidence_logits_{n}"].astype(np.float64) for n in (0, 1)]
    assigned = [1 / (1 + np.exp(-x)) for x in assigned]
    elsewhere = losses["squared_confidences"] - sum((x**2).sum() for x in assigned)
    confidence = np.sqrt(elsewhere / (2 * ANCHORS - valid.sum()))
    split = {
        "class_logits": np.zeros([2, ANCHORS, 3], np.float32),
        "confidence_logits": np.full([2, ANCHORS], np.log(confidence / (1 - confidence)), np.float32),
        "deltas": np.zeros([2, ANCHORS, 4], np.float32),
    }
    for n in (0, 1):
        rows = frames["anchor_index"][n]
        index[n, : len(rows)], deltas[n, : len(rows)] = rows, frames["deltas"][n]
        for name, values in split.items():
            values[n, rows] = losses[f"{name}_{n}"]
    predictions = np.concatenate([values.reshape(2, *GRID, -1) for values in split.values()], axis=-1)
    targets = {"boxes": padded, "classes": classes, "valid": valid, "anchor_index": index, "deltas": deltas}
    return tf.constant(predictions), {name: tf.constant(value) for name, value in targets.items()}


def test_losses_and_their_gradient(case, losses, run_mode):
    predictions, targets = case
    model = ShuffleDet("shuffledet_0.5x")

    def losses_and_gradient(predictions):
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            terms = model.detection_losses({"predictions": predictions}, {"targets": targets})
            total = tf.add_n(list(terms.values()))
        return terms, tape.gradient(total, predictions)

    terms, gradient = run_mode(losses_and_gradient)(predictions)
    for name in ("class_loss", "confidence_loss", "box_loss"):
        np.testing.assert_allclose(terms[name], losses[name], rtol=1e-4)
    # The deltas' gradient is the box loss's alone: 5 * 2 * error / objects, none comes through the IoU.
    by_delta = tf.reshape(gradient[..., 36:], [2, ANCHORS, 4]).numpy()
    index, valid = targets["anchor_index"].numpy(), targets["valid"].numpy()
    for n in (0, 1):
        rows = index[n, valid[n]]
        expected = 10 * (losses[f"deltas_{n}"] - targets["deltas"].numpy()[n, valid[n]]) / valid.sum()
        np.testing.assert_allclose(by_delta[n, rows], expected, rtol=1e-4, atol=1e-7)
        by_delta[n, rows] = 0
    assert not by_delta.any()


def test_decoded_iou_of_the_assigned_anchors(case, losses):
    predictions, targets = case
    decoded, _, _ = ShuffleDet("shuffledet_0.5x").decode({"predictions": predictions})
    index, valid = targets["anchor_index"].numpy(), targets["valid"].numpy()
    for (image, anchor), iou in zip(losses["iou_index"], losses["iou"], strict=True):
        (slot,) = np.nonzero((index[image] == anchor) & valid[image])[0]
        ours = iou_of_centres(decoded[image, anchor], targets["boxes"][image, slot])
        np.testing.assert_allclose(ours, iou, atol=1e-5)


def test_centres_follow_from_inclusive_corners():
    # (10, 20)-(19, 39): 10 x 20 pixels.
    np.testing.assert_allclose(
        coding.centres_from_inclusive(tf.constant([[10.0, 20.0, 19.0, 39.0]])), [[15.0, 30.0, 10.0, 20.0]]
    )
