"""KITTI's protocol."""

from __future__ import annotations

from collections.abc import Mapping

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.kitti import ap, files
from fgfi_tf.evaluation.kitti.published import ROWS, SOURCE
from fgfi_tf.evaluation.kitti.result import (
    CLASS_NAMES,
    DIFFICULTIES,
    MIN_OVERLAP,
    OTHER_OVERLAP,
    Evaluation,
    ap_table,
)
from fgfi_tf.evaluation.protocol import Protocol, Rule, Setting


class KittiProtocol(Protocol):
    """AP of three classes, or a detector's own, at three difficulties; see ``ap``."""

    title = "KITTI 2D detection"
    files = "folders of NNNNNN.txt, --split a file with an id a line"
    variants = {
        "official": "the present kit, which ignores small detections",
        "reference": "the 2019 code, which does not",
    }
    published = ROWS
    published_source = SOURCE
    results = "kitti"
    json_mark = '"AP11":'
    main_setting = "moderate"
    usual_image_size = (375, 1242)  # KITTI's commonest

    def evaluated_classes(self, detections: Boxes) -> tuple[str, ...]:
        """The listed ones, or a detector's; of files that may hold all of KITTI's, the benchmark's three."""
        names = self.class_names or detections.class_names
        return CLASS_NAMES if names == files.TYPE_NAMES else names

    def overlaps(self, detections: Boxes) -> dict[str, float]:
        """Class -> minimum overlap of what is evaluated, and of the classes that one was named for."""
        known = {name.casefold(): name for name in (*detections.class_names, *CLASS_NAMES)}
        names = [known.get(name.casefold(), name) for name in self.evaluated_classes(detections)]
        named = {known.get(name.casefold(), name): value for name, value in self.min_overlap.items()}
        return {name: MIN_OVERLAP.get(name, OTHER_OVERLAP) for name in names} | named

    def evaluate(self, detections: Boxes, ground_truth: Boxes) -> Evaluation:
        """AP of every class at every difficulty."""
        overlaps = self.overlaps(detections)
        held = {name.casefold() for name in (*ground_truth.class_names, *detections.class_names)}
        for name in self.min_overlap:
            if name.casefold() not in held:
                raise UserError(f"--min_overlap={name}=...: the data has no such class")
        return ap.evaluate(detections.check_order(), ground_truth, self.variant, min_overlap=overlaps)

    def table(self, results: Mapping[str, Evaluation], published: str = "", split: str = "") -> str:
        """One table below the other; published rows are shown in the report."""
        return "\n\n".join(ap_table(result, name) for name, result in results.items())

    def facts(self, result: Evaluation, ground_truth: Boxes) -> tuple[tuple[str, str], ...]:
        """The variant, and the overlap that a match of each class needs."""
        overlaps = ", ".join(f"{name} {overlap:g}" for name, overlap in result.min_overlap.items())
        return (("Protocol", self.variant), ("Minimum overlap", overlaps))

    def note(self, result: Evaluation) -> str:
        """What a dash means."""
        return "An en dash: no detection of the class, or no object that counts; either is 0 in the mean."

    def rule(self) -> Rule:
        """An IoU above the limit, of boxes from x1 to x2."""
        return Rule(at_least=False, side=0.0)

    def settings(self, detections: Boxes, ground_truth: Boxes) -> list[Setting]:
        """The difficulties of every class, as they are evaluated."""
        found = []
        for name, overlap in self.overlaps(detections).items():
            for key, difficulty in DIFFICULTIES.items():
                lowest = difficulty.min_height if self.variant == "official" else 0.0
                own, neighbours = ground_truth.of_class(name), ap.neighbours(ground_truth, name)
                counted = ap.countable(ground_truth, name, difficulty, self.variant)
                looked_at = detections.of_class(name) & (detections.heights >= lowest)
                regions = ap.areas(ground_truth)
                found.append(Setting(name, key, own, counted, looked_at, overlap, neighbours, regions))
        return found

    def read_ground_truth(self, labels: str, split: str = "") -> Boxes:
        """Label files NNNNNN.txt; ``split`` is a file with an id a line."""
        frames = text_files.read_ids(split, nested=True) if split else files.list_frames(labels)
        return files.read_labels(labels, frames, self._known)

    def read_detections(
        self, path: str, ground_truth: Boxes, split: str = "", allow_missing: bool = False
    ) -> Boxes:
        """Result files NNNNNN.txt."""
        return files.read_detections(path, ground_truth.image_ids, allow_missing, self._known)

    @property
    def _known(self) -> tuple[str, ...]:
        """The classes that files may hold: those listed, and KITTI's own."""
        listed = {name.casefold() for name in self.class_names}
        return (*self.class_names, *(n for n in files.TYPE_NAMES if n.casefold() not in listed))
