"""A TFLite or ONNX file as something that detects in pictures of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.deploy.card import Card
from fgfi_tf.deploy.runtimes import open_runtime
from fgfi_tf.geometry.suppression import detections


class FileDetector:
    """Detects with an exported file and the card beside it.

    Args:
        path: the file.
        threads: of its runtime; 0: as many as there are cores.

    Raises:
        UserError: the card is missing, or the file cannot be run.
    """

    def __init__(self, path: Path, threads: int = 0):
        self.card = Card.read(path.parent)
        self._run = open_runtime(path, threads)

    def __call__(self, images: np.ndarray | tf.Tensor) -> dict[str, np.ndarray]:
        """Of uint8 [B, H, W, 3], what ``Detector.detect`` gives: boxes in pixels of the images."""
        rule = self.card.suppression
        inputs, scale = network_inputs(self.card, images)
        size = images.shape[1:3]
        found = [detections(*raw, rule, scale, size) for raw in zip(*self._run(inputs), strict=True)]
        padded = {
            "boxes": np.zeros((len(found), rule.max_total, 4), np.float32),
            "scores": np.zeros((len(found), rule.max_total), np.float32),
            "classes": np.zeros((len(found), rule.max_total), np.int32),
        }
        for place, one in enumerate(found):
            for name, values in one.items():
                padded[name][place, : len(values)] = values
        return padded | {"count": np.array([len(one["scores"]) for one in found], np.int32)}


def network_inputs(card: Card, images: np.ndarray | tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [B, H, W, 3] as an exported file takes them, uint8, and their scale (y, x) float32 [2]."""
    made = policies.resize(card.resize)(tf.cast(images, tf.float32), card.input_size)
    inputs = made.image.numpy()  # B x h x w x 3
    height, width = made.content.numpy()
    inputs[:, height:] = card.padding_color
    inputs[:, :, width:] = card.padding_color
    return np.clip(np.rint(inputs), 0, 255).astype(np.uint8), made.scale.numpy()
