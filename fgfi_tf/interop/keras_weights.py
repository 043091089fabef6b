"""ImageNet weights of ``keras.applications`` VGG16 (its h5 files, with the classifier or without)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from absl import logging

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.interop import vgg_layers
from fgfi_tf.interop.vgg_layers import RGB_MEANS, Source
from fgfi_tf.models.backbones.vgg import LAYOUTS
from fgfi_tf.models.faster_rcnn import FasterRCNN

CLASSIFIER = ("fc1", "fc2")
# what keras.applications subtracts; channels are BGR as ours
_KERAS_RGB_MEANS = np.array([123.68, 116.779, 103.939])
# what h5py raises for damaged files
_DAMAGE = (
    OSError,
    RuntimeError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)
# deflate, which h5 files may use, packs so many bytes into one at most
_MOST_PACKED = 1032


def load_imagenet(detector: FasterRCNN, path: str | Path) -> None:
    """Starts base, fc6 and fc7 from ``vgg16_weights_tf_dim_ordering_tf_kernels.h5`` or a model saved whole.

    A file that ends with the convolutions (``..._notop.h5``) leaves fc6 and fc7 as they are and says so.

    Raises:
        UserError: the detector is no VGG16; the file cannot be read or lacks layers (they are named).
    """
    if detector.config.backbone != "vgg16":
        raise UserError(f"{path}: keras.applications has VGG16 only, not {detector.config.backbone}")
    arrays = _read(Path(path))
    names = [
        f"block{stage}_conv{index}"
        for stage, layers in enumerate(LAYOUTS["vgg16"].stages, start=1)
        for index in range(1, len(layers) + 1)
    ]
    layers = dict(zip(names, detector.base.convolutions, strict=True))
    has_classifier = any(key.split("/")[0] in (*CLASSIFIER, "predictions") for key in arrays)
    if has_classifier:
        layers |= dict(zip(CLASSIFIER, vgg_layers.box_layers(detector), strict=True))
    sources = [
        Source(layer, f"{name}/kernel", f"{name}/bias", lambda kernel: kernel)
        for name, layer in layers.items()
    ]
    vgg_layers.assign(sources, arrays, path, "a keras.applications VGG16")
    vgg_layers.fold_preprocessing(detector, np.ones(3), (RGB_MEANS - _KERAS_RGB_MEANS)[::-1])
    if not has_classifier:
        logging.warning(
            "%s: has no classifier (%s): the convolutions are loaded, fc6 and fc7 start at random",
            path,
            ", ".join(CLASSIFIER),
        )


def _read(path: Path) -> dict[str, np.ndarray]:
    """``<layer>/kernel`` and ``<layer>/bias`` of every layer, whatever the file calls the arrays."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    arrays: dict[str, np.ndarray] = {}
    most = path.stat().st_size * _MOST_PACKED
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)

            def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                    if item.nbytes > most:
                        raise ValueError(f"{name} is larger than the file")
                    kind = "bias" if item.ndim == 1 else "kernel"
                    arrays[f"{name.split('/')[0]}/{kind}"] = item[()]

            root.visititems(visit)
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged or not an h5 file: {first_line(error)}") from error
    return arrays
