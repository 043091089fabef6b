"""ImageNet weights of ``keras.applications`` VGG16 (the h5 file with the classifier)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.interop import vgg_layers
from fgfi_tf.interop.vgg_layers import RGB_MEANS, Source
from fgfi_tf.models.faster_rcnn import FasterRCNN
from fgfi_tf.models.faster_rcnn.backbone import BACKBONES

# what keras.applications subtracts; channels are BGR as ours
_KERAS_RGB_MEANS = np.array([123.68, 116.779, 103.939])


def load_imagenet(detector: FasterRCNN, path: str | Path) -> None:
    """Starts base, fc6 and fc7 from ``vgg16_weights_tf_dim_ordering_tf_kernels.h5`` or a model saved whole.

    Raises:
        UserError: the detector is no VGG16; the file cannot be read or lacks layers (they are named; the file
            without the classifier, ``notop``, lacks fc1 and fc2).
    """
    if detector.config.backbone != "vgg16":
        raise UserError(f"{path}: keras.applications has VGG16 only, not {detector.config.backbone}")
    arrays = _read(Path(path))
    fc6, fc7 = vgg_layers.box_layers(detector)
    names = [
        f"block{stage}_conv{index}"
        for stage, layers in enumerate(BACKBONES["vgg16"].stages, start=1)
        for index in range(1, len(layers) + 1)
    ]
    layers = [*detector.base.convolutions, fc6, fc7]
    sources = [
        Source(layer, f"{name}/kernel", f"{name}/bias", lambda kernel: kernel)
        for layer, name in zip(layers, [*names, "fc1", "fc2"], strict=True)
    ]
    vgg_layers.assign(sources, arrays, path, "a keras.applications VGG16 with classifier")
    vgg_layers.fold_preprocessing(detector, np.ones(3), (RGB_MEANS - _KERAS_RGB_MEANS)[::-1])


def _read(path: Path) -> dict[str, np.ndarray]:
    """``<layer>/kernel`` and ``<layer>/bias`` of every layer, whatever the file calls the arrays."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    arrays: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)

            def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
                if isinstance(item, h5py.Dataset):
                    kind = "bias" if item.ndim == 1 else "kernel"
                    arrays[f"{name.split('/')[0]}/{kind}"] = item[()]

            root.visititems(visit)
    except OSError as error:
        raise UserError(f"{path}: damaged or not an h5 file: {str(error).splitlines()[0]}") from error
    return arrays
