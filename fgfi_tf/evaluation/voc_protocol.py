"""PASCAL VOC's protocol for the scripts."""

from __future__ import annotations

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import voc, voc_io, voc_tables
from fgfi_tf.evaluation.comparison import ALONE
from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.evaluation.voc_types import Detections, Truths

#: The split that the published rows are of.
_PUBLISHED_SPLIT = "2007_test"


class VocProtocol(Protocol):
    """AP of every class; see ``voc``.

    ``reference``, as the 2019 code, accepts an IoU above 0.5 and ranks by scores of three decimals, as the
    published figures were computed from result files. ``official``, as the devkit, accepts an IoU of at
    least 0.5 and ranks by the scores as they are.
    """

    published_rows = tuple(voc_tables.PUBLISHED_MEAN)

    def truths(self, frames, class_names) -> Truths:
        """See ``Protocol``."""
        return Truths.from_frames(frames, class_names)

    def detections(self, frames, class_names) -> Detections:
        """See ``Protocol``."""
        return Detections.from_frames(frames, class_names)

    def evaluate(self, detections: Detections, truths: Truths) -> voc.Evaluation:
        """See ``Protocol``."""
        detections = detections.rounded() if self.variant == "reference" else detections
        return voc.evaluate(detections, truths, self.variant)

    def table(self, results, published: str = "", split: str = "") -> str:
        """One column for each result; of VOC 2007 test all published classes, unless one row is named."""
        images = next(iter(results.values())).n_images
        heading = f"PASCAL VOC, AP at 11 points, {images} images, percent"
        columns = {name or "AP": result for name, result in results.items()}
        return f"{heading}\n{voc_tables.ap_table(columns, self.rows_beside(published, split))}"

    def rows_beside(self, row: str, split: str) -> tuple[str, ...]:
        """See ``Protocol``; those with every class belong to VOC 2007 test."""
        if not row and split == _PUBLISHED_SPLIT:
            return tuple(voc_tables.PUBLISHED)
        return super().rows_beside(row, split)

    def figures(self, result: voc.Evaluation) -> dict[str, float]:
        """The mean over the classes that have objects, at 11 points and of the area, then each class."""
        classes = {name: one.ap_11point for name, one in result if one.positives}
        return {
            "mAP11": result.mean_ap("11point", present_only=True),
            "mAP_area": result.mean_ap("area", present_only=True),
            **classes,
        }

    def read_truths(self, labels: str, split: str) -> Truths:
        """Annotations <image>.xml; ``split`` is a list of ``ImageSets/Main``."""
        images = voc_io.read_image_set(split) if split else voc_io.list_images(labels)
        return voc_io.read_truths(labels, images)

    def read_detections(self, folder: str, truths: Truths, split: str, allow_missing: bool) -> Detections:
        """Result files of one image set, whatever its name."""
        sets = voc_io.image_sets(folder, truths.class_names)
        if len(sets) != 1:
            there = ", ".join(f"{prefix}_det_{image_set}" for prefix, image_set in sets)
            found = f"of the sets {there}" if sets else "none"
            raise UserError(
                f"{folder}: result files comp4_det_<set>_<class>.txt (or comp3, or comp4_<salt>) of one set "
                f"wanted; {found}"
            )
        prefix, image_set = sets[0]
        images, classes = truths.image_ids, truths.class_names
        return voc_io.read_detections(folder, image_set, images, classes, allow_missing, prefix)

    def result_files(self, detections: Detections, split: str) -> dict[str, str]:
        """comp4 files with every digit; the set is the split without its year, as the devkit names it."""
        name = split.partition("_")[2] or split or "images"
        return voc_io.result_files(name, detections, full_precision=self.variant == "official")

    def report(self, detections, results, truths, images, published, comparison=ALONE, min_score=0.3):
        """See ``Protocol``."""
        from fgfi_tf.evaluation import report_voc  # plotting takes a second to import

        runs = [
            report_voc.Run(name, detections[name], result, published.get(name, ()))
            for name, result in results.items()
        ]
        return report_voc.build(runs, truths, images, "", comparison, min_score)
