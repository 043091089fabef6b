"""KITTI's protocol for the scripts."""

from __future__ import annotations

from fgfi_tf.evaluation import kitti, kitti_io, published
from fgfi_tf.evaluation.comparison import ALONE
from fgfi_tf.evaluation.kitti_types import Detections, Labels
from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.evaluation.tables import ap_table


class KittiProtocol(Protocol):
    """AP of three classes at three difficulties; see ``kitti``."""

    published_rows = published.SHUFFLEDET_ROWS

    def truths(self, frames, class_names) -> Labels:
        """See ``Protocol``."""
        return Labels.from_frames({frame["image_id"]: frame for frame in frames}, class_names)

    def detections(self, frames, class_names) -> Detections:
        """See ``Protocol``."""
        return Detections.from_frames(frames, class_names)

    def evaluate(self, detections: Detections, truths: Labels) -> kitti.Evaluation:
        """See ``Protocol``."""
        return kitti.evaluate(detections, truths, self.variant)

    def table(self, results, published: str = "", split: str = "") -> str:
        """One table below the other; published rows are shown in the report."""
        return "\n\n".join(ap_table(result, name) for name, result in results.items())

    def figures(self, result: kitti.Evaluation) -> dict[str, float]:
        """The means of nine, then AP11 of each class and difficulty."""
        nine = {f"{name}_{difficulty}": one.ap11 for name, difficulty, one in result}
        return {"mAP11": result.mean_ap(11), "mAP40": result.mean_ap(40), **nine}

    def read_truths(self, labels: str, split: str) -> Labels:
        """Label files NNNNNN.txt; ``split`` is a file with an id a line."""
        frames = kitti_io.read_split(split) if split else kitti_io.list_frames(labels)
        return kitti_io.read_labels(labels, frames)

    def read_detections(self, folder: str, truths: Labels, split: str, allow_missing: bool) -> Detections:
        """Result files NNNNNN.txt."""
        return kitti_io.read_detections(folder, truths.frame_ids, allow_missing)

    def result_files(self, detections: Detections, split: str) -> dict[str, str]:
        """Result files NNNNNN.txt."""
        return kitti_io.result_files(detections)

    def report(self, detections, results, truths, images, published, comparison=ALONE, min_score=0.3):
        """See ``Protocol``."""
        from fgfi_tf.evaluation import report_kitti  # plotting takes a second to import

        runs = [
            report_kitti.Run(name, detections[name], result, next(iter(published.get(name, ())), ""))
            for name, result in results.items()
        ]
        return report_kitti.build(runs, truths, images, "", comparison, min_score)
