"""PASCAL VOC's protocol."""

from __future__ import annotations

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import results as result_files
from fgfi_tf.evaluation.boxes import ONE_BASED, Boxes
from fgfi_tf.evaluation.protocol import Protocol, Rule, ignored_rows
from fgfi_tf.evaluation.voc import ap, files
from fgfi_tf.evaluation.voc.published import ROWS, SOURCE, WHOLE_ROWS

#: The split that the published rows are of.
_PUBLISHED_SPLIT = "2007_test"


class VocProtocol(Protocol):
    """AP of every class; see ``ap``.

    ``reference``, as the 2019 code, accepts an IoU above 0.5 and ranks by scores of three decimals, as the
    published metrics were computed from result files. ``official``, as the devkit, accepts an IoU of at
    least 0.5 and ranks by the scores as they are.
    """

    title = "PASCAL VOC detection"
    files = "Annotations and a folder of comp4_det_<set>_<class>.txt, --split a list of ImageSets/Main"
    variants = {
        "official": "the devkit, which accepts an IoU of exactly 0.5",
        "reference": "the 2019 code, which does not, with scores rounded to three decimals",
    }
    published = ROWS
    published_source = SOURCE
    corners = ONE_BASED
    fixed_overlap = True
    results = "comp4"
    json_mark = '"AP11":'

    def evaluate(self, detections: Boxes, ground_truth: Boxes) -> ap.Evaluation:
        """Both APs of every class of the detections."""
        detections = ap.rounded(detections) if self.variant == "reference" else detections
        return ap.evaluate(detections, ground_truth, self.variant)

    def heading(self, result: ap.Evaluation) -> str:
        """The measure and the number of images."""
        return f"PASCAL VOC, AP at 11 points, {result.n_images} images, percent"

    def rows_beside(self, row: str, split: str) -> tuple[str, ...]:
        """The row that is named; of VOC 2007 test all that have every class."""
        return WHOLE_ROWS if not row and split == _PUBLISHED_SPLIT else super().rows_beside(row, split)

    def facts(self, result: ap.Evaluation, ground_truth: Boxes) -> tuple[tuple[str, str], ...]:
        """Difficult objects, and what a match is."""
        rule = "of at least" if self.variant == "official" else "above"
        return (
            ("Difficult", f"{int(ignored_rows(ground_truth).sum()):,}"),
            ("Match", f"IoU {rule} {result.iou_threshold:g} ({self.variant} protocol)"),
        )

    def note(self, result: ap.Evaluation) -> str:
        """What a dash means, and what becomes of difficult objects."""
        return (
            "An en dash: the class has no objects that count, and is not in the mean of present ones. "
            "Difficult objects are neither found nor missed."
        )

    def rule(self) -> Rule:
        """The kit's, or that of the 2019 code: of an IoU that is the limit, whether it suffices."""
        return Rule(at_least=self.variant == "official", best_only=True)

    def read_ground_truth(self, labels: str, split: str = "") -> Boxes:
        """Annotations <image>.xml; ``split`` is a list of ``ImageSets/Main``."""
        images = text_files.read_ids(split, nested=True) if split else files.list_images(labels)
        return files.read_ground_truth(labels, images, self.class_names or files.CLASS_NAMES)

    def read_detections(
        self, path: str, ground_truth: Boxes, split: str = "", allow_missing: bool = False
    ) -> Boxes:
        """Result files of one image set, whatever its name."""
        sets = files.image_sets(path, ground_truth.class_names)
        if len(sets) != 1:
            there = ", ".join(f"{prefix}_det_{image_set}" for prefix, image_set in sets)
            found = f"of the sets {there}" if sets else "none"
            raise UserError(
                f"{path}: result files comp4_det_<set>_<class>.txt (or comp3, or comp4_<salt>) of one set "
                f"wanted; {found}"
            )
        prefix, image_set = sets[0]
        images, classes = ground_truth.image_ids, ground_truth.class_names
        return files.read_detections(path, image_set, images, classes, allow_missing, prefix)

    def result_files(self, detections: Boxes, split: str = "") -> dict[str, str]:
        """comp4 files; the variant ``reference`` writes few digits, as the published code."""
        return result_files.write_comp4(detections, split, full_precision=self.variant == "official")
