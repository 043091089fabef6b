"""SSD300: network, default boxes, matching, losses, detections, weights of other programs."""

from fgfi_tf.models.ssd.model import SSD
from fgfi_tf.models.ssd.pretrained import BackboneSSD, ResNetSSD

__all__ = ["SSD", "BackboneSSD", "ResNetSSD"]
