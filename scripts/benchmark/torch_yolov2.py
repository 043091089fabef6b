"""YOLOv2 and its imitation step as one would write them in PyTorch: what the benchmark compares with.

The adaptation everywhere on the map and the teacher's batch norm not folded, or both as ours. What it copies
are ``benchmark.snapshots``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmark.options import LEARNING_RATE, MOMENTUM
from benchmark.torch_device import DEVICE, to_device, to_images, to_numpy
from benchmark.torch_step import TorchStep

STRIDE = 32
PASSTHROUGH_AFTER = 13  # convolutions of the trunk


class ConvBN(nn.Module):
    """A copy of one of ours: convolution without bias, batch normalisation, leaky ReLU."""

    def __init__(self, source):
        super().__init__()
        size, _, fan_in, filters = source.kernel.shape
        self.conv = nn.Conv2d(fan_in, filters, size, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(filters, eps=1e-5, momentum=0.01)
        norm = source.norm
        with torch.no_grad():
            self.conv.weight.copy_(_kernel(source.kernel))
            for name, value in (
                ("weight", norm.gamma),
                ("bias", norm.beta),
                ("running_mean", norm.moving_mean),
                ("running_var", norm.moving_variance),
            ):
                getattr(self.bn, name).copy_(torch.from_numpy(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C', h, w]."""
        return functional.leaky_relu(self.bn(self.conv(x)), 0.1, inplace=True)

    def fold(self) -> None:
        """Batch normalisation with fixed statistics into the convolution."""
        self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


class TorchYOLOv2(nn.Module):
    """A copy of one of our detectors, weights included; ``source`` is a snapshot."""

    def __init__(self, source):
        super().__init__()
        self.trunk = nn.ModuleList(
            nn.MaxPool2d(2) if layer is None else ConvBN(layer) for layer in source.trunk
        )
        self.head = nn.ModuleList(map(ConvBN, source.head))
        self.passthrough, self.last = ConvBN(source.passthrough), ConvBN(source.last)
        self.predict = nn.Conv2d(*source.predict.kernel.shape[2:], 1)
        with torch.no_grad():
            self.predict.weight.copy_(_kernel(source.predict.kernel))
            self.predict.bias.copy_(torch.from_numpy(source.predict.bias))
        self.to(DEVICE, memory_format=torch.channels_last)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] to the imitated map [B, C, H / 32, W / 32]."""
        x, number, fine = images, 0, None
        for layer in self.trunk:
            x = layer(x)
            number += isinstance(layer, ConvBN)
            if number == PASSTHROUGH_AFTER and fine is None:
                fine = x
        for layer in self.head:
            x = layer(x)
        return self.last(torch.cat([space_to_depth(self.passthrough(fine)), x], dim=1))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The imitated map and the predictions [B, A * (5 + C), H / 32, W / 32]."""
        features = self.features(images)
        return features, self.predict(features)

    def fold(self) -> None:
        """The batch normalisation of a network that is not trained."""
        for module in list(self.modules()):
            if isinstance(module, ConvBN):
                module.fold()


def _kernel(kernel: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))


def space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """[B, C, 2h, 2w] to [B, 4C, h, w], channels in the order (dy, dx, c)."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, 4 * channels, height // 2, width // 2)


def region_losses(
    predictions: torch.Tensor, boxes: torch.Tensor, valid: torch.Tensor, anchors: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The losses of one class within the first 12,800 images, by the images.

    Args:
        predictions: [B, A * 6, h, w].
        boxes: [B, M, 4], (cx, cy, w, h) as fractions of the input; valid: bool [B, M].
        anchors: [A, 2] in cells.
    """
    batch, (height, width) = len(predictions), predictions.shape[2:]
    flat = predictions.permute(0, 2, 3, 1).reshape(batch, height * width, len(anchors), -1)
    size = to_device(np.array([width, height], np.float32))
    rows, columns = torch.meshgrid(
        torch.arange(height, device=DEVICE), torch.arange(width, device=DEVICE), indexing="ij"
    )
    cells = torch.stack([columns, rows], dim=-1).reshape(-1, 1, 2)
    centres = (cells + torch.sigmoid(flat[..., :2])) / size
    decoded = torch.cat([centres, anchors * flat[..., 2:4].exp() / size], dim=-1).flatten(1, 2)  # B x P x 4
    flat = flat.flatten(1, 2)  # B x P x 6
    wanted, sides = boxes[..., :2] * size, boxes[..., 2:] * size
    cell = torch.minimum(wanted.floor(), size - 1)
    shared = torch.minimum(sides[:, :, None], anchors).prod(-1)
    alike = shared / (sides.prod(-1)[..., None] + anchors.prod(-1) - shared)
    best = alike.argmax(-1)  # B x M
    index = ((cell[..., 1] * width + cell[..., 0]) * len(anchors)).long() + best
    order = torch.where(valid, torch.arange(valid.shape[1], device=DEVICE), -1)
    last = torch.full(flat.shape[:2], -1, device=DEVICE, dtype=order.dtype)
    last = last.scatter_reduce(1, index, order, "amax")
    has, free = valid & (last.gather(1, index) == order), last < 0
    with torch.no_grad():
        overlap = (_iou(decoded[:, :, None], boxes[:, None]) * valid[:, None]).amax(-1)  # B x P
        own_overlap = _iou(decoded.gather(1, index[..., None].expand(-1, -1, 4)), boxes)
    found = torch.sigmoid(flat[..., 4])
    prior = ((torch.sigmoid(flat[..., :2]) - 0.5) ** 2 + flat[..., 2:4] ** 2).sum(-1)
    own = flat.gather(1, index[..., None].expand(-1, -1, flat.shape[-1]))  # B x M x 6
    offsets = ((torch.sigmoid(own[..., :2]) - (wanted - cell)) ** 2).sum(-1)
    growth = ((own[..., 2:4] - (sides / anchors[best]).log()) ** 2).sum(-1)
    weight = 2.0 - boxes[..., 2] * boxes[..., 3]
    terms = {
        "no_object_loss": 0.5 * (found**2 * (free & (overlap <= 0.6))).sum(),
        "box_loss": 0.5 * (weight * (offsets + growth) * has).sum() + 0.5 * 0.01 * (prior * free).sum(),
        "object_loss": 0.5 * 5.0 * ((own_overlap - torch.sigmoid(own[..., 4])) ** 2 * has).sum(),
    }
    return {name: value / batch for name, value in terms.items()}


def _iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of (cx, cy, w, h) with broadcasting."""
    near = torch.maximum(first[..., :2] - first[..., 2:] / 2, second[..., :2] - second[..., 2:] / 2)
    far = torch.minimum(first[..., :2] + first[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2)
    shared = (far - near).clamp_min(0.0).prod(-1)
    return shared / (first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - shared)


class TorchYOLOv2Step(TorchStep):
    """The training step of a student of one class, imitating where a teacher is given.

    Args:
        student, teacher: snapshots of our detectors.
        imitation: one of our layer. None with ``teacher`` None.
        batch: one batch of numpy arrays; its images preprocessed.
        as_ours: whether the teacher is folded and the adaptation computed in the mask alone.
        compiled: whether both networks go through ``torch.compile``.
    """

    def __init__(self, student, teacher, imitation, batch: dict, *, as_ours=False, compiled=False):
        self.student = TorchYOLOv2(student).train()
        parameters, self.teacher = list(self.student.parameters()), None
        if teacher is not None:
            self.teacher = TorchYOLOv2(teacher).eval().requires_grad_(False)
            if as_ours:
                self.teacher.fold()
            parameters += self.start_imitation(imitation, student, batch, in_mask=as_ours)
        kernels = [p for p in parameters if p.ndim == 4]
        others = [p for p in parameters if p.ndim != 4]
        self.optimizer = torch.optim.SGD(
            [{"params": kernels, "weight_decay": student.weight_decay}, {"params": others}],
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
        )
        self.images, self.anchors = to_images(batch["image"]), to_device(student.anchors)
        self.valid = to_device(batch["valid"])
        extent = np.array(batch["image"].shape[2:0:-1], np.float32)  # (w, h)
        near, far = batch["boxes"][..., :2], batch["boxes"][..., 2:] + 1.0
        boxes = np.concatenate([(near + far) / 2 / extent, (far - near) / extent], axis=-1)
        self.boxes = to_device(boxes.astype(np.float32))
        if compiled:
            self.student = torch.compile(self.student)
            if self.teacher is not None:
                self.teacher.features = torch.compile(self.teacher.features)

    def losses(self) -> dict[str, torch.Tensor]:
        """Every term of the loss, named as in ``Distiller.losses_of``."""
        features, predictions = self.student(self.images)
        terms = region_losses(predictions, self.boxes, self.valid, self.anchors)
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self.teacher.features(self.images)
            terms["imitation_loss"] = self.imitation_loss(features, teacher)
        return terms

    def losses_and_gradients(self) -> tuple[dict[str, float], dict[str, np.ndarray | None]]:
        """Each term, and the gradients of the first kernel and the adaptation's in our layout.

        The weights and moving statistics are left as they were.
        """
        state = {name: value.clone() for name, value in self.student.state_dict().items()}
        terms = self.losses()
        sum(terms.values()).backward()
        kernels = {"stem": self.student.trunk[0].conv, "adaptation": self.adaptation}
        gradients = {
            name: None if conv is None else to_numpy(conv.weight.grad).transpose(2, 3, 1, 0)
            for name, conv in kernels.items()
        }
        self.student.load_state_dict(state)
        self.optimizer.zero_grad(set_to_none=True)
        return {name: float(value.detach()) for name, value in terms.items()}, gradients
