"""Evaluation of detectors on a split of a dataset, of one checkpoint or of each as it appears."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from fgfi_tf.data import transforms
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.models.detector import Detector
from fgfi_tf.prediction import Predictor, split_detections
from fgfi_tf.training import batches, checkpoints, loading
from fgfi_tf.training.precision import precision
from fgfi_tf.training.run_folder import RunFolder

Frames = dict[str, dict[str, np.ndarray]]


def batched_detector(detector: Detector) -> Callable[[PreparedDataset, int], Frames]:
    """A function from (dataset, batch size) to each frame's detections; traced once, used often.

    A batch size of 0 leaves it to the detector.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def detect(batch):
        return detector.detect(detector(detector.preprocess(batch["image"]), training=False), batch)

    def run(dataset: PreparedDataset, batch_size: int) -> Frames:
        # published results of detectors that keep an image's shape are of single images
        batch_size = batch_size or (1 if detector.keeps_shape else 8)
        frames: Frames = {}
        for batch in batches.evaluation_batches(detector, dataset, batch_size, remainder="pad"):
            results = {key: value.numpy() for key, value in detect(batch).items()}
            frames.update(_by_frame(batch["image_id"].numpy(), results))
        return frames

    return run


def _by_frame(image_ids: np.ndarray, results: dict[str, np.ndarray]) -> Frames:
    found = zip(image_ids, split_detections(results), strict=True)
    return {name.decode(): frame for name, frame in found if name}  # padding has no name


def predict_split(predictor: Predictor, dataset: PreparedDataset) -> Frames:
    """Runs an exported model over a split, image by image at its full size."""
    frames: Frames = {}
    for sample in dataset.records():
        image = transforms.decode_image(sample["image"])
        frames[sample["image_id"].numpy().decode()] = predictor(image[None].numpy())[0]
    return frames


class CheckpointEvaluator:
    """Evaluates checkpoints of one run, one after the other, with one graph.

    In float32, whatever precision the caller trains in: ``best/`` is chosen by the numbers that an evaluation
    of its own gives.

    Args:
        dataset: the split.
        protocol: its evaluation.
        batch_size: images at a time (0: as is usual for the detector).
        model: detector name, needed for files of other programs only.
    """

    def __init__(self, dataset: PreparedDataset, protocol: Protocol, batch_size: int = 0, model: str = ""):
        self._dataset, self._protocol, self._batch_size, self._model = dataset, protocol, batch_size, model
        self._truths = protocol.truths(dataset.labels(), dataset.class_names)
        self._detector: Detector | None = None
        self._detect: Callable[[PreparedDataset, int], Frames] | None = None

    def __call__(self, path: Path | str) -> tuple[Any, Any]:
        """(result, detections) of a checkpoint. Raises UserError where it cannot be loaded."""
        with precision("none"):
            if self._detector is None:
                classes = self._dataset.class_names[: self._dataset.num_training_classes]
                self._detector = loading.load_detector(path, model=self._model, class_names=classes)
                self._detect = batched_detector(self._detector)
            else:
                loading.load_weights(self._detector, path)
            frames = self._detect(self._dataset, self._batch_size)
        detections = self._protocol.detections(frames, self._detector.class_names)
        return self._protocol.evaluate(detections, self._truths), detections


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

    def add(self, checkpoint: Path, figures: dict[str, float]) -> bool:
        """Records ``Protocol.figures`` of a checkpoint; True where it is the best so far (and kept)."""
        step, results, ranking = checkpoints.step_of(checkpoint), self.results(), next(iter(figures))
        best = max((value[ranking] for s, value in results.items() if s != step), default=-1.0)
        results[step] = figures
        self._folder.evaluation.mkdir(parents=True, exist_ok=True)
        scratch = self._file.with_suffix(".new")
        scratch.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
        scratch.replace(self._file)
        self._summarise(step, figures)
        is_best = figures[ranking] > best
        if is_best:
            checkpoints.copy_checkpoint(checkpoint, self._folder.best)
        return is_best

    def _summarise(self, step: int, figures: dict[str, float]) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder.summaries / "evaluation"))
        with self._writer.as_default(step=step):
            for name, value in figures.items():
                tf.summary.scalar(f"evaluation/{name}", value)
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
