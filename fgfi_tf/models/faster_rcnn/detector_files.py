"""Trained detectors of other programs: torchvision's FPN, and the 2019 code's on ResNets (.pth)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tf_keras as keras
from absl import logging

from fgfi_tf.errors import UserError
from fgfi_tf.interop import assignment
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.models import builtin
from fgfi_tf.models.backbones import resnet_weights
from fgfi_tf.models.backbones.norm_conv import EPSILON
from fgfi_tf.models.backbones.resnet import ResNet
from fgfi_tf.models.backbones.resnet_weights import Targets

if TYPE_CHECKING:
    from fgfi_tf.models.faster_rcnn.families import NormedFasterRCNN

# Parts of the ResNet in the 2019 code's files, by their places in its two sequences.
_REFERENCE_PARTS = {"conv1": "RCNN_base.0", "bn1": "RCNN_base.1", "layer4": "RCNN_top.0"} | {
    f"layer{number}": f"RCNN_base.{number + 3}" for number in (1, 2, 3)
}
# torchvision wrapped single convolutions into sequences later on: earlier names, and what is put into them.
_UNWRAPPED = {
    re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"): r"\1.0.\2",
    re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"): r"\1.0.0.\2",
}
_ADAPTATION = "stu_feature_adap."
# torchvision computes the batch norm of this file, and of no other, without epsilon (its overwrite_eps).
_WITHOUT_EPSILON = "fasterrcnn_resnet50_fpn_coco-258fb6c6"


def is_detector(path: Path | str) -> bool:
    """Whether a readable PyTorch file is of a detector. Raises UserError as reading does."""
    return any(key.startswith(("roi_heads.", "RCNN_")) for key in read_pth(path))


def load(detector: NormedFasterRCNN, path: Path | str, any_classes: bool = False) -> None:
    """All weights of a trained detector.

    torchvision's files of COCO have 91 classes, of which 80 exist: a detector of these 80 takes them.

    Args:
        detector: to fill: an FPN on a ResNet takes torchvision's files, a C4 of the reference's convention
            the 2019 code's.
        path: the file.
        any_classes: a file of another number of classes is loaded without its last layers, and said so.

    Raises:
        UserError: the file is unreadable, of another network or style, or of other classes. Nothing is
            changed then.
    """
    config, arrays = detector.config, read_pth(path)
    network = config.backbone
    if config.has_c5_head and config.convention != "torchvision":
        what, style = f"the 2019 code's {network} Faster R-CNN", "caffe"
        targets = reference_targets(detector)
    elif config.neck == "fpn" and isinstance(detector.trunk, ResNet):
        what, style = f"torchvision's {network} FPN", "torchvision"
        targets = torchvision_targets(detector)
        for pattern, wrapped in _UNWRAPPED.items():
            arrays = {pattern.sub(wrapped, key): value for key, value in arrays.items()}
        if Path(path).name.startswith(_WITHOUT_EPSILON):
            arrays = without_epsilon(arrays)
    else:
        raise UserError(f"{path}: there are no files of trained detectors for {detector.name}")
    predictors = [
        key for key in targets if re.search(r"cls_score|bbox_pred", key) and "rpn" not in key.lower()
    ]
    if not any(key in arrays for key in predictors):
        raise UserError(f"{path}: not {what}: it lacks {', '.join(predictors)}")
    resnet_weights.check_style(path, style, config.resnet_style)
    scores = next(key for key in predictors if "cls_score.weight" in key)
    theirs, ours = len(arrays.get(scores, ())), 1 + len(config.class_names)
    of_coco = (theirs, config.class_names) == (1 + builtin.COCO_IDS[-1], builtin.COCO_CLASSES)
    if of_coco:
        arrays = _existing_classes(arrays, predictors)
    elif theirs != ours and any_classes:
        logging.warning(
            "%s: %d classes, here %d: all but the last layers is loaded", path, theirs - 1, ours - 1
        )
        targets = {key: value for key, value in targets.items() if key not in predictors}
        arrays = {key: value for key, value in arrays.items() if key not in predictors}
    resnet_weights.fill(targets, arrays, path, what, _has_no_place)


def without_epsilon(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Variances from which batch norm with its own epsilon computes what it would without any."""
    return {
        key: value - np.float32(EPSILON) if key.endswith(".running_var") else value
        for key, value in arrays.items()
    }


def _has_no_place(key: str) -> bool:
    return key.endswith(".num_batches_tracked") or key.startswith(_ADAPTATION)


def _existing_classes(arrays: dict[str, np.ndarray], predictors: list[str]) -> dict[str, np.ndarray]:
    """Of scores and deltas of 91 classes those of background and the 80 that there are."""
    rows = np.array([0, *builtin.COCO_IDS])
    deltas = (4 * rows[:, None] + np.arange(4)).ravel()
    return arrays | {
        key: arrays[key][rows if "cls_score" in key else deltas] for key in predictors if key in arrays
    }


def _linear(layer: keras.layers.Layer, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Targets:
    return {
        f"{name}.weight": (layer.kernel, change),
        f"{name}.bias": (layer.bias, resnet_weights.same),
    }


def torchvision_targets(detector: NormedFasterRCNN) -> Targets:
    """The variables of an FPN by the keys of torchvision's state dict."""
    convolution, dense = assignment.from_torch_convolution, assignment.from_torch_dense
    targets = resnet_weights.targets_of(detector.trunk.convolutions(), "backbone.body.{}".format)
    for name, layers in (("inner", detector.base.inner), ("layer", detector.base.outer)):
        for index, layer in enumerate(layers):
            targets |= _linear(layer, f"backbone.fpn.{name}_blocks.{index}.0", convolution)
    rpn, head, size = detector.rpn, detector.head, detector.config.pooled_size
    targets |= _linear(rpn.conv, "rpn.head.conv.0.0", convolution)
    targets |= _linear(rpn.scores, "rpn.head.cls_logits", convolution)
    targets |= _linear(rpn.deltas, "rpn.head.bbox_pred", convolution)
    targets |= _linear(
        head.fc6, "roi_heads.box_head.fc6", lambda kernel: assignment.from_torch_flattened(kernel, size)
    )
    targets |= _linear(head.fc7, "roi_heads.box_head.fc7", dense)
    targets |= _linear(head.scores, "roi_heads.box_predictor.cls_score", dense)
    return targets | _linear(head.deltas, "roi_heads.box_predictor.bbox_pred", dense)


def reference_targets(detector: NormedFasterRCNN) -> Targets:
    """The variables of a C4 by the keys of the 2019 code's files."""

    def key(name: str) -> str:
        part, *rest = name.split(".")
        return ".".join([_REFERENCE_PARTS[part], *rest])

    convolution, dense = assignment.from_torch_convolution, assignment.from_torch_dense
    convolutions = detector.trunk.convolutions() | detector.head.stage.convolutions()
    targets = resnet_weights.targets_of(convolutions, key)
    targets |= _linear(detector.rpn.conv, "RCNN_rpn.RPN_Conv", convolution)
    targets |= _linear(detector.rpn.scores, "RCNN_rpn.RPN_cls_score", convolution)
    targets |= _linear(detector.rpn.deltas, "RCNN_rpn.RPN_bbox_pred", convolution)
    targets |= _linear(detector.head.scores, "RCNN_cls_score", dense)
    return targets | _linear(detector.head.deltas, "RCNN_bbox_pred", dense)
