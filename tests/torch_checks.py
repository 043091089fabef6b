"""PyTorch's side of the benchmark by numbers worked out by hand, in a process without TensorFlow.

``test_benchmark_torch.py`` runs it.
"""

import sys
import types

import numpy as np
import torch
from benchmark import torch_boxes, torch_step
from torch import nn


def tensor(rows, dtype=torch.float32):
    return torch.tensor(rows, dtype=dtype)


def test_iou_of_inclusive_boxes_by_hand():
    first = tensor([[0, 0, 9, 9], [5, 0, 14, 9]])  # 10 x 10 each, half of each shared
    np.testing.assert_allclose(torch_boxes.pairwise_iou(first, first), [[1, 1 / 3], [1 / 3, 1]], rtol=1e-6)


def test_suppression_keeps_the_best_and_stops_at_most():
    boxes = tensor([[0, 0, 9, 9], [1, 0, 10, 9], [20, 0, 29, 9], [21, 0, 30, 9], [40, 0, 49, 9]])
    assert torch_boxes.nms(boxes, 0.7, 10).tolist() == [0, 2, 4]  # IoU of neighbours 9 / 11
    assert torch_boxes.nms(boxes, 0.9, 10).tolist() == [0, 1, 2, 3, 4]
    assert torch_boxes.nms(boxes, 0.7, 2).tolist() == [0, 2]
    assert torch_boxes.nms(boxes[:0], 0.7, 2).tolist() == []


def test_decoding_undoes_encoding_but_for_the_pixel_that_decoding_adds():
    anchors, boxes = tensor([[0, 0, 15, 15]]), tensor([[4, 2, 27, 33]])
    decoded = torch_boxes.decode(anchors, torch_boxes.encode(anchors, boxes), 100, 200)
    np.testing.assert_allclose(decoded, [[4, 2, 28, 34]], atol=1e-4)
    np.testing.assert_allclose(
        torch_boxes.decode(anchors, tensor([[9, 9, 0, 0]]), 20, 30), [[29, 19, 29, 19]]
    )


def test_anchor_labels_by_hand():
    anchors = tensor([[0, 0, 9, 9], [1, 0, 10, 9], [50, 50, 59, 59], [-1, 0, 8, 9]])
    labels, deltas = torch_boxes.assign_anchors(anchors, tensor([[0, 0, 9, 9]]), 60, 60)
    assert labels.tolist() == [1, 1, 0, -1]  # the same box, IoU 9 / 11, nothing shared, across the border
    np.testing.assert_allclose(deltas[:2], [[0, 0, 0, 0], [-0.1, 0, 0, 0]], atol=1e-6)
    assert torch_boxes.assign_anchors(anchors, torch.empty(0, 4), 60, 60)[0].tolist() == [0, 0, 0, -1]
    random = tensor([0.9, 0.1, 0.5, 0.5])
    assert torch_boxes.sample_anchors(labels, random, 2).tolist() == [-1, 1, 0, -1]


def test_roi_align_of_a_plane_and_outside_the_map():
    # On the plane F = 10 y + x a bilinear sample is the plane itself. RoI from cell 1 to cell 4: 8 points
    # over 4 cells, each average of two neighbours lies half a step further.
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    pooled = torch_boxes.roi_align((10 * y + x)[None], tensor([[16, 16, 64, 64]]))[0, 0]
    points = 1 + (np.arange(7) + 0.5) * 4 / 7
    np.testing.assert_allclose(pooled, 10 * points[:, None] + points, rtol=1e-5)
    outside = torch_boxes.roi_align(torch.ones(1, 8, 9), tensor([[160, 160, 170, 170]]))
    np.testing.assert_array_equal(outside, np.zeros((1, 1, 7, 7)))


def test_rois_are_sampled_by_the_numbers_given():
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


def imitating(in_mask):
    """A step's imitation part: two images of 3 x 4 cells, 2 channels to 3, an anchor of 16 x 16 each."""
    random = np.random.default_rng(0)
    layer = types.SimpleNamespace(
        kernel=random.normal(size=(3, 3, 2, 3)).astype(np.float32),
        bias=random.normal(size=3).astype(np.float32),
        psi=0.5,
        normalization=2.0,
    )
    y, x = np.mgrid[:3, :4] * 16.0
    anchors = np.stack([x, y, x + 16, y + 16], axis=-1)[:, :, None].astype(np.float32)  # h x w x 1 x 4
    batch = {
        "boxes": np.array(
            [[[16, 0, 31, 15], [48, 32, 63, 47]], [[0, 32, 15, 47], [0, 0, 15, 15]]], np.float32
        ),
        "valid": np.array([[True, True], [True, False]]),
    }
    step = torch_step.TorchStep()
    step.start_imitation(layer, types.SimpleNamespace(imitation_anchors=anchors), batch, in_mask=in_mask)
    maps = [random.normal(size=(2, c, 3, 4)).astype(np.float32) for c in (2, 3)]
    return step, layer, [torch.tensor(m) for m in maps]


def test_imitation_by_hand_everywhere_and_in_the_mask():
    for in_mask in (False, True):
        step, layer, (student, teacher) = imitating(in_mask)
        student.requires_grad_(True)
        loss = step.imitation_loss(student, teacher)
        loss.backward()
        padded = np.pad(student.detach().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        error = 0.0
        # Each box is one anchor: the neighbours share nothing with it. The fourth box is none.
        for image, row, column in ((0, 0, 1), (0, 2, 3), (1, 2, 0)):
            window = padded[image, :, row : row + 3, column : column + 3]  # C x 3 x 3
            adapted = np.maximum(np.einsum("cyx,yxco->o", window, layer.kernel) + layer.bias, 0)
            error += np.sum((adapted - teacher.numpy()[image, :, row, column]) ** 2)
        np.testing.assert_allclose(float(loss.detach()), error / (2.0 * 3), rtol=1e-5)
        gradients = [student.grad, step.adaptation.weight.grad, step.adaptation.bias.grad]
        if not in_mask:
            everywhere = gradients
    for found, expected in zip(gradients, everywhere, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_an_empty_mask_has_no_loss_but_gradients():
    step, _, (student, teacher) = imitating(True)
    step._valid[:] = False
    loss = step.imitation_loss(student, teacher)
    loss.backward()
    assert float(loss.detach()) == 0.0 and not step.adaptation.weight.grad.any()


def test_a_folded_convolution_is_the_same():
    from benchmark.torch_shuffledet import ConvBN

    torch.manual_seed(0)
    layer, x = ConvBN(6, 9, 3, groups=3).eval(), torch.rand(1, 6, 5, 4)
    for value in layer.bn.state_dict().values():
        if value.dtype == torch.float32:
            value.uniform_(0.5, 1.5)
    expected = layer(x)
    layer.fold()
    assert isinstance(layer.bn, nn.Identity)
    np.testing.assert_allclose(layer(x).detach(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_this_process_holds_no_tensorflow():
    from benchmark import torch_faster_rcnn, torch_forward, torch_worker  # noqa: F401

    assert "tensorflow" not in sys.modules
