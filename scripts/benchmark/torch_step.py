"""What the training steps of both detectors share in PyTorch: the update, and imitation."""

from __future__ import annotations

import gc

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmark import resident
from benchmark.torch_device import DEVICE, to_device


def imitation_mask(anchors: torch.Tensor, boxes: torch.Tensor, valid: torch.Tensor, psi: float):
    """The fine-grained mask, image by image as the reference does.

    Args:
        anchors: [h, w, K, 4] continuous corners.
        boxes: [B, M, 4] continuous corners; valid: [B, M].

    Returns:
        bool [B, h, w].
    """
    height, width = anchors.shape[:2]
    ax1, ay1, ax2, ay2 = anchors.reshape(-1, 1, 4).unbind(-1)  # A x 1
    masks = []
    for rows, present in zip(boxes, valid, strict=True):
        rows = rows[present]
        x1, y1, x2, y2 = rows.unbind(-1)  # M
        along_x = (torch.minimum(ax2, x2) - torch.maximum(ax1, x1)).clamp_min(0.0)  # A x M
        along_y = (torch.minimum(ay2, y2) - torch.maximum(ay1, y1)).clamp_min(0.0)
        intersection = along_x * along_y
        iou = intersection / ((ax2 - ax1) * (ay2 - ay1) + (x2 - x1) * (y2 - y1) - intersection)
        near = iou > psi * iou.amax(dim=0) if len(rows) else iou > 0
        masks.append(near.any(dim=1).view(height, width, -1).any(dim=-1))
    return torch.stack(masks)


def adaptation_of(imitation) -> nn.Conv2d:
    """A copy of the layer's only adaptation, from its snapshot."""
    size, _, fan_in, filters = imitation.kernel.shape
    convolution = nn.Conv2d(fan_in, filters, size, padding=size // 2)
    with torch.no_grad():
        convolution.weight.copy_(
            torch.from_numpy(np.ascontiguousarray(imitation.kernel.transpose(3, 2, 0, 1)))
        )
        convolution.bias.copy_(torch.from_numpy(imitation.bias))
    return convolution.to(DEVICE, memory_format=torch.channels_last)


def adapt_at(adaptation: nn.Conv2d, features: torch.Tensor, places: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The adaptation of [B, C, h, w] at P places (image, row, column) alone: [P, C']."""
    size = adaptation.kernel_size[0]
    padded = functional.pad(features, (size // 2,) * 4).permute(0, 2, 3, 1)  # B x (h + 2) x (w + 2) x C
    image, row, column = places
    cells = [padded[image, row + y, column + x] for y in range(size) for x in range(size)]
    kernel = adaptation.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (k k C) x C'
    return torch.addmm(adaptation.bias, torch.cat(cells, dim=1), kernel)


class TorchStep:
    """An update from the subclass's ``losses()``, a dict of scalars, by its ``optimizer``."""

    adaptation: nn.Conv2d | None = None

    def step(self) -> float:
        """One update; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self.losses().values())
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def start_imitation(self, imitation, student, batch: dict, *, in_mask: bool) -> list[nn.Parameter]:
        """Copies the layer, places the batch's boxes; the parameters to train.

        With ``in_mask`` the adaptation is computed at the mask's positions alone, as ours, else everywhere.
        """
        self.adaptation, self._in_mask = adaptation_of(imitation), in_mask
        self._psi, self._normalization = imitation.psi, imitation.normalization
        self._mask_anchors, self._valid = to_device(student.imitation_anchors), to_device(batch["valid"])
        # inclusive corners to continuous ones
        self._mask_boxes = to_device(batch["boxes"] + np.array([0.0, 0.0, 1.0, 1.0], np.float32))
        return list(self.adaptation.parameters())

    def imitation_loss(self, features: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Of both maps [B, C, h, w]."""
        mask = imitation_mask(self._mask_anchors, self._mask_boxes, self._valid, self._psi)
        if self._in_mask:
            places = torch.nonzero(mask, as_tuple=True)
            wanted = teacher.permute(0, 2, 3, 1)[places]  # P x C'
            error = ((functional.relu(adapt_at(self.adaptation, features, places)) - wanted) ** 2).sum()
        else:
            error = ((functional.relu(self.adaptation(features)) - teacher) ** 2 * mask[:, None]).sum()
        return error / (self._normalization * mask.sum().clamp_min(1))

    def peak(self, steps: int) -> tuple[float, float]:
        """The most MB held in so many steps (of the GPU, where there is one), and how many of it new."""
        on_gpu = DEVICE.type == "cuda"
        gc.collect()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / resident.MB if on_gpu else resident.resident()
        for _ in range(steps):
            self.step()
        most = torch.cuda.max_memory_allocated() / resident.MB if on_gpu else resident.most_resident()
        return most, most - before
