"""Evaluation of detectors on a split of a dataset, of one checkpoint or of each as it appears."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from fgfi_tf.data import pipeline, transforms
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.evaluation import kitti
from fgfi_tf.evaluation.kitti_types import Detections, Labels
from fgfi_tf.models.detector import Detector
from fgfi_tf.prediction import Predictor, split_detections
from fgfi_tf.training import checkpoints
from fgfi_tf.training.run_folder import RunFolder

Frames = dict[str, dict[str, np.ndarray]]


def dataset_labels(dataset: PreparedDataset) -> Labels:
    """The labels of every frame of a split, as the KITTI protocol takes them."""
    frames = {frame["image_id"]: frame for frame in dataset.labels()}
    return Labels.from_frames(frames, dataset.class_names)


def detect_split(detector: Detector, dataset: PreparedDataset, batch_size: int = 8) -> Detections:
    """Runs a detector over a split, in batches, in one graph."""
    return _to_detections(batched_detector(detector)(dataset, batch_size), detector.class_names)


def batched_detector(detector: Detector) -> Callable[[PreparedDataset, int], Frames]:
    """A function from (dataset, batch size) to each frame's detections; traced once, used often."""

    @tf.function
    def detect(batch):
        return detector.detect(detector(detector.preprocess(batch["image"]), training=False), batch)

    def run(dataset: PreparedDataset, batch_size: int) -> Frames:
        batches = pipeline.evaluation_batches(
            dataset,
            input_size=detector.input_size,
            batch_size=batch_size,
            num_classes=len(detector.class_names),
            box_resize=detector.box_resize,
            remainder="pad",
        )
        frames: Frames = {}
        for batch in batches:
            results = {key: value.numpy() for key, value in detect(batch).items()}
            frames.update(_by_frame(batch["image_id"].numpy(), results))
        return frames

    return run


def _by_frame(image_ids: np.ndarray, results: dict[str, np.ndarray]) -> Frames:
    found = zip(image_ids, split_detections(results), strict=True)
    return {name.decode(): frame for name, frame in found if name}  # padding has no name


def predict_split(predictor: Predictor, dataset: PreparedDataset) -> Detections:
    """Runs an exported model over a split, image by image at its full size."""
    frames: Frames = {}
    for sample in dataset.records():
        image = transforms.decode_image(sample["image"])
        frames[sample["image_id"].numpy().decode()] = predictor(image[None].numpy())[0]
    return _to_detections(frames, predictor.class_names)


def _to_detections(frames: Frames, class_names: tuple[str, ...]) -> Detections:
    return Detections.from_frames(frames, class_names)


class CheckpointEvaluator:
    """Evaluates checkpoints of one run, one after the other, with one graph.

    Args:
        dataset: the split.
        protocol: ``official`` or ``reference``.
        batch_size: images at a time.
        model: detector name, needed for TF1 checkpoints only.
    """

    def __init__(
        self, dataset: PreparedDataset, protocol: str = "official", batch_size: int = 8, model: str = ""
    ):
        self._dataset, self._protocol, self._batch_size, self._model = dataset, protocol, batch_size, model
        self._labels = dataset_labels(dataset)
        self._detector: Detector | None = None
        self._detect: Callable[[PreparedDataset, int], Frames] | None = None

    def __call__(self, path: Path | str) -> tuple[kitti.Evaluation, Detections]:
        """Evaluates a checkpoint. Raises UserError where it cannot be loaded."""
        if self._detector is None:
            classes = self._dataset.class_names[: self._dataset.num_training_classes]
            self._detector = checkpoints.load_detector(path, model=self._model, class_names=classes)
            self._detect = batched_detector(self._detector)
        else:
            checkpoints.load_weights(self._detector, path)
        frames = self._detect(self._dataset, self._batch_size)
        detections = _to_detections(frames, self._detector.class_names)
        return kitti.evaluate(detections, self._labels, self._protocol), detections


class ResultLog:
    """The evaluations of a run: JSON by step, TensorBoard scalars, and the best checkpoint.

    Args:
        folder: the run.
    """

    def __init__(self, folder: RunFolder):
        self._folder = folder
        self._file = folder.evaluation / "results.json"
        self._writer: tf.summary.SummaryWriter | None = None

    def results(self) -> dict[int, dict]:
        """What has been evaluated, by step."""
        if not self._file.is_file():
            return {}
        return {int(step): value for step, value in json.loads(self._file.read_text()).items()}

    def add(self, checkpoint: Path, evaluation: kitti.Evaluation) -> bool:
        """Records the evaluation of a checkpoint; True where it is the best so far (and kept)."""
        step, results = checkpoints.step_of(checkpoint), self.results()
        best = max((value["mAP11"] for s, value in results.items() if s != step), default=-1.0)
        results[step] = {
            "mAP11": evaluation.mean_ap(11),
            "mAP40": evaluation.mean_ap(40),
            **{name: {key: r.ap11 for key, r in rows.items()} for name, rows in evaluation.results.items()},
        }
        self._folder.evaluation.mkdir(parents=True, exist_ok=True)
        scratch = self._file.with_suffix(".new")
        scratch.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
        scratch.replace(self._file)
        self._summarise(step, evaluation)
        is_best = evaluation.mean_ap(11) > best
        if is_best:
            checkpoints.copy_checkpoint(checkpoint, self._folder.best)
        return is_best

    def _summarise(self, step: int, evaluation: kitti.Evaluation) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder.summaries / "evaluation"))
        with self._writer.as_default(step=step):
            tf.summary.scalar("evaluation/mAP11", evaluation.mean_ap(11))
            tf.summary.scalar("evaluation/mAP40", evaluation.mean_ap(40))
            for name, difficulty, result in evaluation:
                tf.summary.scalar(f"evaluation/{name}_{difficulty}", result.ap11)
        self._writer.flush()


def new_checkpoints(
    folder: RunFolder, done: Callable[[], set[int]], poll_seconds: float = 10.0
) -> Iterator[Path]:
    """Each checkpoint of a run that is not ``done``, oldest first, until training has finished.

    Waits for a run folder that does not exist yet.
    """
    while True:
        finished = folder.finished.exists()  # read before the list, or the last one could be missed
        waiting = [
            p
            for p in checkpoints.list_checkpoints(folder.checkpoints)
            if checkpoints.step_of(p) not in done()
        ]
        if waiting:
            yield waiting[0]
        elif finished:
            return
        else:
            time.sleep(poll_seconds)
