"""ShuffleDet and its imitation step as one would write them in PyTorch: what the benchmark compares with.

Grouped convolutions, a real channel shuffle and batch normalisation as modules, the adaptation
everywhere on the map as the 2019 code has it, tensors in channels_last. Needs torch; nothing of
fgfi_tf imports this module.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmark.torch_device import DEVICE, constant, to_device, to_numpy
from benchmark.workload import LEARNING_RATE, MOMENTUM
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.shuffledet import losses as reference
from fgfi_tf.models.shuffledet.model import ShuffleDet
from fgfi_tf.models.shuffledet.network import VARIANTS, ShuffleBackbone

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


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channel g * n + j goes to j * groups + g."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width).contiguous(memory_format=torch.channels_last)


class ShuffleUnit(nn.Module):
    """See ``fgfi_tf.models.shuffledet.layers.ShuffleUnit``."""

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
        source: not in folded form.
        with_head: whether the predicting convolution is there (a teacher needs none).
    """

    def __init__(self, source: ShuffleDet, with_head: bool = True):
        super().__init__()
        backbone: ShuffleBackbone = source.backbone
        self.stem = ConvBN(3, VARIANTS[source.variant].stem_channels, 3)
        self.units = nn.ModuleList(ShuffleUnit(unit) for unit in backbone.units)
        channels = source.feature_channels[0]
        self.head = nn.Conv2d(channels, source.head.filters, 3, padding=1) if with_head else None
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

    def _copy_weights(self, source: ShuffleDet) -> None:
        copies = [(source.backbone.stem, self.stem)]
        for unit, copy in zip(source.backbone.units, self.units, strict=True):
            copies += [(getattr(unit, n), getattr(copy, n)) for n in ("conv1", "dconv", "conv2")]
        for layer, copy in copies:
            copy.conv.weight.copy_(_kernel(layer.kernel.numpy(), layer.depthwise))
            norm, groups = layer.norm, layer.shuffle_groups
            copy.bn.weight.copy_(_unshuffled(norm.gamma, groups))
            copy.bn.bias.copy_(_unshuffled(norm.beta, groups))
            copy.bn.running_mean.copy_(_unshuffled(norm.moving_mean, groups))
            copy.bn.running_var.copy_(_unshuffled(norm.moving_variance, groups))
        if self.head is not None:
            self.head.weight.copy_(_kernel(source.head.kernel.numpy()))
            self.head.bias.copy_(torch.from_numpy(source.head.bias.numpy()))


def _kernel(kernel: np.ndarray, depthwise: bool = False) -> torch.Tensor:
    """[k, k, in, out] to [out, in, k, k]; depthwise [k, k, C, 1] to [C, 1, k, k]."""
    axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(axes)))


def _unshuffled(vector, groups: int) -> torch.Tensor:
    """Our batch norms stand behind the shuffle, these in front of it."""
    return torch.from_numpy(np.ascontiguousarray(vector.numpy().reshape(-1, groups).T.ravel()))


def detection_losses(
    predictions: torch.Tensor, targets: dict[str, torch.Tensor], anchors: torch.Tensor, size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """The losses of ``fgfi_tf.models.shuffledet.losses`` for one device.

    Args:
        predictions: [B, 72, h, w].
        targets: as ``ShuffleDet.prepare_batch`` gives them.
        anchors: [A, 4] (cx, cy, w, h).
        size: (height, width) of the input.
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


class TorchStep:
    """An update from the subclass's ``losses()``, a dict of scalars, by its ``optimizer``."""

    def step(self) -> float:
        """One update; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self.losses().values())
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class TorchImitationStep(TorchStep):
    """The training step of a student, imitating where a teacher is given.

    Args:
        student, teacher: our detectors (not folded), whose weights are copied.
        imitation: our layer, whose adaptation is copied. None with ``teacher`` None.
        batch: one batch of numpy arrays, ``targets`` included.
        autocast: what the networks compute in, losses stay float32; None for float32 throughout.
    """

    def __init__(self, student, teacher, imitation, batch: dict, *, autocast=None):
        self.autocast = autocast
        self.student = TorchShuffleDet(student).train()
        self.size, self.decay = student.input_size, student.weight_decay
        self.teacher, self.adaptation = None, None
        parameters = list(self.student.parameters())
        if teacher is not None:
            self.teacher = TorchShuffleDet(teacher, with_head=False).eval()
            self.adaptation = adaptation_of(imitation)
            self.psi, self.normalization = imitation.psi, imitation.normalization
            self.mask_anchors = to_device(student.imitation_anchors(*self.size)[0])
            parameters += list(self.adaptation.parameters())
        self.anchors = to_device(student.anchors.reshape(-1, 4))
        self.optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)
        self.images = to_torch_images(student, batch["image"])
        self.batch = {k: to_device(batch[k]) for k in ("boxes", "valid")}
        targets = {k: to_device(v) for k, v in batch["targets"].items()}
        self.targets = {**targets, "classes": targets["classes"].long()}

    def losses(self) -> dict[str, torch.Tensor]:
        """Every term of the loss, named as in ``Distiller.losses_of``."""
        with self._precision():
            features, predictions = (x.float() for x in self.student(self.images))
        terms = detection_losses(predictions, self.targets, self.anchors, self.size)
        terms["weight_decay"] = 0.5 * self.decay * (self.student.head.weight**2).sum()
        if self.teacher is not None:
            with torch.no_grad(), self._precision():
                teacher = self.teacher.features(self.images).float()
            boxes = self.batch["boxes"] + constant([0.0, 0.0, 1.0, 1.0], like=self.batch["boxes"])
            mask = imitation_mask(self.mask_anchors, boxes, self.batch["valid"], self.psi)[:, None]
            adapted = functional.relu(self.adaptation(features))
            error = ((adapted - teacher) ** 2 * mask).sum()
            terms["imitation_loss"] = error / (self.normalization * mask.sum().clamp_min(1))
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


def compiled(step: TorchImitationStep) -> TorchImitationStep:
    """The same with both networks compiled."""
    step.student = torch.compile(step.student)
    if step.teacher is not None:
        step.teacher.features = torch.compile(step.teacher.features)
    return step


def adaptation_of(imitation) -> nn.Conv2d:
    """A copy of the layer's only adaptation."""
    kernel = imitation.kernels[0].numpy()
    convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], kernel.shape[0], padding=kernel.shape[0] // 2)
    with torch.no_grad():
        convolution.weight.copy_(_kernel(kernel))
        convolution.bias.copy_(torch.from_numpy(imitation.biases[0].numpy()))
    return convolution.to(DEVICE, memory_format=torch.channels_last)


def to_torch_images(detector: Detector, images: np.ndarray) -> torch.Tensor:
    """RGB images [B, H, W, 3] to preprocessed [B, 3, H, W] in channels_last."""
    preprocessed = to_device(detector.preprocess(images))
    return preprocessed.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
