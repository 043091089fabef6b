"""YOLOv2 (Redmon & Farhadi, CVPR 2017), the detector of the WIDER FACE experiments."""
