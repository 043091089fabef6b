"""Published average precisions, in percent, to show beside measured ones.

T. Wang, L. Yuan, X. Zhang, J. Feng, "Distilling Object Detectors with Fine-grained Feature
Imitation", CVPR 2019, table 1: KITTI, its own validation split, 11 recall positions.
"""

from __future__ import annotations

from fgfi_tf.evaluation.kitti.result import DIFFICULTIES
from fgfi_tf.evaluation.protocol import MEAN

SOURCE = "Wang et al., CVPR 2019 (their training / validation split, AP11)"

# row -> class -> (easy, moderate, hard); "-I": trained with imitation
_CLASSES: dict[str, dict[str, tuple[float, float, float]]] = {
    "1x": {"Car": (85.7, 74.3, 65.8), "Pedestrian": (63.2, 55.6, 50.6), "Cyclist": (69.7, 51.0, 49.1)},
    "0.5x": {"Car": (81.6, 71.7, 61.2), "Pedestrian": (59.4, 52.3, 45.5), "Cyclist": (59.7, 43.5, 42.0)},
    "0.5x-I": {"Car": (84.9, 72.9, 64.1), "Pedestrian": (60.7, 53.3, 47.2), "Cyclist": (69.0, 46.2, 44.9)},
    "0.25x": {"Car": (67.2, 56.6, 47.5), "Pedestrian": (54.7, 48.4, 42.1), "Cyclist": (49.1, 33.3, 32.9)},
    "0.25x-I": {"Car": (76.6, 62.3, 54.6), "Pedestrian": (56.8, 48.2, 42.6), "Cyclist": (56.6, 37.3, 36.5)},
}
_MEANS = {"1x": 62.8, "0.5x": 57.4, "0.5x-I": 60.4, "0.25x": 48.0, "0.25x-I": 52.4}
#: row -> (class, difficulty) -> percent.
ROWS: dict[str, dict[tuple[str, str], float]] = {
    row: {
        (name, difficulty): value
        for name, values in classes.items()
        for difficulty, value in zip(DIFFICULTIES, values, strict=True)
    }
    | {MEAN: _MEANS[row]}
    for row, classes in _CLASSES.items()
}
