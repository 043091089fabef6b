"""Single-file weights of other frameworks (.pth, .h5), told apart and loaded into the detector they fit.

The one place that knows which file belongs to which kind of detector.
"""

from __future__ import annotations

import re
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.interop import imagenet, keras_weights, torch_weights
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.faster_rcnn import FasterRCNN
from fgfi_tf.models.shuffledet import BackboneShuffleDet

TORCH_SUFFIXES = (".pth", ".pt")
KERAS_SUFFIXES = (".h5", ".hdf5")
# torchvision's own file names, such as vgg16-397923af.pth
_TORCHVISION_NAME = re.compile(r"vgg\d+(_bn)?-[0-9a-f]{8}")


def is_weight_file(path: str | Path) -> bool:
    """Whether a path's name is that of a weight file of another framework."""
    return Path(path).suffix.lower() in TORCH_SUFFIXES + KERAS_SUFFIXES


def load_detector_weights(detector: Detector, path: str | Path) -> None:
    """All weights of a trained detector.

    Raises:
        UserError: the file is of another kind of detector, of a backbone alone, unreadable or incomplete.
    """
    if isinstance(detector, BackboneShuffleDet):
        raise UserError(f"{path}: holds ImageNet weights, not a trained detector")
    _check_kind(detector, path)
    if Path(path).suffix.lower() in KERAS_SUFFIXES:
        raise UserError(f"{path}: holds ImageNet weights, not a trained detector")
    torch_weights.load_reference_checkpoint(detector, path)


def load_initial_weights(detector: Detector, path: str | Path, pixels: str = "auto") -> None:
    """Those of a trained detector, or the ImageNet weights that it starts from.

    Args:
        detector: to fill.
        path: the file.
        pixels: of an ImageNet .pth file, see ``torch_weights.load_imagenet``; ``"auto"``: by its name.

    Raises:
        UserError: as :func:`load_detector_weights`, or the name does not tell the pixels.
    """
    if isinstance(detector, BackboneShuffleDet):
        imagenet.load(detector, path)
        return
    _check_kind(detector, path)
    if Path(path).suffix.lower() in KERAS_SUFFIXES:
        keras_weights.load_imagenet(detector, path)
    elif torch_weights.is_reference_checkpoint(path):
        torch_weights.load_reference_checkpoint(detector, path)
    else:
        torch_weights.load_imagenet(detector, path, pixels if pixels != "auto" else _pixels(Path(path)))


def _check_kind(detector: Detector, path: str | Path) -> None:
    if not isinstance(detector, FasterRCNN):
        raise UserError(f"{path}: {detector.name} has no weights in files of this kind")
    if detector.config.width != 1 and Path(path).is_file():
        raise UserError(
            f"{path}: holds a network of full width; --width={detector.config.width:g} cannot start from it"
        )


def _pixels(path: Path) -> str:
    if "caffe" in path.name.lower():
        return "caffe"
    if _TORCHVISION_NAME.match(path.name):
        return "torchvision"
    raise UserError(
        f"{path}: an ImageNet file whose name does not say on which pixels it was trained: pass "
        "--init_pixels=caffe or --init_pixels=torchvision"
    )
