"""VGG Faster R-CNN, one file per part (Ren et al. 2015, as the imitation paper trained it)."""

from fgfi_tf.models.faster_rcnn.config import FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.model import FasterRCNN
from fgfi_tf.models.faster_rcnn.variants import VARIANTS, build

__all__ = ["VARIANTS", "FasterRCNN", "FasterRCNNConfig", "build"]
