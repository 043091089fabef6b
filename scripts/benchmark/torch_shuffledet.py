"""ShuffleDet and its imitation step as one would write them in PyTorch: what the benchmark compares with.

Grouped convolutions, a real channel shuffle and batch normalisation as modules, tensors in channels_last;
the adaptation everywhere on the map and the teacher's batch norm not folded, as the 2019 code has it, or both
as ours. What it copies are ``benchmark.snapshots``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmark.options import LEARNING_RATE, MOMENTUM
from benchmark.torch_device import DEVICE, constant, to_device, to_images, to_numpy
from benchmark.torch_step import TorchStep

SHUFFLE_GROUPS = 3


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation, optional ReLU; padded as TensorFlow's SAME."""

    def __init__(self, fan_in: int, filters: int, size: int = 1, stride: int = 1, groups: int = 1, relu=True):
        super().__init__()
        self.stride, self.relu = stride, relu
        padding = size // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(fan_in, filters, size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C', h / stride, w / stride]."""
        if self.stride == 2:
            x = functional.pad(x, (0, 1, 0, 1))  # SAME of an even size pads right and below only
        x = self.bn(self.conv(x))
        return functional.relu(x, inplace=True) if self.relu else x

    def fold(self) -> None:
        """Batch normalisation with fixed statistics into the convolution."""
        self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channel g * n + j goes to j * groups + g."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width).contiguous(memory_format=torch.channels_last)


class ShuffleUnit(nn.Module):
    """See ``fgfi_tf.models.shuffledet.unit.ShuffleUnit``."""

    def __init__(self, unit):
        super().__init__()
        self.stride, self.shortcut = unit.strides, unit.shortcut
        inner, expanded = unit.conv1.filters, unit.conv2.filters
        fan_in = unit.conv1.kernel.shape[2] * unit.conv1.groups
        self.conv1 = ConvBN(fan_in, inner, groups=unit.conv1.groups)
        self.dconv = ConvBN(inner, inner, 3, unit.strides, groups=inner, relu=False)
        self.conv2 = ConvBN(inner, expanded, groups=unit.conv2.groups, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C', h / stride, w / stride]."""
        residual = self.conv2(self.dconv(channel_shuffle(self.conv1(x), SHUFFLE_GROUPS)))
        if self.stride == 2:
            pooled = functional.avg_pool2d(x, 3, 2, ceil_mode=True)
            return torch.cat([pooled, functional.relu(residual)], dim=1)
        return functional.relu(x + residual if self.shortcut else residual)


class TorchShuffleDet(nn.Module):
    """A copy of one of our detectors, weights included.

    Args:
        source: a snapshot of it.
        with_head: whether the predicting convolution is there (a teacher needs none).
    """

    def __init__(self, source, with_head: bool = True):
        super().__init__()
        self.stem = ConvBN(3, source.stem.filters, 3)
        self.units = nn.ModuleList(ShuffleUnit(unit) for unit in source.units)
        self.head = nn.Conv2d(*source.head.kernel.shape[2:], 3, padding=1) if with_head else None
        with torch.no_grad():
            self._copy_weights(source)
        self.to(DEVICE, memory_format=torch.channels_last)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] to the imitated map [B, C, H / 16, W / 16]."""
        x = functional.max_pool2d(self.stem(images), 3, 2, ceil_mode=True)
        for unit in self.units:
            x = unit(x)
        return x

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The imitated map and the predictions [B, 72, H / 16, W / 16]; no dropout."""
        features = self.features(images)
        return features, self.head(features)

    def fold(self) -> None:
        """The batch normalisation of a network that is not trained."""
        for module in list(self.modules()):
            if isinstance(module, ConvBN):
                module.fold()

    def _copy_weights(self, source) -> None:
        copies = [(source.stem, self.stem)]
        for unit, copy in zip(source.units, self.units, strict=True):
            copies += [(getattr(unit, n), getattr(copy, n)) for n in ("conv1", "dconv", "conv2")]
        for layer, copy in copies:
            copy.conv.weight.copy_(_kernel(layer.kernel, layer.depthwise))
            norm, groups = layer.norm, layer.shuffle_groups
            copy.bn.weight.copy_(_unshuffled(norm.gamma, groups))
            copy.bn.bias.copy_(_unshuffled(norm.beta, groups))
            copy.bn.running_mean.copy_(_unshuffled(norm.moving_mean, groups))
            copy.bn.running_var.copy_(_unshuffled(norm.moving_variance, groups))
        if self.head is not None:
            self.head.weight.copy_(_kernel(source.head.kernel))
            self.head.bias.copy_(torch.from_numpy(source.head.bias))


def _kernel(kernel: np.ndarray, depthwise: bool = False) -> torch.Tensor:
    """[k, k, in, out] to [out, in, k, k]; depthwise [k, k, C, 1] to [C, 1, k, k]."""
    axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(axes)))


def _unshuffled(vector: np.ndarray, groups: int) -> torch.Tensor:
    """Our batch norms stand behind the shuffle, these in front of it."""
    return torch.from_numpy(np.ascontiguousarray(vector.reshape(-1, groups).T.ravel()))


def detection_losses(
    predictions: torch.Tensor,
    targets: dict[str, torch.Tensor],
    anchors: torch.Tensor,
    size: tuple[int, int],
    reference,
) -> dict[str, torch.Tensor]:
    """The losses of ``fgfi_tf.models.shuffledet.losses`` for one device.

    Args:
        predictions: [B, 72, h, w].
        targets: as ``ShuffleDet.prepare_batch`` gives them.
        anchors: [A, 4] (cx, cy, w, h).
        size: (height, width) of the input.
        reference: that module's constants.
    """
    batch, shapes = predictions.shape[0], 9
    flat = predictions.permute(0, 2, 3, 1)
    logits, confidence, deltas = torch.split(flat, [shapes * 3, shapes, shapes * 4], dim=-1)
    logits = logits.reshape(batch, -1, 3)
    confidence = torch.sigmoid(confidence.reshape(batch, -1))
    deltas = deltas.reshape(batch, -1, 4)
    valid = targets["valid"]
    image, row = torch.nonzero(valid, as_tuple=True)  # P objects
    index = targets["anchor_index"][image, row]
    objects = max(len(image), 1)

    p = torch.softmax(logits[image, index], dim=-1)  # P x 3
    y = functional.one_hot(targets["classes"][image, row], 3).float()
    eps = reference.LOG_EPSILON
    entropy = -(y * torch.log(p + eps) + (1 - y) * torch.log((1 - p).clamp_min(eps)))
    box_error = (deltas[image, index] - targets["deltas"][image, row]) ** 2
    with torch.no_grad():
        decoded = _decode(deltas[image, index], anchors[index], *size)
        iou = _iou(decoded, targets["boxes"][image, row])
    assigned = confidence[image, index]
    on_object = ((iou - assigned) ** 2).sum()
    elsewhere = (confidence**2).sum() - (assigned**2).sum()
    # As ``losses.confidence_divisors`` says, for the objects of at most so many images.
    share = min(batch, reference.IMAGES_PER_GPU)
    background = max(len(anchors) - len(image) * share / batch, 0.5 * len(anchors))
    weighted = reference.CONFIDENCE_WEIGHT_OBJECT * on_object / (objects * share)
    weighted += reference.CONFIDENCE_WEIGHT_BACKGROUND * elsewhere / (background * batch)
    return {
        "class_loss": reference.CLASS_WEIGHT * entropy.sum() / objects,
        "confidence_loss": weighted,
        "box_loss": reference.BOX_WEIGHT * box_error.sum() / objects,
    }


def _decode(deltas: torch.Tensor, anchors: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Clipped corners; the last row and column are height - 1 and width - 1, a width has the + 1."""
    centre = anchors[:, :2] + deltas[:, :2] * anchors[:, 2:]
    slope = float(np.exp(1.0))
    scale = torch.where(deltas[:, 2:] > 1.0, slope * deltas[:, 2:], deltas[:, 2:].clamp_max(1.0).exp())
    half = 0.5 * anchors[:, 2:] * scale
    limit = constant([width - 1.0, height - 1.0], like=deltas)
    first = torch.minimum((centre - half).clamp_min(0.0), limit)
    last = torch.minimum((centre + half).clamp_min(0.0), limit)
    return torch.cat([first, last + 1.0], dim=1)


def _iou(corners: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    first, last = boxes[:, :2] - 0.5 * boxes[:, 2:], boxes[:, :2] + 0.5 * boxes[:, 2:]
    inside = (torch.minimum(last, corners[:, 2:]) - torch.maximum(first, corners[:, :2])).clamp_min(0.0)
    intersection = inside.prod(dim=1)
    area = (corners[:, 2:] - corners[:, :2]).prod(dim=1)
    return intersection / (area + boxes[:, 2:].prod(dim=1) - intersection)


class TorchImitationStep(TorchStep):
    """The training step of a student, imitating where a teacher is given.

    Args:
        student, teacher: snapshots of our detectors.
        imitation: one of our layer. None with ``teacher`` None.
        batch: one batch of numpy arrays, ``targets`` included; its images preprocessed.
        as_ours: whether the teacher is folded and the adaptation computed in the mask alone.
        autocast: what the networks compute in, such as ``"bfloat16"``, losses stay float32; empty: float32.
        compiled: whether both networks go through ``torch.compile``.
    """

    def __init__(
        self, student, teacher, imitation, batch: dict, *, as_ours=False, autocast: str = "", compiled=False
    ):
        self.autocast = getattr(torch, autocast) if autocast else None
        self.student = TorchShuffleDet(student).train()
        self.size, self.decay, self.reference = (
            student.input_size,
            student.weight_decay,
            student.loss_constants,
        )
        self.teacher = None
        parameters = list(self.student.parameters())
        if teacher is not None:
            self.teacher = TorchShuffleDet(teacher, with_head=False).eval().requires_grad_(False)
            if as_ours:
                self.teacher.fold()
            parameters += self.start_imitation(imitation, student, batch, in_mask=as_ours)
        self.anchors = to_device(student.anchors)
        self.optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)
        self.images = to_images(batch["image"])
        targets = {k: to_device(v) for k, v in batch["targets"].items()}
        self.targets = {**targets, "classes": targets["classes"].long()}
        if compiled:
            self.student = torch.compile(self.student)
            if self.teacher is not None:
                self.teacher.features = torch.compile(self.teacher.features)

    def losses(self) -> dict[str, torch.Tensor]:
        """Every term of the loss, named as in ``Distiller.losses_of``."""
        with self._precision():
            features, predictions = (x.float() for x in self.student(self.images))
        terms = detection_losses(predictions, self.targets, self.anchors, self.size, self.reference)
        terms["weight_decay"] = 0.5 * self.decay * (self.student.head.weight**2).sum()
        if self.teacher is not None:
            with torch.no_grad(), self._precision():
                teacher = self.teacher.features(self.images).float()
            terms["imitation_loss"] = self.imitation_loss(features, teacher)
        return terms

    def _precision(self):
        dtype = self.autocast or torch.float32
        return torch.autocast(DEVICE.type, dtype=dtype, enabled=self.autocast is not None)

    def losses_and_gradients(self) -> tuple[dict[str, float], dict[str, np.ndarray | None]]:
        """Each term, and the gradients of the first kernel and the adaptation's in our layout.

        The weights and moving statistics are left as they were.
        """
        state = {name: value.clone() for name, value in self.student.state_dict().items()}
        terms = self.losses()
        sum(terms.values()).backward()
        kernels = {"stem": self.student.stem.conv, "adaptation": self.adaptation}
        gradients = {
            name: None if conv is None else to_numpy(conv.weight.grad).transpose(2, 3, 1, 0)
            for name, conv in kernels.items()
        }
        self.student.load_state_dict(state)
        self.optimizer.zero_grad(set_to_none=True)
        return {name: float(value.detach()) for name, value in terms.items()}, gradients
