"""Published average precisions of VOC, in percent."""

from __future__ import annotations

from fgfi_tf.data.readers.voc import CLASS_NAMES
from fgfi_tf.evaluation.protocol import MEAN

SOURCE = "Wang et al., CVPR 2019 (VOC 2007 test, trained on VOC 2007 trainval, 11 points)"


def _columns(text: str) -> dict[str, float]:
    return dict(zip(CLASS_NAMES, map(float, text.split()), strict=True))


# row -> class -> AP in percent, classes in alphabetical order as everywhere
_CLASSES: dict[str, dict[str, float]] = {
    "VGG11": _columns(
        "67.3 71.4 56.6 44.3 39.3 68.8 78.4 66.6 37.7 63.2 51.6 58.3 76.4 70.0 71.9 32.2 58.1 57.8 62.9 60.0"
    ),
    "VGG11-I": _columns(
        "72.5 73.8 62.8 53.1 49.2 80.5 82.7 76.8 44.8 73.5 64.3 72.6 81.1 75.3 76.3 40.2 66.3 61.8 73.4 70.6"
    ),
}
# The teacher's classes are not published. 70.4 is the paper's; the code's page gives 70.1.
_MEANS = {"VGG16": 70.4, "VGG11": 59.6, "VGG11-I": 67.6}
# Of ResNets the means alone are published; "half": of half the width.
_MEANS |= {"ResNet-101": 74.4, "ResNet-101-half": 67.4, "ResNet-101-half-I": 71.2}
_MEANS |= {"ResNet-50": 69.1, "ResNet-50-I": 72.0}
#: row -> (class, "") -> percent.
ROWS: dict[str, dict[tuple[str, str], float]] = {
    row: {(name, ""): value for name, value in _CLASSES.get(row, {}).items()} | {MEAN: mean}
    for row, mean in _MEANS.items()
}
#: The rows that have every class.
WHOLE_ROWS = tuple(_CLASSES)
