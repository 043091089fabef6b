"""ShuffleDet, the detector of the KITTI experiments, and its head on pretrained backbones."""

from fgfi_tf.models.shuffledet.model import ShuffleDet
from fgfi_tf.models.shuffledet.pretrained import BackboneShuffleDet
from fgfi_tf.models.shuffledet.single_map import SingleMapDetector

__all__ = ["BackboneShuffleDet", "ShuffleDet", "SingleMapDetector"]
