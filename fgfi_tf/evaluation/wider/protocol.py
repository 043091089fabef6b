"""WIDER FACE's protocol."""

from __future__ import annotations

from collections.abc import Mapping

from fgfi_tf.evaluation.boxes import EDGES, Boxes
from fgfi_tf.evaluation.protocol import Protocol, Result, Rule, Setting
from fgfi_tf.evaluation.results import of_split
from fgfi_tf.evaluation.wider import ap, files


class WiderProtocol(Protocol):
    """AP of faces, easy, medium and hard; see ``ap``. Its MATLAB files are read with scipy."""

    title = "WIDER FACE detection"
    files = "the folder of the four .mat files and a folder of events (wants pip install -e '.[wider]')"
    # Wang et al., CVPR 2019, table 3: YOLOv2; "-I": trained with imitation.
    published = {
        row: dict(zip([("", name) for name in ap.SETTINGS], values, strict=True))
        for row, values in {
            "1x": (87.2, 74.6, 36.0),
            "0.25x": (78.2, 69.8, 35.6),
            "0.25x-I": (83.9, 74.9, 38.5),
            "0.15x": (69.7, 61.1, 29.7),
            "0.15x-I": (79.3, 67.0, 32.0),
        }.items()
    }
    published_source = "Wang et al., CVPR 2019 (WIDER FACE validation, YOLOv2)"
    corners = EDGES
    fixed_overlap = True
    results = "wider"
    json_mark = '"faces":'
    main_setting = "medium"

    def rows_beside(self, row: str, split: str) -> tuple[str, ...]:
        """The row that is named; of the validation split all there are."""
        return tuple(self.published) if not row and split == "val" else super().rows_beside(row, split)

    def table(self, results: Mapping[str, Result], published: str = "", split: str = "") -> str:
        """As in ``Protocol``; published rows are of the settings, and stand beside no other numbers."""
        settings = all(set(ap.SETTINGS) <= set(result.metrics) for result in results.values())
        return super().table(results, published, split if settings else "")

    def evaluate(self, detections: Boxes, ground_truth: Boxes) -> ap.Evaluation:
        """AP at every setting."""
        return ap.evaluate(detections, ground_truth)

    def rule(self) -> Rule:
        """An IoU of at least 0.5, with + 1 on every side; a detection looks at its best face alone."""
        return Rule(best_only=True)

    def settings(self, detections: Boxes, ground_truth: Boxes) -> list[Setting]:
        """Those of the evaluation; every box is a face."""
        nothing, everything = ground_truth.classes != ground_truth.classes, ground_truth.classes >= 0
        looked_at = detections.classes >= 0
        return [
            Setting("face", name, everything, counts, looked_at, ap.IOU_THRESHOLD, nothing, nothing)
            for name, counts in ap.counted_faces(ground_truth).items()
        ]

    def read_ground_truth(self, labels: str, split: str = "") -> Boxes:
        """The folder of the official files; ``split`` is a list of ``<event>/<image>``."""
        return of_split(files.read_ground_truth(labels), split)

    def read_detections(
        self, path: str, ground_truth: Boxes, split: str = "", allow_missing: bool = False
    ) -> Boxes:
        """A folder of ``<event>/<image>.txt``."""
        return files.read_detections(path, ground_truth.image_ids, allow_missing)
