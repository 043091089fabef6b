"""SSD: default boxes, matching, losses, detections (pure parts; the detector comes with its backbones)."""
