"""Against the whole shared arrays of ShuffleDet: forward pass, targets, losses, detections."""

import numpy as np
import pytest
import tensorflow as tf
from places import SHARED

from fgfi_tf.geometry import anchors, boxes
from fgfi_tf.geometry import coding as box_coding
from fgfi_tf.geometry.iou import iou as iou_of
from fgfi_tf.imitation import masks
from fgfi_tf.models.shuffledet import ShuffleDet
from fgfi_tf.models.shuffledet import tf1_weights as tf1_shuffledet
from fgfi_tf.models.shuffledet.single_map import make_targets

SHARED_FOLDER = SHARED / "golden/shuffledet"
if not SHARED_FOLDER.exists():
    pytest.skip(f"the shared reference data is absent: {SHARED_FOLDER}", allow_module_level=True)

pytestmark = pytest.mark.shared_data


def iou_of_centres(a, b):
    return iou_of(boxes.corners_from_centres(a), boxes.corners_from_centres(b))


@pytest.fixture(scope="module")
def golden(shared_path):
    folder = shared_path("golden/shuffledet")
    return {name: np.load(folder / f"{name}.npz") for name in ("forward", "targets", "losses")} | {
        "folder": folder
    }


@pytest.fixture(scope="module")
def imported(golden):
    model = ShuffleDet("shuffledet_0.5x")
    tf1_shuffledet.load(model, golden["folder"] / "model.ckpt-1")
    return model


@pytest.fixture(scope="module")
def image(golden):
    # The reference decoded with the accurate integer DCT.
    data = tf.io.read_file(str(golden["folder"] / "input_000001.jpg"))
    return tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE")[None]


@pytest.mark.parametrize("folded", [False, True])
def test_forward_of_the_imported_checkpoint(golden, imported, image, folded):
    model = imported.inference_copy() if folded else imported
    resized = tf.image.resize(tf.cast(image, tf.float32), model.input_size)
    outputs = tf.function(model, autograph=False)(model.preprocess(resized))
    expected = golden["forward"]
    np.testing.assert_allclose(outputs["predictions"], expected["preds"], atol=1e-3)
    feature = outputs["features"][0][0, ::4, ::6]
    np.testing.assert_allclose(feature, expected["feature"], atol=1e-3, rtol=1e-4)

    decoded, score, classes = model.decode(outputs)
    np.testing.assert_allclose(decoded, expected["det_boxes_cxcywh"], atol=0.05)
    np.testing.assert_allclose(score, expected["score"], atol=1e-4)
    np.testing.assert_array_equal(classes, expected["class_index"])

    size = expected["image_size_hw"]
    scale = np.array(model.input_size, np.float32) / size.astype(np.float32)
    detections = model.detect(outputs, {"scale": scale[None], "image_size": size[None]})
    count = int(detections["count"][0])
    assert count == len(expected["nms_scores"])
    order = np.argsort(-expected["nms_scores"], kind="stable")
    np.testing.assert_allclose(detections["boxes"][0, :count], expected["nms_boxes_xyxy"][order], atol=0.05)
    np.testing.assert_array_equal(detections["classes"][0, :count], expected["nms_classes"][order])


def test_anchors_are_the_references(golden):
    ours = anchors.shuffledet_anchors(384, 1248).reshape(-1, 4)
    np.testing.assert_array_equal(ours, golden["targets"]["anchors_cxcywh"].astype(np.float32))


def _frame(golden, n):
    targets = golden["targets"]
    boxes_n = targets[f"boxes_cxcywh_{n}"].astype(np.float32)
    return boxes_n, targets[f"labels_{n}"].astype(np.int32)


def _padded(golden, frames, slots=24):
    boxes_out = np.zeros([len(frames), slots, 4], np.float32)
    classes = np.zeros([len(frames), slots], np.int32)
    valid = np.zeros([len(frames), slots], bool)
    for row, n in enumerate(frames):
        frame_boxes, labels = _frame(golden, n)
        boxes_out[row, : len(labels)], classes[row, : len(labels)] = frame_boxes, labels
        valid[row, : len(labels)] = True
    return boxes_out, classes, valid


def test_assignment_and_deltas_of_twelve_frames_in_one_batch(golden, run_mode):
    """Every anchor is the reference's, save where several have the very same IoU.

    There the reference's choice is that of an unstable sort; ours must be as good.
    """
    padded, classes, valid = _padded(golden, range(12))
    grid = anchors.shuffledet_anchors(384, 1248).reshape(-1, 4)
    targets = run_mode(make_targets)(
        tf.constant(padded), tf.constant(classes), tf.constant(valid), tf.constant(grid)
    )
    equal = 0
    for n in range(12):
        expected = golden["targets"][f"anchor_index_{n}"]
        count = len(expected)
        index = targets["anchor_index"][n].numpy()
        truth = golden["targets"][f"boxes_cxcywh_{n}"]
        ours, theirs = _iou(grid[index[:count]], truth), _iou(grid[expected], truth)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        same = index[:count] == expected
        assert np.all(same | _tied(grid, truth, theirs))
        assert len(set(index[:count])) == count
        deltas = targets["deltas"][n, :count].numpy()
        np.testing.assert_allclose(deltas[same], golden["targets"][f"deltas_{n}"][same], atol=1e-5)
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


def test_deltas_at_the_references_anchors(golden):
    grid = anchors.shuffledet_anchors(384, 1248).reshape(-1, 4)
    for n in range(12):
        targets = golden["targets"]
        deltas = box_coding.encode(
            tf.constant(targets[f"boxes_cxcywh_{n}"], tf.float32),
            tf.constant(grid[targets[f"anchor_index_{n}"]]),
        )
        np.testing.assert_allclose(deltas, targets[f"deltas_{n}"], atol=1e-5)


def test_masks_of_twelve_frames_in_one_batch(golden, run_mode):
    padded, _, valid = _padded(golden, range(12))
    grid = boxes.corners_from_centres(tf.constant(anchors.shuffledet_anchors(384, 1248)))
    corners = boxes.corners_from_centres(tf.constant(padded))
    mask = run_mode(lambda b, v: masks.imitation_masks([grid], b, v)[0])(corners, tf.constant(valid))
    for n in range(12):
        np.testing.assert_array_equal(mask[n], golden["targets"][f"mask_{n}"])


def _reference_targets(golden, padded, classes, valid):
    """The targets with the reference's own anchors, for its choice among ties enters the losses."""
    expected = golden["losses"]
    index = np.zeros(valid.shape, np.int32)
    deltas = np.zeros([*valid.shape, 4], np.float32)
    for row, n in enumerate([int(expected["image_0"]), int(expected["image_1"])]):
        count = valid[row].sum()
        index[row, :count] = golden["targets"][f"anchor_index_{n}"]
        deltas[row, :count] = golden["targets"][f"deltas_{n}"]
    targets = {"boxes": padded, "classes": classes, "valid": valid, "anchor_index": index, "deltas": deltas}
    return {name: tf.constant(value) for name, value in targets.items()}


def test_losses_and_their_gradient(golden, run_mode):
    expected = golden["losses"]
    padded, classes, valid = _padded(golden, [int(expected["image_0"]), int(expected["image_1"])])
    model = ShuffleDet("shuffledet_0.5x")
    targets = _reference_targets(golden, padded, classes, valid)

    def losses_and_gradient(predictions):
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            terms = model.detection_losses({"predictions": predictions}, {"targets": targets})
            total = tf.add_n(list(terms.values()))
        return terms, tape.gradient(total, predictions)

    terms, gradient = run_mode(losses_and_gradient)(tf.constant(expected["preds"]))
    for name in ("class_loss", "confidence_loss", "box_loss"):
        np.testing.assert_allclose(terms[name], expected[name], rtol=1e-4)
    np.testing.assert_allclose(tf.norm(gradient), expected["grad_preds_norm"], rtol=1e-4)
    np.testing.assert_allclose(gradient[:, ::4, ::6], expected["grad_preds_sample"], atol=1e-6, rtol=1e-4)


def test_decoded_iou_of_the_assigned_anchors(golden):
    expected = golden["losses"]
    padded, _, valid = _padded(golden, [int(expected["image_0"]), int(expected["image_1"])])
    model = ShuffleDet("shuffledet_0.5x")
    decoded, _, _ = model.decode({"predictions": tf.constant(expected["preds"])})
    anchor_index = _reference_targets(golden, padded, *_padded(golden, [0, 1])[1:])["anchor_index"].numpy()
    for (image, anchor), iou in zip(expected["iou_index"], expected["iou"], strict=True):
        (slot,) = np.nonzero((anchor_index[image] == anchor) & valid[image])[0]
        ours = iou_of_centres(decoded[image, anchor], tf.constant(padded[image, slot]))
        np.testing.assert_allclose(ours, iou, atol=1e-5)
