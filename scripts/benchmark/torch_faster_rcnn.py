"""Faster R-CNN with a VGG base and its training step as one would write them in PyTorch.

channels_last, weights copied from a snapshot of our network, image by image where images differ.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmark import torch_boxes
from benchmark.options import LEARNING_RATE, MOMENTUM
from benchmark.torch_device import DEVICE, constant, to_device, to_images, to_numpy
from benchmark.torch_step import TorchStep

DELTA_STDS = (0.1, 0.1, 0.2, 0.2)


class TorchFasterRCNN(nn.Module):
    """A copy of one of our networks, weights included.

    Args:
        source: a snapshot of it, for images of one size.
        with_head: whether RPN and box head are there (a teacher needs none).
    """

    def __init__(self, source, with_head: bool = True):
        super().__init__()
        self.config = source.config
        self.stages = nn.ModuleList(nn.ModuleList(map(_convolution, stage)) for stage in source.stages)
        if with_head:
            self.rpn = nn.ModuleList(map(_convolution, source.rpn))
            self.head = nn.ModuleDict({name: _dense(layer) for name, layer in source.head.items()})
            kernel = source.head["fc6"].kernel
            shape = (source.pooled_size, source.pooled_size, source.stages[-1][-1].bias.size, -1)
            kernel = kernel.reshape(shape)  # 7 x 7 x C x units to C x 7 x 7
            kernel = kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[-1], -1)
            with torch.no_grad():
                self.head["fc6"].weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        self.dropout = source.dropout
        self.anchors = to_device(source.anchors)  # (h w 9) x 4, inclusive corners
        self.to(DEVICE, memory_format=torch.channels_last)

    def base(self, images: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W] to features [B,C,H // 16,W // 16]."""
        x = images
        for number, stage in enumerate(self.stages):
            if number:
                x = functional.max_pool2d(x, 2, 2)
            for layer in stage:
                x = functional.relu(layer(x), inplace=True)
        return x

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, RPN scores [B,h,w,18] and deltas [B,h,w,36]."""
        features = self.base(images)
        convolution, scores, deltas = self.rpn
        hidden = functional.relu(convolution(features), inplace=True)
        return features, scores(hidden).permute(0, 2, 3, 1), deltas(hidden).permute(0, 2, 3, 1)

    def propose(self, scores, deltas, size, pre_nms: int, post_nms: int) -> list[torch.Tensor]:
        """For each image the boxes [N,4] that survive suppression, best first."""
        found = []
        for image_scores, image_deltas in zip(scores.detach(), deltas.detach(), strict=True):
            background, foreground = image_scores.chunk(2, dim=-1)
            probability = torch.sigmoid(foreground - background).reshape(-1)
            best = torch.topk(probability, min(pre_nms, len(probability))).indices
            boxes = torch_boxes.decode(self.anchors[best], image_deltas.reshape(-1, 4)[best], *size)
            found.append(boxes[torch_boxes.nms(boxes, self.config.rpn_nms_iou, post_nms)])
        return found

    def classify(self, features: torch.Tensor, rois: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Class scores and deltas of every image's RoIs, one after the other."""
        pooled = torch.cat([torch_boxes.roi_align(f, r) for f, r in zip(features, rois, strict=True)])
        hidden = pooled.flatten(1)
        for name in ("fc6", "fc7"):
            hidden = functional.relu(self.head[name](hidden), inplace=True)
            hidden = functional.dropout(hidden, self.dropout, self.training)
        return self.head["scores"](hidden), self.head["deltas"](hidden)

    def detect(self, features, scores, deltas, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Final detections as ``FasterRCNN.detect`` gives them for images that were not resized."""
        config = self.config
        rois = self.propose(scores, deltas, size, config.test_pre_nms, config.test_post_nms)
        class_scores, class_deltas = self.classify(features, rois)
        counts = [len(r) for r in rois]
        pairs = zip(class_scores.softmax(dim=1).split(counts), class_deltas.split(counts), rois, strict=True)
        found = [self._best(*pair, size) for pair in pairs]
        return {key: np.stack([image[key] for image in found]) for key in found[0]}

    def _best(self, probability, deltas, rois, size) -> dict[str, np.ndarray]:
        """Suppression within each class: classes are moved apart and suppressed together."""
        config, classes = self.config, probability.shape[1] - 1
        scores = probability[:, 1:].reshape(-1)
        deltas = deltas.view(len(rois), -1, 4)[:, 1:] * constant(DELTA_STDS, like=deltas)
        boxes = torch_boxes.decode(rois[:, None], deltas, *size).view(-1, 4)
        order = torch.argsort(scores, descending=True, stable=True)
        order = order[scores[order] > config.score_threshold]
        label = order % classes
        apart = boxes[order] + (label * (max(size) + 2.0))[:, None]
        order = order[torch_boxes.nms(apart, config.detection_nms_iou, config.max_detections)]
        count, room = len(order), config.max_detections
        return {
            "boxes": to_numpy(functional.pad(boxes[order], (0, 0, 0, room - count))),
            "scores": to_numpy(functional.pad(scores[order], (0, room - count))),
            "classes": to_numpy(functional.pad(order % classes, (0, room - count))),
            "count": np.array(count),
        }


def _convolution(layer) -> nn.Conv2d:
    kernel = layer.kernel
    conv = nn.Conv2d(kernel.shape[2], kernel.shape[3], kernel.shape[0], padding=kernel.shape[0] // 2)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))))
        conv.bias.copy_(torch.from_numpy(layer.bias))
    return conv.requires_grad_(layer.trainable)


def _dense(layer) -> nn.Linear:
    linear = nn.Linear(*layer.kernel.shape)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(layer.kernel.T)))
        linear.bias.copy_(torch.from_numpy(layer.bias))
    return linear


class TorchFasterRCNNStep(TorchStep):
    """The training step of a student, imitating where a teacher is given.

    Args:
        student, teacher: snapshots of our detectors.
        imitation: one of our layer. None with ``teacher`` None.
        batch: one batch of numpy arrays whose pictures, preprocessed, fill the input.
        as_ours: whether the adaptation is computed in the mask alone.
    """

    def __init__(self, student, teacher, imitation, batch: dict, *, as_ours: bool = False):
        self.student = TorchFasterRCNN(student).train()
        self.size, self.anchors = student.size, self.student.anchors
        self.images = to_images(batch["image"])
        self.boxes = [to_device(b[v]) for b, v in zip(batch["boxes"], batch["valid"], strict=True)]
        self.classes = [to_device(c[v]).long() for c, v in zip(batch["classes"], batch["valid"], strict=True)]
        self.teacher = None
        self._proposal_seconds: list[float] = []  # of each step
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        if teacher is not None:
            self.teacher = TorchFasterRCNN(teacher, with_head=False).eval().requires_grad_(False)
            parameters += self.start_imitation(imitation, student, batch, in_mask=as_ours)
        self.optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)

    def proposal_seconds(self) -> list[float]:
        """What the proposals took of each step."""
        return self._proposal_seconds

    def set_dropout(self, rate: float) -> None:
        """Of the box head."""
        self.student.dropout = rate

    def outputs(self) -> tuple[np.ndarray, ...]:
        """Features, RPN scores and deltas, channels last."""
        with torch.no_grad():
            features, *others = self.student(self.images)
        return tuple(to_numpy(x) for x in (features.permute(0, 2, 3, 1), *others))

    def proposals(self, scores: np.ndarray, deltas: np.ndarray) -> list[np.ndarray]:
        """Those of training, of RPN outputs that are given."""
        config = self.student.config
        counts = config.train_pre_nms, config.train_post_nms
        found = self.student.propose(to_device(scores), to_device(deltas), self.size, *counts)
        return [to_numpy(boxes) for boxes in found]

    def sample(self, proposals: list[torch.Tensor], random: list[dict] | None = None) -> dict:
        """Anchor labels and deltas, RoIs with labels and deltas, for each image.

        Args:
            proposals: of each image.
            random: for each image ``anchors`` [A], ``rois`` [N + M] and ``draws`` [R], uniform in [0, 1);
                None for new ones.
        """
        config, samples = self.student.config, {"anchors": [], "rois": []}
        quota = int(config.roi_batch * config.roi_foreground)
        for index, (regions, boxes, classes) in enumerate(
            zip(proposals, self.boxes, self.classes, strict=True)
        ):
            drawn = (
                random[index]
                if random
                else {
                    "anchors": torch.rand(len(self.anchors), device=DEVICE),
                    "rois": torch.rand(len(regions) + len(boxes), device=DEVICE),
                    "draws": torch.rand(config.roi_batch, device=DEVICE),
                }
            )
            labels, deltas = torch_boxes.assign_anchors(self.anchors, boxes, *self.size)
            labels = torch_boxes.sample_anchors(labels, drawn["anchors"], config.rpn_batch)
            samples["anchors"].append((labels, deltas))
            samples["rois"].append(
                torch_boxes.sample_rois(regions, boxes, classes, drawn["rois"], drawn["draws"], quota)
            )
        return samples

    def losses(self, samples: dict | None = None) -> dict[str, torch.Tensor]:
        """Every term of the loss, named as in ``Distiller.losses_of``; ``samples`` are of ``sample``."""
        student, config = self.student, self.student.config
        features, scores, deltas = student(self.images)
        if samples is None:
            start = time.perf_counter()
            regions = student.propose(scores, deltas, self.size, config.train_pre_nms, config.train_post_nms)
            self._proposal_seconds.append(time.perf_counter() - start)
            samples = self.sample(regions)
        rois, roi_labels, roi_deltas = zip(*samples["rois"], strict=True)
        class_scores, class_deltas = student.classify(features, list(rois))
        terms = _rpn_losses(scores, deltas, samples["anchors"])
        terms |= _rcnn_losses(class_scores, class_deltas, torch.cat(roi_labels), torch.cat(roi_deltas))
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self.teacher.base(self.images)
            terms["imitation_loss"] = self.imitation_loss(features, teacher)
        return terms

    def losses_and_gradients(
        self, proposals: list[np.ndarray], random: list[dict]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Each term, and some gradients in our layout, for given proposals and random numbers.

        They are as in ``sample``, of numpy; nothing is updated.
        """
        drawn = [{name: to_device(value) for name, value in image.items()} for image in random]
        terms = self.losses(self.sample([to_device(boxes) for boxes in proposals], drawn))
        sum(terms.values()).backward()
        layers = {"first": next(m for s in self.student.stages for m in s if m.weight.requires_grad)}
        if self.adaptation is not None:
            layers["adaptation"] = self.adaptation
        gradients = {name: to_numpy(m.weight.grad).transpose(2, 3, 1, 0) for name, m in layers.items()}
        gradients["fc7"] = to_numpy(self.student.head["fc7"].weight.grad).T
        gradients = {name: value.copy() for name, value in gradients.items()}
        self.optimizer.zero_grad(set_to_none=True)
        return {name: float(value.detach()) for name, value in terms.items()}, gradients


def _rpn_losses(scores: torch.Tensor, deltas: torch.Tensor, anchors: list) -> dict[str, torch.Tensor]:
    labels = torch.stack([row for row, _ in anchors])  # B x A
    targets = torch.stack([row for _, row in anchors])  # B x A x 4
    background, foreground = scores.chunk(2, dim=-1)
    margin = (foreground - background).reshape(labels.shape)
    used = labels >= 0
    entropy = functional.binary_cross_entropy_with_logits(margin[used], (labels[used] == 1).float())
    positive = labels == 1
    difference = deltas.reshape(targets.shape)[positive] - targets[positive]
    share = (1.0 / used.sum(dim=1).clamp_min(1))[torch.nonzero(positive)[:, 0]]
    box = (_smooth_l1(difference, 3.0).sum(dim=1) * share).sum() / len(labels)
    return {"rpn_class": entropy, "rpn_box": box}


def _rcnn_losses(scores, deltas, labels, targets) -> dict[str, torch.Tensor]:
    rows = torch.nonzero(labels > 0)[:, 0]
    own = deltas.view(len(labels), -1, 4)[rows, labels[rows]]
    box = _smooth_l1(own - targets[rows], 1.0).sum() / len(labels)
    return {"rcnn_class": functional.cross_entropy(scores, labels), "rcnn_box": box}


def _smooth_l1(difference: torch.Tensor, sigma: float) -> torch.Tensor:
    zero = torch.zeros_like(difference)
    return functional.smooth_l1_loss(difference, zero, beta=1.0 / sigma**2, reduction="none")
