"""YOLOv2 (Redmon & Farhadi, CVPR 2017), the detector of the WIDER FACE experiments."""

from fgfi_tf.models.yolov2.model import YOLOv2
from fgfi_tf.models.yolov2.pretrained import BackboneYOLOv2

__all__ = ["BackboneYOLOv2", "YOLOv2"]
