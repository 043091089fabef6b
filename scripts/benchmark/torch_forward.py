"""Forward passes and parts in PyTorch: the cases ``inference``, ``frcnn_inference`` and ``frcnn_parts``."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmark import torch_boxes
from benchmark.torch_device import DEVICE, to_device, to_images, to_numpy
from benchmark.torch_faster_rcnn import TorchFasterRCNN
from benchmark.torch_shuffledet import TorchShuffleDet
from benchmark.torch_yolov2 import TorchYOLOv2


class NetworkForms:
    """A one-stage network's predictions [B,h,w,C] in every form it can be run in.

    Attributes:
        network: the class that is made of a snapshot.

    Args:
        source: a snapshot.
        images: preprocessed, [B,H,W,3].
        with_compile: also by ``torch.compile``.
    """

    network: type[torch.nn.Module]

    def __init__(self, source, images: np.ndarray, with_compile: bool):
        model, inputs = self.network(source).eval(), to_images(images)

        def caller(network) -> Callable[[], np.ndarray]:
            def run() -> np.ndarray:
                with torch.inference_mode():
                    return to_numpy(network(inputs)[1].permute(0, 2, 3, 1))

            return run

        with torch.inference_mode():
            frozen = torch.jit.freeze(torch.jit.trace(model, inputs))
        self._forms = {"PyTorch": caller(model), "PyTorch, traced and frozen": caller(frozen)}
        if with_compile:
            self._forms["torch.compile"] = caller(torch.compile(model))
        if DEVICE.type == "cpu" and all(
            importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript")
        ):
            self._forms["onnxruntime"] = _onnx(model, inputs)

    def names(self) -> list[str]:
        """The forms."""
        return list(self._forms)

    def run(self, name: str) -> np.ndarray:
        """The predictions of a form."""
        return self._forms[name]()


class ShuffleDetForms(NetworkForms):
    """ShuffleDet's, C = 72."""

    network = TorchShuffleDet


class YOLOv2Forms(NetworkForms):
    """YOLOv2's."""

    network = TorchYOLOv2


def _onnx(model, inputs) -> Callable[[], np.ndarray]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.onnx")
        names = {"input_names": ["images"], "output_names": ["features", "predictions"]}
        torch.onnx.export(model, (inputs,), path, **names)
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    feed = {"images": inputs.contiguous().numpy()}
    return lambda: session.run(["predictions"], feed)[0].transpose(0, 2, 3, 1)


class FasterRCNNInference:
    """Detections of Faster R-CNN from preprocessed images [B,H,W,3]; ``source`` is a snapshot."""

    def __init__(self, source, images: np.ndarray):
        self._network, self._images, self._size = (
            TorchFasterRCNN(source).eval(),
            to_images(images),
            source.size,
        )

    def run(self) -> dict[str, np.ndarray]:
        """As ``FasterRCNN.detect`` gives them for images that were not resized."""
        with torch.inference_mode():
            return self._network.detect(*self._network(self._images), self._size)


class Pooling:
    """RoIAlign of features [B,h,w,C] and rois [B,R,4]."""

    def __init__(self, features: np.ndarray, rois: np.ndarray):
        self._features = to_device(features).permute(0, 3, 1, 2).requires_grad_(True)
        self._rois = to_device(rois)

    def forward(self) -> torch.Tensor:
        """[B R,C,7,7]."""
        pairs = zip(self._features, self._rois, strict=True)
        return torch.cat([torch_boxes.roi_align(features, rois) for features, rois in pairs])

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """What it gives, [B R,7,7,C], and the gradient of its sum, of the features' shape."""
        pooled = self.forward()
        gradient = torch.autograd.grad(pooled, self._features, torch.ones_like(pooled))[0]
        return to_numpy(pooled.permute(0, 2, 3, 1)), to_numpy(gradient.permute(0, 2, 3, 1))


class FasterRCNNParts:
    """What the step does besides convolutions and pooling.

    Args:
        source: a snapshot.
        outputs: ``rpn_scores`` and ``rpn_deltas``.
        boxes: those of each image, [M,4].
    """

    def __init__(self, source, outputs: dict, boxes: list[np.ndarray]):
        self._network, self._size, self._boxes = TorchFasterRCNN(source), source.size, boxes
        self._scores, self._deltas = (to_device(outputs[name]) for name in ("rpn_scores", "rpn_deltas"))

    def proposals(self) -> None:
        """Those of training."""
        config = self._network.config
        counts = config.train_pre_nms, config.train_post_nms
        self._network.propose(self._scores, self._deltas, self._size, *counts)

    def assign(self) -> None:
        """Anchor targets."""
        for boxes in self._boxes:
            torch_boxes.assign_anchors(self._network.anchors, to_device(boxes), *self._size)
