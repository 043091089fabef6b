"""YOLOv2: network, coding, region loss (pure parts; the detector comes with the resize policies)."""
