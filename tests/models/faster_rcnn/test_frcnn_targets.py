"""RPN targets, proposals and RoI targets against hand-made values and the reference's."""

import numpy as np
import pytest
import tensorflow as tf
from places import GOLDEN

from fgfi_tf.geometry.anchors import repeat_cell, rounded_cell
from fgfi_tf.geometry.nms import KINDS as NMS_KINDS
from fgfi_tf.models.faster_rcnn import proposal_targets, proposals, rpn_targets, sampling


def _uniform(count):
    return tf.random.stateless_uniform([count], [1, 2])


def test_rpn_targets_equal_the_reference(run_mode):
    """All labels; the deltas of every anchor that is an object in some image, and of 60 others."""
    golden = np.load(GOLDEN / "frcnn/rpn_targets.npz")
    boxes = golden["gt_boxes"]
    grid = tf.reshape(repeat_cell(rounded_cell(), 37, 50, 16), [-1, 4])
    targets = run_mode(rpn_targets.assign)(
        grid,
        tf.constant(boxes[..., :4]),
        tf.constant(boxes[..., 4] > 0),
        tf.fill([10, 2], 0.0) + [600.0, 800.0],
    )
    np.testing.assert_array_equal(targets.labels, golden["labels"])
    # the reference regresses anchors that overlap nothing towards its first, possibly empty, row as well
    deltas = tf.gather(targets.deltas, golden["rows"].astype(int), axis=1)
    np.testing.assert_allclose(deltas, golden["bbox_targets"], atol=1e-5)
    sampled = rpn_targets.subsample(targets.labels, _uniform(grid.shape[0])).numpy()
    counts = np.stack(
        [
            np.sum(golden["labels"] == 1, 1),
            np.sum(golden["labels"] == 0, 1),
            np.sum(sampled == 1, 1),
            np.sum(sampled == 0, 1),
        ],
        axis=1,
    )
    np.testing.assert_array_equal(counts, golden["counts"])
    assert np.all((sampled == -1) | (sampled == golden["labels"]))


def test_padding_is_outside_every_image():
    grid = tf.reshape(repeat_cell(rounded_cell(), 20, 20, 16), [-1, 4])
    boxes = tf.constant([[[40.0, 40.0, 170.0, 170.0]]] * 2)
    targets = rpn_targets.assign(
        grid, boxes, tf.ones([2, 1], bool), tf.constant([[320.0, 320.0], [200.0, 200.0]])
    )
    used = targets.labels.numpy()[1] >= 0
    assert used.any() and grid.numpy()[used].max() < 200
    assert (targets.labels.numpy()[0] >= 0).sum() > used.sum()


def test_image_without_objects_has_background_only():
    grid = tf.reshape(repeat_cell(rounded_cell(), 20, 20, 16), [-1, 4])
    targets = rpn_targets.assign(
        grid, tf.zeros([1, 3, 4]), tf.zeros([1, 3], bool), tf.constant([[320.0, 320.0]])
    )
    assert set(np.unique(targets.labels)) == {-1, 0}
    assert np.all(np.isfinite(targets.deltas))


def test_choose_at_most_takes_the_lowest_numbers():
    candidates = tf.constant([[True, True, False, True], [False, True, True, False], [True] * 4])
    chosen = sampling.choose_at_most(candidates, tf.constant([2, 5, 0]), tf.constant([0.9, 0.1, 0.0, 0.5]))
    expected = [[False, True, False, True], [False, True, True, False], [False] * 4]
    np.testing.assert_array_equal(chosen, expected)


def test_draw_with_replacement_reaches_each_member_evenly(run_mode):
    members = tf.constant([[False, True, False, True, True], [False] * 5])
    indices = run_mode(sampling.draw_with_replacement)(
        members, tf.constant([0.0, 0.33, 0.34, 0.66, 0.67, 0.999999])
    )
    np.testing.assert_array_equal(indices, [[1, 1, 3, 3, 4, 4], [0] * 6])


def test_scores_and_boxes_of_the_rpn_equal_the_reference(run_mode):
    """One row of the map."""
    golden = np.load(GOLDEN / "frcnn/proposals.npz")
    scores = run_mode(proposals.foreground_probability)(tf.constant(golden["cls_score"][None, None]))
    np.testing.assert_allclose(scores[0], golden["fg_prob"], atol=1e-6)
    row = repeat_cell(rounded_cell(), 37, 50, 16)[int(golden["row"])]
    boxes = run_mode(proposals.decode_proposals)(
        tf.reshape(row, [-1, 4]),
        tf.constant(golden["bbox_deltas"][None, None]),
        tf.constant([[600.0, 800.0]]),
    )
    np.testing.assert_allclose(boxes[0], golden["clipped"], atol=1e-3)
    assert np.any(golden["clipped"] != golden["decoded"])


@pytest.mark.parametrize("nms", NMS_KINDS)
@pytest.mark.parametrize("post", [100, 347, 400])
def test_proposals_equal_the_reference(post, nms):
    """The 500 best boxes of an image, of which the reference keeps 347."""
    golden = np.load(GOLDEN / "frcnn/proposals.npz")
    scores, boxes, kept = (golden[key] for key in ("best_scores", "best_boxes", "kept"))
    assert len(kept) == 347
    # two images, the second in another order and with more boxes that are below the 500 best
    rest = np.tile([[0.0, 0, 799, 599]], [40, 1]).astype(np.float32)
    batch_boxes = tf.constant(np.stack([np.concatenate([boxes, rest]), np.concatenate([rest, boxes[::-1]])]))
    low = np.full([40], 0.5 * scores.min(), np.float32)
    batch_scores = tf.constant(np.stack([np.concatenate([scores, low]), np.concatenate([low, scores[::-1]])]))
    propose = tf.function(proposals.propose)
    result = propose([batch_scores], [batch_boxes], pre_nms=500, post_nms=post, kind=nms)
    count = min(post, 347)
    np.testing.assert_array_equal(result.count, [count, count])
    for image in range(2):
        # taking the 1 of the edge off again costs the last bit
        np.testing.assert_allclose(result.boxes[image, :count], boxes[kept[:count]], atol=1e-4)
        assert not np.any(result.boxes[image, count:])


@pytest.mark.parametrize("nms", NMS_KINDS)
def test_missing_proposals_are_zero_rows(nms):
    boxes = tf.constant([[[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29], [40, 40, 49, 49]]])
    scores = tf.constant([[0.9, 0.8, 0.7, -np.inf]])
    result = proposals.propose([scores], [boxes], pre_nms=10, post_nms=4, kind=nms)
    np.testing.assert_array_equal(result.count, [2])
    np.testing.assert_array_equal(result.boxes[0], [[0, 0, 9, 9], [20, 20, 29, 29], [0] * 4, [0] * 4])


def test_nms_is_strict_and_counts_pixels():
    # 10 x 10 against 10 x 7 inside it: IoU exactly 0.7 stays, 10 x 8 goes
    for height, count in ((7, 2), (8, 1)):
        boxes = tf.constant([[[0.0, 0, 9, 9], [0, 0, 9, height - 1]]])
        threshold = float(np.float32(70) / np.float32(100))
        result = proposals.propose([tf.constant([[0.9, 0.8]])], [boxes], 10, 2, iou_threshold=threshold)
        assert result.count.numpy() == count


def test_roi_targets_equal_the_reference(run_mode):
    golden = np.load(GOLDEN / "frcnn/proposal_targets.npz")
    boxes = tf.constant(golden["gt_boxes"][None, :, :4])
    valid = tf.constant(golden["gt_boxes"][None, :, 4] > 0)
    result = run_mode(proposal_targets.match)(tf.constant(golden["rois_in"][None, :, 1:]), boxes, valid)
    candidates = np.concatenate([golden["rois_in"][:, 1:], golden["gt_boxes"][:, :4]])
    np.testing.assert_array_equal(result.boxes[0], candidates)
    np.testing.assert_allclose(result.best_iou[0], golden["max_iou"], atol=1e-6)
    np.testing.assert_array_equal(result.best_truth[0], golden["argmax_gt"])
    iou = result.best_iou[0].numpy()
    candidate = np.where(iou >= 0.5, 1, np.where(iou >= 0, 0, -1))
    np.testing.assert_array_equal(candidate, golden["candidate"])
    truths = tf.gather(boxes[0], result.best_truth[0])
    deltas = proposal_targets.normalized_deltas(result.boxes[0], truths)
    np.testing.assert_allclose(deltas, golden["targets_normalised"], rtol=1e-5, atol=1e-4)


def _sample(iou, count=8, fraction=0.25):
    iou = tf.constant(iou, tf.float32)
    rows = tf.range(iou.shape[1], dtype=tf.float32)
    boxes = tf.tile(tf.stack([rows, rows, rows + 10, rows + 10], -1)[None], [iou.shape[0], 1, 1])
    candidates = proposal_targets.Candidates(boxes, iou, tf.zeros(iou.shape, tf.int32))
    return proposal_targets.sample(
        candidates,
        tf.constant([[[0.0, 0, 10, 10]]] * iou.shape[0]),
        tf.constant([[7]] * iou.shape[0]),
        priorities=_uniform(iou.shape[1]),
        draws=_uniform(count),
        foreground_fraction=fraction,
    )


def test_roi_sampling_follows_its_quotas():
    result = _sample(
        [[0.9, 0.6, 0.5, 0.2, 0.0, -1.0], [0.9, 0.6, 0.5, 0.7, 0.8, -1.0], [0.1, 0, 0, 0, 0, -1], [-1] * 6]
    )
    np.testing.assert_array_equal(result.labels, [[7, 7] + [0] * 6, [7] * 8, [0] * 8, [-1] * 8])
    first = result.boxes.numpy()[..., 0]
    assert len(set(first[0, :2])) == 2 and set(first[0, :2]) <= {0, 1, 2}  # foreground without replacement
    assert set(first[0, 2:]) <= {3, 4}
    assert set(first[1]) <= {0, 1, 2, 3, 4}
    assert np.all(result.deltas.numpy()[0, 2:] == 0) and np.all(np.isfinite(result.deltas))


def test_fewer_foregrounds_than_the_quota():
    result = _sample([[0.1, 0.9, 0.1, 0.2, 0.0, -1.0]])
    np.testing.assert_array_equal(result.labels, [[7] + [0] * 7])
    # box (1, 1, 11, 11) against (0, 0, 10, 10): both 11 wide, so dx = -1 / 11 over 0.1
    np.testing.assert_allclose(result.deltas[0, 0], [-1 / 1.1, -1 / 1.1, 0, 0], rtol=1e-5)


def test_anchors_at_the_limits_of_overlap(run_mode):
    """An IoU of exactly 0.7 is an object, one of exactly 0.3 is neither."""
    anchor_boxes = [
        [0, 0, 9, 9],
        [0, 0, 9, 6],
        [20, 0, 29, 9],
        [20, 0, 29, 2],
        [40, 0, 49, 9],
        [60, 0, 69, 9],
    ]
    truths = [[0, 0, 9, 6], [20, 0, 29, 2], [40, 0, 59, 6], [61, 0, 69, 9], [60, 0, 68, 9]]
    targets = run_mode(rpn_targets.assign)(
        tf.constant(anchor_boxes, tf.float32),
        tf.constant([truths], tf.float32),
        tf.ones([1, 5], tf.bool),
        tf.constant([[100.0, 100.0]]),
    )
    # 70 / 100; itself; 30 / 100; itself; 70 / 170, below 0.7 but the best of its truth; 90 / 100
    np.testing.assert_array_equal(targets.labels, [[1, 1, -1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("positives", "negatives", "kept"), [(200, 400, (128, 128)), (10, 400, (10, 246)), (200, 50, (128, 50))]
)
def test_256_anchors_of_which_128_are_objects(positives, negatives, kept):
    labels = tf.constant([[1] * positives + [0] * negatives + [-1] * 30])
    sampled = rpn_targets.subsample(labels, _uniform(labels.shape[1])).numpy()
    assert (np.sum(sampled == 1), np.sum(sampled == 0)) == kept
    assert np.all((sampled == -1) | (sampled == labels.numpy()))


def _labels_of(iou, rois=256):
    """Labels of the regions drawn from candidates with the given IoUs, with the published limits."""
    candidates = proposal_targets.Candidates(
        tf.zeros([1, len(iou), 4]), tf.constant([iou], tf.float32), tf.zeros([1, len(iou)], tf.int32)
    )
    return proposal_targets.sample(
        candidates,
        tf.constant([[[0.0, 0, 10, 10]]]),
        tf.constant([[7]]),
        priorities=_uniform(len(iou)),
        draws=_uniform(rois),
    ).labels.numpy()[0]


def test_regions_at_the_limits_of_overlap():
    assert _labels_of([0.9] * 100 + [0.3] * 400).tolist() == [7] * 64 + [0] * 192  # a quarter of 256
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    assert sorted(_labels_of([0.5] * 300)) == [7] * 256  # exactly 0.5 is an object
    assert sorted(_labels_of([below] * 300)) == [0] * 256
    assert sorted(_labels_of([0.0] * 300)) == [0] * 256  # no overlap is background
    assert sorted(_labels_of([-1.0] * 300)) == [-1] * 256  # what is no box is nothing
