"""The PyTorch side of the benchmark, by hand-made numbers and beside ours."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

torch = pytest.importorskip("torch")
SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(autouse=True)
def _scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tensor(rows, dtype=torch.float32):
    return torch.tensor(rows, dtype=dtype)


def test_iou_of_inclusive_boxes_by_hand():
    from benchmark import torch_boxes

    first = tensor([[0, 0, 9, 9], [5, 0, 14, 9]])  # 10 x 10 each, half of each shared
    np.testing.assert_allclose(torch_boxes.pairwise_iou(first, first), [[1, 1 / 3], [1 / 3, 1]], rtol=1e-6)


def test_suppression_keeps_the_best_and_stops_at_most():
    from benchmark import torch_boxes

    boxes = tensor([[0, 0, 9, 9], [1, 0, 10, 9], [20, 0, 29, 9], [21, 0, 30, 9], [40, 0, 49, 9]])
    assert torch_boxes.nms(boxes, 0.7, 10).tolist() == [0, 2, 4]  # IoU of neighbours 9 / 11
    assert torch_boxes.nms(boxes, 0.9, 10).tolist() == [0, 1, 2, 3, 4]
    assert torch_boxes.nms(boxes, 0.7, 2).tolist() == [0, 2]
    assert torch_boxes.nms(boxes[:0], 0.7, 2).tolist() == []


def test_decoding_undoes_encoding_but_for_the_pixel_that_decoding_adds():
    from benchmark import torch_boxes

    anchors, boxes = tensor([[0, 0, 15, 15]]), tensor([[4, 2, 27, 33]])
    decoded = torch_boxes.decode(anchors, torch_boxes.encode(anchors, boxes), 100, 200)
    np.testing.assert_allclose(decoded, [[4, 2, 28, 34]], atol=1e-4)
    np.testing.assert_allclose(
        torch_boxes.decode(anchors, tensor([[9, 9, 0, 0]]), 20, 30), [[29, 19, 29, 19]]
    )


def test_anchor_labels_by_hand():
    from benchmark import torch_boxes

    anchors = tensor([[0, 0, 9, 9], [1, 0, 10, 9], [50, 50, 59, 59], [-1, 0, 8, 9]])
    labels, deltas = torch_boxes.assign_anchors(anchors, tensor([[0, 0, 9, 9]]), 60, 60)
    assert labels.tolist() == [1, 1, 0, -1]  # the same box, IoU 9 / 11, nothing shared, across the border
    np.testing.assert_allclose(deltas[:2], [[0, 0, 0, 0], [-0.1, 0, 0, 0]], atol=1e-6)
    assert torch_boxes.assign_anchors(anchors, torch.empty(0, 4), 60, 60)[0].tolist() == [0, 0, 0, -1]
    random = tensor([0.9, 0.1, 0.5, 0.5])
    assert torch_boxes.sample_anchors(labels, random, 2).tolist() == [-1, 1, 0, -1]


def test_roi_align_of_a_plane_and_outside_the_map():
    from benchmark import torch_boxes

    # On the plane F = 10 y + x a bilinear sample is the plane itself. RoI from cell 1 to cell 4: 8 points
    # over 4 cells, each average of two neighbours lies half a step further.
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    pooled = torch_boxes.roi_align((10 * y + x)[None], tensor([[16, 16, 64, 64]]))[0, 0]
    points = 1 + (np.arange(7) + 0.5) * 4 / 7
    np.testing.assert_allclose(pooled, 10 * points[:, None] + points, rtol=1e-5)
    outside = torch_boxes.roi_align(torch.ones(1, 8, 9), tensor([[160, 160, 170, 170]]))
    np.testing.assert_array_equal(outside, np.zeros((1, 1, 7, 7)))


def test_rois_are_sampled_by_the_numbers_given():
    from benchmark import torch_boxes

    proposals = tensor([[0, 0, 9, 9], [40, 40, 49, 49], [60, 60, 69, 69]])
    rois, labels, deltas = torch_boxes.sample_rois(
        proposals,
        tensor([[0, 0, 9, 9]]),
        tensor([4], torch.long),
        tensor([0.1, 0.2, 0.3, 0.9]),
        tensor([0.0, 0.9, 0.1, 0.6]),
        1,
    )
    # Foreground: the truth itself (0.9) before the equal proposal; background 1 or 2 by each draw.
    assert labels.tolist() == [5, 0, 0, 0]
    np.testing.assert_array_equal(rois[:, 0], [0, 60, 40, 60])
    np.testing.assert_array_equal(deltas, np.zeros((4, 4)))


@pytest.fixture(name="small", scope="module")
def small_fixture():
    import sys

    sys.path.insert(0, str(SCRIPTS))
    from benchmark import faster_rcnn
    from benchmark.options import Options

    options = Options(frcnn_size="160x192", frcnn_width=0.125, frcnn_batch="2", repeats=1, warmup=0)
    student, teacher = faster_rcnn.detector(options, "vgg11", 0), faster_rcnn.detector(options, "vgg16", 1)
    batch = faster_rcnn.make_batch(2, options.frcnn_input, 20)
    return options, faster_rcnn.make_distiller(student, teacher), batch


@pytest.mark.slow
def test_both_faster_rcnns_compute_the_same(small):
    from benchmark import frcnn_equality
    from benchmark.torch_faster_rcnn import TorchFasterRCNNStep

    _, ours, batch = small
    theirs = TorchFasterRCNNStep(ours.student, ours.teacher, ours.imitation, batch)
    assert "Same losses" in frcnn_equality.check_step(ours, theirs, batch)
    before = theirs.step()
    assert np.isfinite(before)


@pytest.mark.parametrize(
    "part, message",
    [("rpn.1", "RPN scores"), ("head.scores", "rcnn_class"), ("adaptation", "imitation_loss")],
)
def test_another_weight_in_one_faster_rcnn_is_told(small, part, message):
    from benchmark import frcnn_equality
    from benchmark.torch_faster_rcnn import TorchFasterRCNNStep

    _, ours, batch = small
    theirs = TorchFasterRCNNStep(ours.student, ours.teacher, ours.imitation, batch)
    changed = theirs.adaptation if part == "adaptation" else theirs.student.get_submodule(part)
    with torch.no_grad():
        changed.weight.mul_(1.05)
    with pytest.raises(AssertionError, match=message):
        frcnn_equality.check_step(ours, theirs, batch)


def test_both_faster_rcnns_detect_the_same_and_a_wrong_one_is_told(small):
    from benchmark import frcnn_equality
    from benchmark.torch_faster_rcnn import TorchFasterRCNN, to_torch_images

    options, ours, batch = small
    student = ours.student
    inputs = student.preprocess(batch["image"])
    network, images = TorchFasterRCNN(student).eval(), to_torch_images(student, batch["image"])

    def run():
        with torch.inference_mode():
            return network.detect(*network(images), options.frcnn_input)

    assert "best boxes" in frcnn_equality.check_inference(student, inputs, batch, {"PyTorch": run})
    with torch.no_grad():
        network.head["deltas"].bias.add_(0.5)
    with pytest.raises(AssertionError, match="best detections are the same"):
        frcnn_equality.check_inference(student, inputs, batch, {"PyTorch": run})


def test_pooling_of_both_sides_has_the_same_gradient(small):
    from benchmark import torch_boxes

    from fgfi_tf.models.faster_rcnn import roi_align

    random = np.random.default_rng(0)
    features = random.normal(size=(1, 6, 8, 3)).astype(np.float32)
    rois = np.array([[[0, 0, 60, 50], [30, 20, 127, 95], [100, 80, 127, 95]]], np.float32)
    value = tf.constant(features)
    with tf.GradientTape() as tape:
        tape.watch(value)
        ours = roi_align.roi_align(value, tf.constant(rois))
    expected = tape.gradient(ours, value, output_gradients=tf.ones_like(ours))
    theirs = torch.from_numpy(features[0]).permute(2, 0, 1).requires_grad_(True)
    pooled = torch_boxes.roi_align(theirs, torch.from_numpy(rois[0]))
    pooled.sum().backward()
    np.testing.assert_allclose(pooled.detach().permute(0, 2, 3, 1), ours[0], atol=1e-5)
    np.testing.assert_allclose(theirs.grad.permute(1, 2, 0), expected[0], atol=1e-4)
