"""Faster R-CNNs that are folded for inference: ResNets with C5 as head (C4), and feature pyramids."""

from __future__ import annotations

from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.interop import weight_files
from fgfi_tf.models import builtin
from fgfi_tf.models.backbones import resnet_weights
from fgfi_tf.models.backbones.fpn import FPN
from fgfi_tf.models.backbones.resnet import ResNet
from fgfi_tf.models.declaration import IMAGENET
from fgfi_tf.models.faster_rcnn import detector_files
from fgfi_tf.models.faster_rcnn.model import FasterRCNN


class NormedFasterRCNN(FasterRCNN):
    """What they share: batch norm that inference folds, and the files that they read."""

    @property
    def trunk(self):
        """The backbone itself, without an FPN."""
        return self.base.trunk if isinstance(self.base, FPN) else self.base

    def inference_copy(self) -> FasterRCNN:
        """The same function for inference alone, batch norm multiplied into the kernels."""
        if not self.assembled:
            return self
        copy = type(self)(self.config, self.name, levels=self.levels, roi_levels=self.roi_levels, folded=True)
        copy.base.fold_from(self.base)
        copy.head.fold_from(self.head)
        copy.rpn.set_weights(self.rpn.get_weights())
        copy.metadata, copy.resize = self.metadata, self.resize
        return copy

    def load_trained(self, path: Path) -> bool:
        """A trained detector's ``.pth``: torchvision's, or the 2019 code's; see ``detector_files``."""
        if not weight_files.is_weight_file(path):
            return False
        if weight_files.is_h5(path):
            raise UserError(f"{path}: holds ImageNet weights, not a trained detector")
        detector_files.load(self, path)
        return True

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """That, of other classes as well, without its last layers then; or a backbone's ImageNet weights."""
        if str(path) != IMAGENET and not weight_files.is_weight_file(path):
            return False
        if weight_files.is_pth(path) and detector_files.is_detector(path):
            detector_files.load(self, path, any_classes=True)
        elif not isinstance(self.trunk, ResNet):
            self.trunk.load_pretrained(path, pixels)
        else:
            convolutions = self.trunk.convolutions()
            if self.config.has_c5_head:
                convolutions |= self.head.stage.convolutions()
            resnet_weights.load(convolutions, path, self.config.backbone, self.config.resnet_style, pixels)
        return True


class ResNetFasterRCNN(NormedFasterRCNN):
    """A ResNet's C4 as the one map, its C5 as the head (He et al. 2016)."""

    declaration = builtin.FASTER_RCNN_C4


class PyramidFasterRCNN(NormedFasterRCNN):
    """Levels of strides 4 to 64 on a ResNet, torchvision's layout (Lin et al. 2017)."""

    declaration = builtin.FASTER_RCNN_FPN


class BackboneFasterRCNN(NormedFasterRCNN):
    """A feature pyramid, or its level of stride 16 alone, on any other backbone that ImageNet has trained."""

    declaration = builtin.BACKBONE_FASTER_RCNN


class KerasFasterRCNN(BackboneFasterRCNN):
    """The same on a backbone of ``keras.applications``, whose padding is that of even sizes."""

    input_multiple = 32


class VGGPyramidFasterRCNN(NormedFasterRCNN):
    """Levels of strides 4 to 64 on a VGG: conv3_x, conv4_x, conv5_x, the pool behind it, and one more.

    A ResNet's C2 to C5 have these strides; VGG's conv2_x, of stride 2, is none of them. What is behind the
    pyramid, targets and losses are :class:`PyramidFasterRCNN`'s.
    """

    declaration = builtin.VGG_FASTER_RCNN_FPN
