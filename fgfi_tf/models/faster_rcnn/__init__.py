"""Faster R-CNN on any backbone, one file per part (Ren et al. 2015; Lin et al. 2017)."""

from fgfi_tf.models.faster_rcnn.config import FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.families import (
    BackboneFasterRCNN,
    KerasFasterRCNN,
    PyramidFasterRCNN,
    ResNetFasterRCNN,
    VGGPyramidFasterRCNN,
)
from fgfi_tf.models.faster_rcnn.model import FasterRCNN
from fgfi_tf.models.faster_rcnn.variants import VARIANTS, build

__all__ = [
    "VARIANTS",
    "BackboneFasterRCNN",
    "FasterRCNN",
    "FasterRCNNConfig",
    "KerasFasterRCNN",
    "PyramidFasterRCNN",
    "ResNetFasterRCNN",
    "VGGPyramidFasterRCNN",
    "build",
]
