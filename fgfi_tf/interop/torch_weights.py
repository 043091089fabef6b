"""PyTorch weights: checkpoints of the reference's Faster R-CNN, and ImageNet VGG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.interop import vgg_layers
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.interop.vgg_layers import RGB_MEANS, Source
from fgfi_tf.models.backbones.vgg import LAYOUTS
from fgfi_tf.models.faster_rcnn import FasterRCNN

PIXELS = ("caffe", "torchvision")
ADAPTATION = "stu_feature_adap.0"
# torchvision's normalisation of RGB in 0..1
_TORCHVISION_MEAN = np.array([0.485, 0.456, 0.406])
_TORCHVISION_STD = np.array([0.229, 0.224, 0.225])


def load_reference_checkpoint(
    detector: FasterRCNN, path: str | Path, imitation: ImitationLoss | None = None
) -> None:
    """Loads ``faster_rcnn_<session>_<epoch>_<step>.pth`` of the reference project.

    Args:
        detector: of the same backbone, at full width and with 20 classes.
        path: the file, in PyTorch's old or new format.
        imitation: also given the student's adaptation layer, which only VGG11 files hold.

    Raises:
        UserError: the file cannot be read, or lacks weights (they are named), has others
            than the detector, or another shape. Nothing is changed then.
    """
    arrays = read_pth(path)
    what = f"a reference {detector.config.backbone} Faster R-CNN"
    sources = _reference_sources(detector)
    known = {key for source in sources for key in (source.kernel, source.bias)}
    known |= {f"{ADAPTATION}.weight", f"{ADAPTATION}.bias"}
    lacking = {source.kernel for source in sources} - set(arrays)
    others = sorted(set(arrays) - known)
    if others and not lacking:
        raise UserError(f"{path}: not {what}: it also holds {', '.join(others[:8])}")
    vgg_layers.assign(sources, arrays, path, what)
    if imitation is not None:
        _load_adaptation(imitation, arrays, path)


def load_imagenet(detector: FasterRCNN, path: str | Path, pixels: str = "caffe") -> None:
    """Starts base, fc6 and fc7 from a VGG classifier with torchvision's key names.

    Args:
        detector: of the same VGG, at full width.
        path: the file.
        pixels: what the file was trained on: ``"caffe"`` for BGR, 0..255, minus the means; ``"torchvision"``
            for RGB, 0..1, normalised, which is folded into the first convolution.

    Raises:
        UserError: as :func:`load_reference_checkpoint`, or ``pixels`` is unknown.
    """
    if pixels not in PIXELS:
        raise UserError(f"pixels {pixels!r} is unknown: choose one of {', '.join(PIXELS)}")
    arrays = read_pth(path)
    fc6, fc7 = vgg_layers.box_layers(detector)
    sources = [
        *_base_sources(detector, "features"),
        _source(fc6, "classifier.0", vgg_layers.from_torch_fc6),
        _source(fc7, "classifier.3", vgg_layers.from_torch_dense),
    ]
    if pixels == "torchvision":
        key = "features.0.weight"
        if key in arrays and arrays[key].ndim == 4:
            arrays[key] = arrays[key][:, ::-1]  # RGB to BGR
    vgg_layers.assign(sources, arrays, path, f"an ImageNet {detector.config.backbone}")
    if pixels == "torchvision":
        scale = 1.0 / (255.0 * _TORCHVISION_STD)
        shift = (RGB_MEANS / 255.0 - _TORCHVISION_MEAN) / _TORCHVISION_STD
        vgg_layers.fold_preprocessing(detector, scale[::-1], shift[::-1])


def is_reference_checkpoint(path: str | Path) -> bool:
    """Whether a readable PyTorch file holds the reference's key names. Raises UserError as reading does."""
    return any(key.startswith("RCNN_") for key in read_pth(path))


def _source(layer, name: str, convert) -> Source:
    return Source(layer, f"{name}.weight", f"{name}.bias", convert)


def _base_sources(detector: FasterRCNN, prefix: str) -> list[Source]:
    """The base's convolutions; keys count modules: two (with its ReLU) a convolution, one a pool."""
    sources, index, layers = [], 0, iter(detector.base.convolutions)
    for stage in LAYOUTS[detector.config.backbone].stages:
        for _ in stage:
            sources.append(_source(next(layers), f"{prefix}.{index}", vgg_layers.from_torch_convolution))
            index += 2
        index += 1
    return sources


def _reference_sources(detector: FasterRCNN) -> list[Source]:
    convolution, dense = vgg_layers.from_torch_convolution, vgg_layers.from_torch_dense
    fc6, fc7 = vgg_layers.box_layers(detector)
    return [
        _source(detector.rpn.conv, "RCNN_rpn.RPN_Conv", convolution),
        _source(detector.rpn.scores, "RCNN_rpn.RPN_cls_score", convolution),
        _source(detector.rpn.deltas, "RCNN_rpn.RPN_bbox_pred", convolution),
        *_base_sources(detector, "RCNN_base"),
        _source(fc6, "RCNN_top.0", vgg_layers.from_torch_fc6),
        _source(fc7, "RCNN_top.3", dense),
        _source(detector.head.scores, "RCNN_cls_score", dense),
        _source(detector.head.deltas, "RCNN_bbox_pred", dense),
    ]


def _load_adaptation(imitation: ImitationLoss, arrays: dict[str, np.ndarray], path: str | Path) -> None:
    keys = [f"{ADAPTATION}.weight", f"{ADAPTATION}.bias"]
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise UserError(f"{path}: holds no adaptation layer: it lacks {', '.join(missing)}")
    kernel = vgg_layers.convert(arrays[keys[0]], vgg_layers.from_torch_convolution)
    bias = arrays[keys[1]]
    shapes = [tuple(v.shape) for v in (*imitation.kernels, *imitation.biases)]
    if shapes != [kernel.shape, bias.shape]:
        raise UserError(
            f"{path}: its adaptation layer {kernel.shape} does not fit the imitation layer {shapes}"
        )
    vgg_layers.check_numbers(dict(zip(keys, (kernel, bias), strict=True)), path)
    imitation.kernels[0].assign(kernel)
    imitation.biases[0].assign(bias)
