"""Evaluation of detectors on a split of a dataset, of one checkpoint or of each as it appears."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from fgfi_tf.data import policies, transforms
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.protocol import Protocol, Result
from fgfi_tf.models import loading
from fgfi_tf.models.detector import Detector
from fgfi_tf.prediction import Predictor, split_detections
from fgfi_tf.training import batches, checkpoints
from fgfi_tf.training.event_file import EventFile
from fgfi_tf.training.precision import precision
from fgfi_tf.training.run_folder import RunFolder

Frames = dict[str, dict[str, np.ndarray]]


class Abandoned(Exception):
    """An evaluation was given up, as whoever wants it was asked to stop."""


def batched_detector(
    detector: Detector, stop: Callable[[], bool] = lambda: False
) -> Callable[[PreparedDataset, int], Frames]:
    """A function from (dataset, batch size) to each frame's detections; traced once, used often.

    A batch size of 0 leaves it to the detector. Raises Abandoned once ``stop`` says so.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def detect(batch):
        return detector.detect(detector(detector.preprocess(batch["image"]), training=False), batch)

    def run(dataset: PreparedDataset, batch_size: int) -> Frames:
        # published results are of single images where the images of a batch decide each other's padding
        batch_size = batch_size or (1 if policies.resize(detector.resize).by_batch else 8)
        frames: Frames = {}
        with dataset.reading():
            for batch in batches.evaluation_batches(detector, dataset, batch_size, remainder="pad"):
                if stop():
                    raise Abandoned
                results = {key: value.numpy() for key, value in detect(batch).items()}
                found = zip(batch["image_id"].numpy(), split_detections(results), strict=True)
                frames.update((name.decode(), frame) for name, frame in found if name)  # padding has no name
        return frames

    return run


def predict_split(predictor: Predictor, dataset: PreparedDataset) -> Frames:
    """Runs an exported model over a split, image by image at its full size."""
    frames: Frames = {}
    with dataset.reading():
        for sample in dataset.records():
            image = transforms.decode_image(sample["image"])
            frames[sample["image_id"].numpy().decode()] = predictor(image[None].numpy())[0]
    return frames


class CheckpointEvaluator:
    """Evaluates checkpoints of one run, one after the other, with one graph.

    In float32, whatever precision the caller trains in: ``best/`` is chosen by the numbers that an evaluation
    of its own gives. ``batch_size`` 0 is the usual one of the detector; ``model`` names it where the files
    are of other programs; ``stop`` is asked between batches whether to give up.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        protocol: Protocol,
        batch_size: int = 0,
        model: str = "",
        stop: Callable[[], bool] = lambda: False,
    ):
        self._stop = stop
        self._dataset, self._protocol, self._batch_size, self._model = dataset, protocol, batch_size, model
        self._truth = protocol.ground_truth(dataset.labels(), dataset.class_names)
        self._detector: Detector | None = None
        self._detect: Callable[[PreparedDataset, int], Frames] | None = None

    def check(self) -> None:
        """Evaluates no detections at all. Raises UserError where the rules do not fit the ground truth."""
        nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "classes": np.zeros(0, np.int64)}
        frames = dict.fromkeys(self._truth.image_ids, nothing)
        try:
            detections = self._protocol.detections(frames, self._dataset.learnt_names)
            self._protocol.evaluate(detections, self._truth)
        except UserError:
            raise
        except Exception as error:  # of a protocol of somebody else's: a detector that finds nothing is rare
            logging.warning("%s cannot evaluate no detections at all: %r", self._protocol.title, error)

    def __call__(self, path: Path | str) -> tuple[Result, Boxes]:
        """(result, detections) of a checkpoint. Raises UserError where it cannot be loaded, or Abandoned."""
        with precision("none"):
            if self._detector is None:
                classes = self._dataset.learnt_names
                self._detector = loading.load_detector(path, model=self._model, class_names=classes)
                self._detect = batched_detector(self._detector, self._stop)
            else:
                loading.load_weights(self._detector, path)
            frames = self._detect(self._dataset, self._batch_size)
        detections = self._protocol.detections(frames, self._detector.class_names)
        return self._protocol.evaluate(detections, self._truth), detections


class ResultLog:
    """The evaluations of a run: JSON by step, TensorBoard scalars, and the best checkpoint.

    ``results.json`` says which checkpoint is the best, and ``best/`` holds it whatever ends the process: it
    is copied there before, and the one before it is deleted after the file says so.
    """

    def __init__(self, folder: RunFolder):
        self._folder, self._scratch = folder, folder.results.with_suffix(checkpoints.SCRATCH)
        self._events = EventFile(folder.summaries / "evaluation")

    def results(self) -> dict[int, dict]:
        """What has been evaluated, by step. Raises UserError where the file is malformed."""
        if not self._folder.results.is_file():
            return {}
        try:
            return {int(step): value for step, value in json.loads(self._folder.results.read_text()).items()}
        except (ValueError, AttributeError) as error:
            raise UserError(f"{self._folder.results} is malformed: {error}; move it away") from error

    def add(self, checkpoint: Path, metrics: dict[str, float]) -> bool:
        """Records ``Result.metrics`` of a checkpoint; True where it is the best so far (and kept).

        Raises UserError, and records nothing, where it should be kept and cannot be copied.
        """
        step, results = checkpoints.step_of(checkpoint), self.results()
        results[step] = metrics
        self._events.scalars(step, "evaluation", metrics)
        if best_step(results) != step:
            self._write(results)
            return False
        checkpoints.copy_checkpoint(checkpoint, self._folder.best, lambda: self._write(results))
        return True

    def recover(self) -> None:
        """Puts right what a kill left between the steps of :meth:`add`; deletes no only copy."""
        self._scratch.unlink(missing_ok=True)
        best, saved = self._folder.best, self._folder.checkpoints
        held = {path.name for path in checkpoints.list_checkpoints(best)}
        results = self.results()
        name = f"ckpt-{best_step(results)}" if results else ""
        if name in held:
            checkpoints.keep_only(best, name)
            return
        if name and saved.joinpath(f"{name}.index").is_file():
            checkpoints.copy_checkpoint(saved / name, best)
        elif not name and held <= {path.name for path in checkpoints.list_checkpoints(saved)}:
            checkpoints.keep_only(best, "")  # copied, but not yet recorded
        checkpoints.remove_litter(best)

    def _write(self, results: dict[int, dict]) -> None:
        self._folder.evaluation.mkdir(parents=True, exist_ok=True)
        self._scratch.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
        self._scratch.replace(self._folder.results)


def best_step(results: dict[int, dict]) -> int:
    """The step of the best of several results, by their first metric; of equal ones, the earliest."""
    return max(results, key=lambda step: (next(iter(results[step].values())), -step))


def new_checkpoints(
    folder: RunFolder, done: Callable[[], set[int]], poll_seconds: float = 10.0
) -> Iterator[Path]:
    """Each checkpoint of a run that is not ``done``, oldest first, until training has finished.

    Waits for a run folder that does not exist yet.
    """
    while True:
        finished = folder.finished.exists()  # read before the list, or the last one could be missed
        known, saved = done(), checkpoints.list_checkpoints(folder.checkpoints)
        waiting = [path for path in saved if checkpoints.step_of(path) not in known]
        if waiting:
            yield waiting[0]
        elif finished:
            return
        else:
            time.sleep(poll_seconds)
