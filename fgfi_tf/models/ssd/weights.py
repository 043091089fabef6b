"""Weights of other programs into SSD: torchvision's detector, and VGGs to start from (.pth, .h5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from fgfi_tf.errors import UserError
from fgfi_tf.interop import assignment
from fgfi_tf.interop.assignment import Source
from fgfi_tf.interop.h5 import read_h5
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.interop.weight_files import is_h5, is_pth
from fgfi_tf.models import builtin
from fgfi_tf.models.backbones import vgg_weights
from fgfi_tf.models.pixels import CAFFE

if TYPE_CHECKING:
    from fgfi_tf.models.ssd.model import SSD

TORCHVISION = "torchvision"  # of default_boxes.KINDS
SCALE = "backbone.scale_weight"
_CLASSES = "head.classification_head.module_list."
# Of the classifier's fully connected layers, 4096 each, every fourth output is taken; of the 7 x 7 places of
# the first every third.
_KEPT, _PLACES, _POOLED = 4, 3, 7


def load_trained(detector: SSD, path: str | Path) -> bool:
    """torchvision's state dict, and its default boxes; False for what is no weight file of another program.

    Raises:
        UserError: the file is of a classifier, unreadable, incomplete, of another width or number of classes.
    """
    if not (is_h5(path) or is_pth(path)):
        return False
    if is_h5(path):
        raise UserError(f"{path}: holds ImageNet weights, not a trained detector")
    load_state(detector, read_pth(path), path)
    detector.take_default_boxes(TORCHVISION)
    return True


def load_pretrained(detector: SSD, path: Path, pixels: str = "auto") -> bool:
    """That, without its classes where they are others; or a classifier. False as :func:`load_trained`.

    Args:
        detector: to fill.
        path: the file: torchvision's detector; ``vgg16_reducedfc.pth``; a VGG with torchvision's keys, or of
            keras.applications.
        pixels: on which a VGG with torchvision's keys was trained, a key of ``vgg_weights.PIXELS``;
            ``"auto"``: by its name.

    Raises:
        UserError: the file is unreadable or incomplete, or its name does not tell the pixels; a classifier,
            and the detector is not of full width.
    """
    if not (is_h5(path) or is_pth(path)):
        return False
    arrays = read_h5(path) if is_h5(path) else read_pth(path)
    if any(key.startswith("backbone.") for key in arrays):
        load_state(detector, arrays, path, any_classes=True)
        if detector.box_kind != TORCHVISION:
            logging.warning("%s: was trained with --default_boxes=%s", path, TORCHVISION)
        return True
    vgg_weights.check_width(detector.width, path)
    _load_classifier(detector, arrays, path, pixels)
    return True


def load_state(
    detector: SSD, arrays: Mapping[str, np.ndarray], path: object, any_classes: bool = False
) -> None:
    """All weights of torchvision's ``ssd300_vgg16``, or of the like with VGG11 or other widths.

    Of its 91 classes on COCO, which 80 numbers name, a detector of those 80 takes its own.

    Args:
        detector: to fill.
        arrays: by torchvision's names.
        path: the file, for messages.
        any_classes: leave the classes' predictions as they are where the file has another number of classes.

    Raises:
        UserError: keys are missing or too many, a shape does not fit, or numbers are none. Nothing is changed
            then.
    """
    what = f"a state dict of {detector.variant}"
    sources, predictions = _state_sources(detector), _class_sources(detector)
    arrays, fitting = _of_classes(detector, arrays, path, any_classes)
    if fitting:
        sources += predictions
    known = {SCALE, *(key for source in sources for key in (source.kernel, source.bias))}
    if others := sorted(set(arrays) - known):
        raise UserError(f"{path}: not {what}: it also holds {', '.join(others[:8])}")
    norm = detector.backbone.norm
    if SCALE not in arrays:
        raise UserError(f"{path}: not {what}: it lacks {SCALE}")
    if arrays[SCALE].shape != tuple(norm.scale.shape):
        raise UserError(
            f"{path}: not {what}: {SCALE} is {arrays[SCALE].shape}, here {tuple(norm.scale.shape)}"
        )
    assignment.check_numbers({SCALE: arrays[SCALE]}, path)
    assignment.assign(sources, arrays, path, what)
    norm.scale.assign(arrays[SCALE].astype(np.float32))


def _of_classes(
    detector: SSD, arrays: Mapping[str, np.ndarray], path: object, any_classes: bool
) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays with predictions of the detector's classes; of others, without them and False."""
    first = arrays.get(f"{_CLASSES}0.weight")
    boxes = detector.heads.offsets[0].filters // 4
    ours = len(detector.class_names) + 1
    theirs = ours if first is None or first.ndim != 4 else len(first) // boxes
    if theirs == ours:
        return dict(arrays), True
    if theirs == builtin.COCO_IDS[-1] + 1 and detector.class_names == builtin.COCO_CLASSES:
        chosen = [0, *builtin.COCO_IDS]
        predictions = {key: _rows(value, theirs, chosen) for key, value in arrays.items() if _CLASSES in key}
        return {**arrays, **predictions}, True
    if not any_classes:
        raise UserError(f"{path}: detects {theirs - 1} classes, not {ours - 1}")
    logging.warning("%s: of %d classes: all but their predictions is loaded", path, theirs - 1)
    return {key: value for key, value in arrays.items() if _CLASSES not in key}, False


def _rows(array: np.ndarray, classes: int, chosen: list[int]) -> np.ndarray:
    """Of [K * classes, ...] the rows of the ``chosen`` classes of each of K boxes."""
    return array.reshape(-1, classes, *array.shape[1:])[:, chosen].reshape(-1, *array.shape[1:])


def _state_sources(detector: SSD) -> list[Source]:
    trunk = detector.backbone
    # Modules count as in the classifier up to conv4; conv5, behind its pool, is part of the first block.
    last = len(trunk.vgg.stages[-1])
    sources = vgg_weights.torch_sources(trunk.vgg, "backbone.features.")[:-last]
    names = {f"backbone.extra.0.{1 + 2 * i}": layer for i, layer in enumerate(trunk.vgg.stages[-1])}
    block = f"backbone.extra.0.{1 + 2 * last}"
    names |= {f"{block}.1": trunk.fc6, f"{block}.3": trunk.fc7}
    for number, (narrow, wide) in enumerate(trunk.extras, start=1):
        names |= {f"backbone.extra.{number}.0": narrow, f"backbone.extra.{number}.2": wide}
    for level, layer in enumerate(detector.heads.offsets):
        names[f"head.regression_head.module_list.{level}"] = layer
    return sources + _torch(names)


def _class_sources(detector: SSD) -> list[Source]:
    return _torch({f"{_CLASSES}{level}": layer for level, layer in enumerate(detector.heads.logits)})


def _torch(names: Mapping[str, object]) -> list[Source]:
    convert = assignment.from_torch_convolution
    return [Source(layer, f"{name}.weight", f"{name}.bias", convert) for name, layer in names.items()]


def _load_classifier(detector: SSD, arrays: Mapping[str, np.ndarray], path: Path, pixels: str) -> None:
    """VGG's convolutions, and fc6 and fc7 where the file has them."""
    trunk = detector.backbone
    kind, given = trunk.vgg.kind, trunk.pixels
    reduced = "31.weight" in arrays and kind == "vgg16"
    if is_h5(path):
        vgg_weights.check_keras(kind, path)
        sources, trained = vgg_weights.keras_sources(trunk.vgg), CAFFE
        fully = {}
    elif reduced:
        # The file of the published Caffe network, as PyTorch's ports have it, on SSD's own pixels.
        sources, trained = vgg_weights.torch_sources(trunk.vgg, ""), given
        fully = {"31": trunk.fc6, "33": trunk.fc7}
    else:
        sources = vgg_weights.torch_sources(trunk.vgg, "features.")
        own = pixels == "auto" and "amdegroot" in path.name
        name = pixels if pixels != "auto" or own else vgg_weights.pixels_by_name(path)
        trained = given if own else vgg_weights.PIXELS[name]
        fully = {}
        if _has_numbers(arrays, ("classifier.0", "classifier.3")):
            width = arrays["classifier.0.weight"].shape[-1]
            if width % _POOLED**2 or arrays["classifier.3.weight"].ndim != 2:
                raise UserError(f"{path}: not an ImageNet {kind}: classifier.0 takes {width} values")
            arrays = {**arrays, **_decimated(arrays)}
            fully = {"classifier.0": trunk.fc6, "classifier.3": trunk.fc7}
    assignment.assign([*sources, *_torch(fully)], arrays, path, f"an ImageNet {kind}")
    vgg_weights.fold_pixels(trunk.vgg, trained, given)
    if not fully:
        logging.warning("%s: the convolutions are loaded, fc6 and fc7 start at random", path)


def _has_numbers(arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> bool:
    """Whether fully connected layers of full size are there; torchvision's VGG for SSD has NaN in them."""
    keys = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    return all(key in arrays and np.isfinite(arrays[key]).all() for key in keys)


def _decimated(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """fc6 and fc7 of a classifier as convolutions of a quarter of the outputs, 3 x 3 and 1 x 1.

    Of the 7 x 7 places every third remains, six pixels apart after the dilation (Liu et al., section 3; Chen
    et al. 2015).
    """
    fc6, fc7 = arrays["classifier.0.weight"], arrays["classifier.3.weight"]
    fc6 = fc6.reshape(len(fc6), -1, _POOLED, _POOLED)[::_KEPT, :, ::_PLACES, ::_PLACES]
    return {
        "classifier.0.weight": fc6,
        "classifier.0.bias": arrays["classifier.0.bias"][::_KEPT],
        "classifier.3.weight": fc7[::_KEPT, ::_KEPT, None, None],
        "classifier.3.bias": arrays["classifier.3.bias"][::_KEPT],
    }
