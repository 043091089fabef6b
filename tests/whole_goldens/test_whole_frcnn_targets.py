"""Against the whole shared arrays of Faster R-CNN: targets."""

import numpy as np
import pytest
import tensorflow as tf
from places import SHARED

from fgfi_tf.geometry.anchors import repeat_cell, rounded_cell
from fgfi_tf.models.faster_rcnn import proposal_targets, proposals, rpn_targets

SHARED_FOLDER = SHARED / "golden/frcnn"
if not SHARED_FOLDER.exists():
    pytest.skip(f"the shared reference data is absent: {SHARED_FOLDER}", allow_module_level=True)


def _uniform(count):
    return tf.random.stateless_uniform([count], [1, 2])


@pytest.mark.shared_data
def test_rpn_targets_equal_the_reference(shared_path, run_mode):
    golden = np.load(shared_path("golden/frcnn/rpn_targets.npz"))
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
    np.testing.assert_allclose(targets.deltas, golden["bbox_targets"], atol=1e-5)
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


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("mode", "pre", "post", "nms"),
    [("train", 12000, 2000, "combined"), ("test", 6000, 300, "combined"), ("test", 6000, 300, "padded")],
)
def test_proposals_equal_the_reference(shared_path, mode, pre, post, nms):
    golden = np.load(shared_path("golden/frcnn/proposals.npz"))
    scores = proposals.foreground_probability(tf.constant(golden["cls_score"].transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(scores[0], golden["fg_prob"], atol=1e-6)
    deltas = tf.constant(golden["bbox_deltas"].transpose(0, 2, 3, 1))
    grid = tf.reshape(repeat_cell(rounded_cell(), 37, 50, 16), [-1, 4])
    boxes = proposals.decode_proposals(grid, deltas, tf.constant([[600.0, 800.0]]))
    np.testing.assert_allclose(boxes[0], golden["clipped"], atol=1e-3)
    # two images, the second in another order: each is suppressed by itself
    batch_boxes = tf.constant(np.stack([golden["clipped"], golden["clipped"][::-1]]))
    batch_scores = tf.constant(np.stack([golden["fg_prob"], golden["fg_prob"][::-1]]))
    propose = tf.function(proposals.propose)
    result = propose([batch_scores], [batch_boxes], pre_nms=pre, post_nms=post, kind=nms)
    np.testing.assert_array_equal(result.count, [post, post])
    for image in range(2):
        # taking the 1 of the edge off again costs the last bit
        np.testing.assert_allclose(result.boxes[image], golden[f"rois_{mode}"][:, 1:], atol=1e-4)


@pytest.mark.shared_data
def test_roi_targets_equal_the_reference(shared_path, run_mode):
    golden = np.load(shared_path("golden/frcnn/proposal_targets.npz"))
    boxes = tf.constant(golden["gt_boxes"][None, :, :4])
    valid = tf.constant(golden["gt_boxes"][None, :, 4] > 0)
    result = run_mode(proposal_targets.match)(tf.constant(golden["rois_in"][None, :, 1:]), boxes, valid)
    np.testing.assert_array_equal(result.boxes[0], golden["rois_all"][:, 1:])
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
