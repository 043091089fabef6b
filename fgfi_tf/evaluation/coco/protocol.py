"""COCO's protocol."""

from __future__ import annotations

from fgfi_tf.evaluation.boxes import EDGES, Boxes
from fgfi_tf.evaluation.coco import ap, files
from fgfi_tf.evaluation.protocol import Protocol, Rule
from fgfi_tf.evaluation.results import of_split

# Of Faster R-CNNs of half the width, and the same imitating (-I): AP at IoU 0.5 and AP, percent.
_PUBLISHED = {
    "C4-ResNet-101-half": (48.4, 28.8),
    "C4-ResNet-101-half-I": (51.2, 31.6),
    "FPN-ResNet-50-half": (52.6, 31.2),
    "FPN-ResNet-50-half-I": (55.8, 34.8),
}


class CocoProtocol(Protocol):
    """The twelve numbers of COCO, computed by pycocotools (extra ``[coco]``); see ``ap``."""

    title = "COCO detection"
    files = "JSON files of the ground truth and of a list of detections (wants pip install -e '.[coco]')"
    published = {
        row: {("", "AP"): whole, ("", "AP50"): at_half} for row, (at_half, whole) in _PUBLISHED.items()
    }
    published_source = "Wang et al., CVPR 2019 (COCO)"
    corners = EDGES
    fixed_overlap = True
    results = "coco"
    json_mark = '"stats":'

    def check_ready(self) -> None:
        """Raises UserError without pycocotools."""
        ap.pycocotools()

    def evaluate(self, detections: Boxes, ground_truth: Boxes) -> ap.Evaluation:
        """The twelve numbers, of the detections' classes."""
        return ap.evaluate(detections, ground_truth)

    def note(self, result: ap.Evaluation) -> str:
        """What the numbers' names mean."""
        return (
            "AP is the mean over IoU 0.5 to 0.95 and over classes; s, m and l are objects of less than "
            "32 x 32, up to 96 x 96, and more pixels. An en dash: no such object."
        )

    def rule(self) -> Rule:
        """An IoU of at least the limit, of boxes from x to x + w."""
        return Rule(side=0.0)

    def read_ground_truth(self, labels: str, split: str = "") -> Boxes:
        """A JSON file; ``split`` is a list of images by name."""
        return of_split(files.read_ground_truth(labels), split)

    def read_detections(
        self, path: str, ground_truth: Boxes, split: str = "", allow_missing: bool = False
    ) -> Boxes:
        """A JSON file; an image without an entry has no detections."""
        return files.read_detections(path, ground_truth.coco_ids).select(ground_truth.image_ids)
