"""Weights of other programs: the reference's Faster R-CNN (.pth), and ImageNet VGGs (.pth, .h5)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from fgfi_tf.errors import UserError
from fgfi_tf.interop import assignment
from fgfi_tf.interop.assignment import Source
from fgfi_tf.interop.h5 import read_h5
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.interop.weight_files import is_h5, is_pth
from fgfi_tf.models.backbones import vgg_weights
from fgfi_tf.models.faster_rcnn.head import POOLED_SIZE
from fgfi_tf.models.pixels import CAFFE

if TYPE_CHECKING:
    from fgfi_tf.models.faster_rcnn.model import FasterRCNN

CLASSIFIER = ("fc1", "fc2")
PIXELS = tuple(vgg_weights.PIXELS)
ADAPTATION = "stu_feature_adap.0"


class Adaptation(Protocol):
    """What an imitation layer has of a student's adaptation, by level."""

    kernels: list[tf.Variable]
    biases: list[tf.Variable]


def load_trained(detector: FasterRCNN, path: str | Path) -> bool:
    """All weights of a trained detector, from a ``.pth`` file; False for what is no weight file of ours.

    Raises:
        UserError: the file is of a classifier alone, unreadable or incomplete; the detector is not of full
            width.
    """
    if not (is_h5(path) or is_pth(path)):
        return False
    vgg_weights.check_width(detector.config.width, path)
    if is_h5(path):
        raise UserError(f"{path}: holds ImageNet weights, not a trained detector")
    load_reference_checkpoint(detector, path)
    return True


def load_pretrained(detector: FasterRCNN, path: str | Path, pixels: str = "auto") -> bool:
    """Those of a trained detector, or ImageNet weights to start from; False as :func:`load_trained`.

    Args:
        detector: to fill.
        path: the file.
        pixels: of an ImageNet .pth file, see :func:`load_imagenet`; ``"auto"``: by its name.

    Raises:
        UserError: the file is unreadable or incomplete, or its name does not tell the pixels; the detector is
            not of full width.
    """
    if not (is_h5(path) or is_pth(path)):
        return False
    vgg_weights.check_width(detector.config.width, path)
    if is_h5(path):
        load_keras_imagenet(detector, path)
    elif is_reference_checkpoint(path):
        load_reference_checkpoint(detector, path)
    else:
        load_imagenet(detector, path, pixels if pixels != "auto" else vgg_weights.pixels_by_name(Path(path)))
    return True


def load_reference_checkpoint(
    detector: FasterRCNN, path: str | Path, imitation: Adaptation | None = None
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
    assignment.assign(sources, arrays, path, what)
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
    fc6, fc7 = box_layers(detector)
    sources = [
        *vgg_weights.torch_sources(detector.base, "features."),
        _source(fc6, "classifier.0", _from_torch_fc6),
        _source(fc7, "classifier.3", assignment.from_torch_dense),
    ]
    assignment.assign(sources, arrays, path, f"an ImageNet {detector.config.backbone}")
    vgg_weights.fold_pixels(detector.base, vgg_weights.PIXELS[pixels], detector.base.pixels)


def load_keras_imagenet(detector: FasterRCNN, path: str | Path) -> None:
    """Starts base, fc6 and fc7 from ``vgg16_weights_tf_dim_ordering_tf_kernels.h5`` or a model saved whole.

    A file that ends with the convolutions (``..._notop.h5``) leaves fc6 and fc7 as they are and says so.

    Raises:
        UserError: the detector is no VGG16; the file cannot be read or lacks layers (they are named).
    """
    vgg_weights.check_keras(detector.config.backbone, path)
    arrays = read_h5(Path(path))
    has_classifier = any(key.split("/")[0] in (*CLASSIFIER, "predictions") for key in arrays)
    sources = vgg_weights.keras_sources(detector.base)
    if has_classifier:
        sources += [
            Source(layer, f"{name}/kernel", f"{name}/bias", lambda kernel: kernel)
            for name, layer in zip(CLASSIFIER, box_layers(detector), strict=True)
        ]
    assignment.assign(sources, arrays, path, "a keras.applications VGG16")
    vgg_weights.fold_pixels(detector.base, CAFFE, detector.base.pixels)
    if not has_classifier:
        logging.warning(
            "%s: has no classifier (%s): the convolutions are loaded, fc6 and fc7 start at random",
            path,
            ", ".join(CLASSIFIER),
        )


def is_reference_checkpoint(path: str | Path) -> bool:
    """Whether a readable PyTorch file holds the reference's key names. Raises UserError as reading does."""
    return any(key.startswith("RCNN_") for key in read_pth(path))


def _source(layer, name: str, convert) -> Source:
    return Source(layer, f"{name}.weight", f"{name}.bias", convert)


def _reference_sources(detector: FasterRCNN) -> list[Source]:
    convolution, dense = assignment.from_torch_convolution, assignment.from_torch_dense
    fc6, fc7 = box_layers(detector)
    return [
        _source(detector.rpn.conv, "RCNN_rpn.RPN_Conv", convolution),
        _source(detector.rpn.scores, "RCNN_rpn.RPN_cls_score", convolution),
        _source(detector.rpn.deltas, "RCNN_rpn.RPN_bbox_pred", convolution),
        *vgg_weights.torch_sources(detector.base, "RCNN_base."),
        _source(fc6, "RCNN_top.0", _from_torch_fc6),
        _source(fc7, "RCNN_top.3", dense),
        _source(detector.head.scores, "RCNN_cls_score", dense),
        _source(detector.head.deltas, "RCNN_bbox_pred", dense),
    ]


def _load_adaptation(imitation: Adaptation, arrays: dict[str, np.ndarray], path: str | Path) -> None:
    keys = [f"{ADAPTATION}.weight", f"{ADAPTATION}.bias"]
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise UserError(f"{path}: holds no adaptation layer: it lacks {', '.join(missing)}")
    kernel = assignment.convert(arrays[keys[0]], assignment.from_torch_convolution)
    bias = arrays[keys[1]]
    shapes = [tuple(v.shape) for v in (*imitation.kernels, *imitation.biases)]
    if shapes != [kernel.shape, bias.shape]:
        raise UserError(
            f"{path}: its adaptation layer {kernel.shape} does not fit the imitation layer {shapes}"
        )
    assignment.check_numbers(dict(zip(keys, (kernel, bias), strict=True)), path)
    imitation.kernels[0].assign(kernel)
    imitation.biases[0].assign(bias)


def _from_torch_fc6(kernel: np.ndarray) -> np.ndarray:
    return assignment.from_torch_flattened(kernel, POOLED_SIZE)


def box_layers(detector: FasterRCNN) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """fc6 and fc7."""
    return detector.head.fc6, detector.head.fc7
