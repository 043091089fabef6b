"""Boxes, targets, suppression and RoI pooling of Faster R-CNN in PyTorch, image by image.

Boxes are inclusive corners as in ``fgfi_tf.models.faster_rcnn``. Needs torch alone (no torchvision).
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from torch.nn import functional

from benchmark.torch_device import constant, to_numpy


def centres_and_sizes(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres and sizes (with the + 1), each [..., 2], of boxes [..., 4]."""
    sizes = boxes[..., 2:] - boxes[..., :2] + 1.0
    return boxes[..., :2] + 0.5 * sizes, sizes


def encode(references: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Deltas [..., 4] from references to boxes."""
    reference_centres, reference_sizes = centres_and_sizes(references)
    centres, sizes = centres_and_sizes(boxes)
    return torch.cat(
        [(centres - reference_centres) / reference_sizes, torch.log(sizes / reference_sizes)], dim=-1
    )


def decode(references: torch.Tensor, deltas: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes [..., 4] of deltas on references, clipped to the picture."""
    reference_centres, reference_sizes = centres_and_sizes(references)
    centres = deltas[..., :2] * reference_sizes + reference_centres
    half = 0.5 * torch.exp(deltas[..., 2:]) * reference_sizes
    limit = constant([width - 1.0, height - 1.0], like=deltas)
    corners = [torch.minimum(c, limit).clamp_min(0.0) for c in (centres - half, centres + half)]
    return torch.cat(corners, dim=-1)


def pairwise_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """IoU [N,M] of inclusive boxes [N,4] and [M,4]."""
    ax1, ay1, ax2, ay2 = first[:, None].unbind(-1)  # N x 1
    bx1, by1, bx2, by2 = second.unbind(-1)  # M
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1) + 1.0).clamp_min(0.0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1) + 1.0).clamp_min(0.0)
    intersection = width * height
    areas = (ax2 - ax1 + 1.0) * (ay2 - ay1 + 1.0) + (bx2 - bx1 + 1.0) * (by2 - by1 + 1.0)
    return intersection / (areas - intersection)


def nms(boxes: torch.Tensor, threshold: float, most: int) -> torch.Tensor:
    """Indices of the boxes kept, at most ``most``, of boxes [N,4] sorted by descending score.

    torchvision's compiled kernel where it is installed. Else each box in turn is compared with those
    kept before it, in numpy, which takes a fifth of the time of the same in torch, box by box or by blocks.
    """
    edges = boxes.detach() + constant([0.0, 0.0, 1.0, 1.0], like=boxes)
    if importlib.util.find_spec("torchvision"):
        from torchvision.ops import nms as compiled

        return compiled(edges, -torch.arange(float(len(edges)), device=edges.device), threshold)[:most]
    columns = np.ascontiguousarray(to_numpy(edges).T)  # 4 x N
    area = (columns[2] - columns[0]) * (columns[3] - columns[1])
    kept, count, indices = np.empty((5, most), np.float32), 0, []
    for i in range(len(boxes)):
        x1, y1, x2, y2, areas = kept[:, :count]
        width = np.minimum(x2, columns[2, i]) - np.maximum(x1, columns[0, i])
        height = np.minimum(y2, columns[3, i]) - np.maximum(y1, columns[1, i])
        shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        if np.any(shared > threshold * (areas + area[i] - shared)):
            continue
        kept[:4, count], kept[4, count] = columns[:, i], area[i]
        indices.append(i)
        count += 1
        if count == most:
            break
    return torch.tensor(indices, dtype=torch.long, device=boxes.device)


def assign_anchors(
    anchors: torch.Tensor, boxes: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels [A] (1, 0, -1) and deltas [A,4] of anchors [A,4] for one image's boxes [M,4]."""
    labels = torch.full((len(anchors),), -1, device=anchors.device)
    deltas = torch.zeros_like(anchors)
    inside = (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
    rows = torch.nonzero(inside)[:, 0]
    if not len(boxes) or not len(rows):
        labels[rows] = 0
        return labels, deltas
    iou = pairwise_iou(anchors[rows], boxes)
    best, truth = iou.max(dim=1)
    own = torch.where(best < 0.3, 0, -1)
    own[((iou == iou.amax(dim=0)) & (iou > 0)).any(dim=1) | (best >= 0.7)] = 1
    labels[rows] = own
    deltas[rows] = encode(anchors[rows], boxes[truth])
    return labels, deltas


def choose(members: torch.Tensor, most: int, random: torch.Tensor) -> torch.Tensor:
    """At most ``most`` of bool [N], those of the lowest random number."""
    rows = torch.nonzero(members)[:, 0]
    rows = rows[torch.argsort(random[rows])[:most]]
    chosen = torch.zeros_like(members)
    chosen[rows] = True
    return chosen


def sample_anchors(labels: torch.Tensor, random: torch.Tensor, count: int) -> torch.Tensor:
    """Labels [A] with -1 for what is not among ``count`` sampled ones, at most half of them objects."""
    positive = choose(labels == 1, count // 2, random)
    negative = choose(labels == 0, count - int(positive.sum()), random)
    return torch.where(positive, 1, torch.where(negative, 0, -1))


def sample_rois(
    proposals: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    priorities: torch.Tensor,
    draws: torch.Tensor,
    quota: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """RoIs [R,4], labels [R] and normalised deltas [R,4] of one image.

    Foreground (IoU of at least 0.5) by the highest priorities up to ``quota``, background by ``draws``.
    ``priorities`` has a number for each proposal and then for each truth.
    """
    candidates = torch.cat([proposals, boxes])
    best, truth = pairwise_iou(candidates, boxes).max(dim=1)
    foreground = torch.nonzero(best >= 0.5)[:, 0]
    background = torch.nonzero(best < 0.5)[:, 0]
    count = len(draws)
    if len(background):
        first = foreground[torch.argsort(priorities[foreground], descending=True)[:quota]]
        picks = draws[len(first) :]
        rows = torch.cat([first, background[(picks * len(background)).long()]])
        objects = len(first)
    else:
        rows, objects = foreground[(draws * len(foreground)).long()], count
    rois = candidates[rows]
    labels = torch.where(torch.arange(count, device=rois.device) < objects, classes[truth[rows]] + 1, 0)
    deltas = encode(rois, boxes[truth[rows]]) / constant([0.1, 0.1, 0.2, 0.2], like=rois)
    return rois, labels, deltas * (labels > 0)[:, None]


def roi_align(features: torch.Tensor, rois: torch.Tensor, size: int = 7, stride: int = 16) -> torch.Tensor:
    """The reference's RoIAlign: (n + 1)^2 bilinear points from corner to corner, averaged 2 x 2.

    Args:
        features: [C,h,w] of one image, in channels_last memory ([1,C,h,w] without its first axis).
        rois: [R,4].

    Returns:
        [R,C,n,n].
    """
    channels, height, width = features.shape
    flat = features.permute(1, 2, 0).reshape(height * width, channels)
    y, fy, in_y = _points(rois[:, 1], rois[:, 3], height, size, stride)  # R x (n + 1)
    x, fx, in_x = _points(rois[:, 0], rois[:, 2], width, size, stride)
    corner = y[:, :, None] * width + x[:, None, :]  # R x (n + 1) x (n + 1)
    index = torch.stack([corner, corner + 1, corner + width, corner + width + 1], dim=-1)
    weights_y = torch.stack([1.0 - fy, fy], dim=-1) * in_y[..., None]  # R x (n + 1) x 2
    weights_x = torch.stack([1.0 - fx, fx], dim=-1) * in_x[..., None]
    weights = weights_y[:, :, None, :, None] * weights_x[:, None, :, None, :]  # R x n+1 x n+1 x 2 x 2
    sampled = functional.embedding_bag(
        index.reshape(-1, 4), flat, mode="sum", per_sample_weights=weights.reshape(-1, 4).to(flat.dtype)
    )
    sampled = sampled.view(len(rois), size + 1, size + 1, channels).permute(0, 3, 1, 2)
    return functional.avg_pool2d(sampled, 2, 1)


def _points(low: torch.Tensor, high: torch.Tensor, cells: int, size: int, stride: int):
    """First cell, fraction beyond it, and whether it counts, of n + 1 points from low to high [R]."""
    low, high = low / stride, high / stride
    extent = (high - low + 1.0).clamp_min(0.0)
    points = low[:, None] + torch.arange(size + 1, device=low.device) * (extent / size)[:, None]
    first = torch.floor(points).clamp_max(cells - 2)
    known = (points >= 0) & (points < cells)
    return first.clamp_min(0).long(), points - first, known
