"""What PyTorch's side is told of ours: plain numbers and numpy arrays, under the names that ours have."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np

from benchmark.torch_process import TorchObject, TorchProcess
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.faster_rcnn import FasterRCNN
from fgfi_tf.models.faster_rcnn.head import POOLED_SIZE
from fgfi_tf.models.shuffledet import ShuffleDet, losses
from fgfi_tf.models.yolov2 import YOLOv2


def shuffledet(detector: ShuffleDet) -> SimpleNamespace:
    """A detector that is not in folded form."""
    units = [
        SimpleNamespace(
            strides=unit.strides,
            shortcut=unit.shortcut,
            **{name: _conv_bn(getattr(unit, name)) for name in ("conv1", "dconv", "conv2")},
        )
        for unit in detector.backbone.units
    ]
    constants = {name: value for name, value in vars(losses).items() if name.isupper()}
    return SimpleNamespace(
        stem=_conv_bn(detector.backbone.stem),
        units=units,
        head=_biased(detector.head),
        input_size=detector.input_size,
        weight_decay=detector.weight_decay,
        anchors=np.reshape(detector.anchors, [-1, 4]),
        imitation_anchors=np.asarray(detector.imitation_anchors(*detector.input_size)[0]),
        loss_constants=SimpleNamespace(**constants),
    )


def faster_rcnn(detector: FasterRCNN, size: tuple[int, int]) -> SimpleNamespace:
    """A detector, with its anchors for images of ``size`` (height, width)."""
    (level,) = detector.levels
    cells = [side // level.stride for side in size]
    return SimpleNamespace(
        config=SimpleNamespace(**dataclasses.asdict(detector.config)),
        stages=[[_biased(layer) for layer in stage] for stage in detector.base.stages],
        rpn=[_biased(layer) for layer in (detector.rpn.conv, detector.rpn.scores, detector.rpn.deltas)],
        head={name: _biased(getattr(detector.head, name)) for name in ("fc6", "fc7", "scores", "deltas")},
        dropout=detector.head.dropout,
        pooled_size=POOLED_SIZE,
        size=size,
        anchors=np.reshape(level.anchors(*cells), [-1, 4]),
        imitation_anchors=np.asarray(detector.imitation_anchors(*size)[0]),
    )


def yolov2(detector: YOLOv2) -> SimpleNamespace:
    """A detector that is not in folded form."""
    network = detector.network
    return SimpleNamespace(
        trunk=[None if layer is None else _conv_bn(layer) for layer in network.trunk],
        head=[_conv_bn(layer) for layer in network.head],
        passthrough=_conv_bn(network.passthrough),
        last=_conv_bn(network.last),
        predict=_biased(network.predict),
        weight_decay=detector.weight_decay,
        anchors=detector.anchors.astype(np.float32),
        imitation_anchors=np.asarray(detector.imitation_anchors(*detector.input_size)[0]),
    )


def imitation(layer: ImitationLoss | None) -> SimpleNamespace | None:
    """A layer of one level."""
    if layer is None:
        return None
    return SimpleNamespace(
        kernel=layer.kernels[0].numpy(),
        bias=layer.biases[0].numpy(),
        psi=layer.psi,
        normalization=layer.normalization,
    )


def _conv_bn(layer) -> SimpleNamespace:
    norm = {
        name: getattr(layer.norm, name).numpy()
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    return SimpleNamespace(
        kernel=layer.kernel.numpy(),
        groups=layer.groups,
        filters=layer.filters,
        depthwise=layer.depthwise,
        shuffle_groups=layer.shuffle_groups,
        norm=SimpleNamespace(**norm),
    )


def _biased(layer) -> SimpleNamespace:
    return SimpleNamespace(kernel=layer.kernel.numpy(), bias=layer.bias.numpy(), trainable=layer.trainable)


def shuffledet_step(torch: TorchProcess, student, teacher, layer, batch: dict, **options) -> TorchObject:
    """A ``torch_shuffledet.TorchImitationStep`` with the weights of ours; teacher and layer may be None."""
    sources = (shuffledet(student), None if teacher is None else shuffledet(teacher), imitation(layer))
    return torch.make(
        "torch_shuffledet.TorchImitationStep", *sources, preprocessed(student, batch), **options
    )


def faster_rcnn_step(torch: TorchProcess, student, teacher, layer, batch: dict, **options) -> TorchObject:
    """A ``torch_faster_rcnn.TorchFasterRCNNStep`` with the weights of ours; teacher and layer may be None."""
    size = batch["image"].shape[1:3]
    sources = [None if detector is None else faster_rcnn(detector, size) for detector in (student, teacher)]
    batch = preprocessed(student, batch)
    return torch.make("torch_faster_rcnn.TorchFasterRCNNStep", *sources, imitation(layer), batch, **options)


def preprocessed(detector: Detector, batch: dict) -> dict:
    """The batch, its images as the detector's network takes them, channels last."""
    return {**batch, "image": np.asarray(detector.preprocess(batch["image"]))}
