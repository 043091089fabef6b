"""torchvision's own SSD300 and Faster R-CNN FPN: training step and inference, on images that are prepared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, backbone_utils, ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from benchmark.options import LEARNING_RATE, MOMENTUM
from benchmark.torch_device import DEVICE, to_device, to_images, to_numpy
from benchmark.torch_step import TorchStep

# Pixels deviate by about this; random weights make no less of them.
PIXEL_DEVIATION = 58.0


class Prepared(nn.Module):
    """In place of torchvision's transform: images [B,3,H,W] are as the network takes them."""

    def forward(self, images: torch.Tensor, targets=None):
        """As torchvision's."""
        return ImageList(images, [tuple(images.shape[-2:])] * len(images)), targets

    def postprocess(self, result, image_shapes, original_image_sizes):
        """Nothing was resized."""
        return result


def version() -> str:
    """Of torchvision."""
    return torchvision.__version__


class Detector(TorchStep):
    """A detector of torchvision with seeded weights, whose scores are as varied as a trained one's.

    Args:
        kind: ``"ssd"`` (SSD300 VGG16) or ``"fpn"`` (ResNet-50, frozen batch norm, stem and C2 not trained).
        classes: without background.
        batch: numpy arrays: ``image`` preprocessed [B,H,W,3], ``boxes`` [B,M,4] inclusive corners,
            ``classes`` [B,M], all of them objects.
        weight_decay: of all weights.
    """

    def __init__(self, kind: str, classes: int, batch: dict, weight_decay: float):
        torch.manual_seed(0)
        self.kind, self.images = kind, to_images(batch["image"])
        if kind == "ssd":
            self.model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=classes + 1)
        else:
            backbone = backbone_utils.resnet_fpn_backbone(
                backbone_name="resnet50", weights=None, trainable_layers=3
            )
            self.model = FasterRCNN(backbone, num_classes=classes + 1)
        self.model.transform = Prepared()
        self.model.to(DEVICE, memory_format=torch.channels_last).train()
        boxes = to_device(batch["boxes"] + np.array([0, 0, 1, 1], np.float32))
        labels = to_device(batch["classes"]).long() + 1
        self.targets = [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]
        with torch.no_grad():
            _calibrate(self.model, self.images, boxes)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            parameters, lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=weight_decay
        )

    def state(self) -> dict[str, np.ndarray]:
        """The state dict."""
        return {name: to_numpy(value).copy() for name, value in self.model.state_dict().items()}

    def losses(self) -> dict[str, torch.Tensor]:
        """Those of torchvision, by its names."""
        return self.model.train()(self.images, self.targets)

    def losses_and_gradient(self, proposals: int) -> tuple[dict[str, float], np.ndarray]:
        """Each loss, and the gradient of a kernel (SSD's first, the RPN's) in our layout; nothing is updated.

        Of an FPN with so few ``proposals`` an image that no sample of regions or anchors leaves one out.
        """
        with self._everything_sampled(proposals):
            terms = self.losses()
        sum(terms.values()).backward()
        kernels = self.model.rpn.head.conv if self.kind == "fpn" else self.model.backbone
        kernel = next(p for p in kernels.parameters() if p.ndim == 4)
        gradient = to_numpy(kernel.grad).transpose(2, 3, 1, 0).copy()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: float(value.detach()) for name, value in terms.items()}, gradient

    @contextlib.contextmanager
    def _everything_sampled(self, proposals: int) -> Iterator[None]:
        if self.kind == "ssd":
            yield
            return
        rpn = self.model.rpn
        before = rpn.fg_bg_sampler.batch_size_per_image, rpn._post_nms_top_n["training"]
        rpn.fg_bg_sampler.batch_size_per_image, rpn._post_nms_top_n["training"] = 10**6, proposals
        yield
        rpn.fg_bg_sampler.batch_size_per_image, rpn._post_nms_top_n["training"] = before

    def run(self) -> dict[str, np.ndarray]:
        """Detections: ``boxes`` [B,K,4] inclusive corners, ``scores``, ``classes`` from 0, ``count``."""
        with torch.inference_mode():
            found = self.model.eval()(self.images)
        room = max(len(image["scores"]) for image in found)
        rows = []
        for image in found:
            scores, order = torch.sort(image["scores"], descending=True, stable=True)
            pad = room - len(order)
            boxes = image["boxes"][order] - torch.tensor([0.0, 0.0, 1.0, 1.0], device=DEVICE)
            rows.append(
                {
                    "boxes": np.pad(to_numpy(boxes), [(0, pad), (0, 0)]),
                    "scores": np.pad(to_numpy(scores), (0, pad)),
                    "classes": np.pad(to_numpy(image["labels"][order]) - 1, (0, pad)),
                    "count": np.array(len(order)),
                }
            )
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _calibrate(model: nn.Module, images: torch.Tensor, boxes: torch.Tensor) -> None:
    """Statistics of frozen batch norms as of these images; last layers whose outputs deviate enough."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    if isinstance(model, FasterRCNN):
        hooks = [
            m.register_forward_pre_hook(_set_statistics)
            for m in model.modules()
            if isinstance(m, FrozenBatchNorm2d)
        ]
        maps = model.backbone(images)
        for hook in hooks:
            hook.remove()
        for outputs, layer, deviation in (
            (model.rpn.head(list(maps.values()))[0], model.rpn.head.cls_logits, 2.0),
            (model.rpn.head(list(maps.values()))[1], model.rpn.head.bbox_pred, 0.3),
        ):
            layer.weight *= deviation / torch.cat([x.flatten() for x in outputs]).std()
        sizes = [tuple(images.shape[-2:])] * len(images)
        pooled = model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, list(boxes), sizes))
        predictor = model.roi_heads.box_predictor
        for outputs, layer, deviation in zip(
            predictor(pooled), (predictor.cls_score, predictor.bbox_pred), (2.0, 1.0), strict=True
        ):
            layer.weight *= deviation / outputs.std()
        return
    first.weight /= PIXEL_DEVIATION
    maps = list(model.backbone(images).values())
    for head, deviation in ((model.head.classification_head, 2.0), (model.head.regression_head, 1.0)):
        for features, layer in zip(maps, head.module_list, strict=True):
            layer.weight *= deviation / layer(features).std()


def _set_statistics(norm: FrozenBatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
    norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))
