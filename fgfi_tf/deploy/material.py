"""Pictures that an export is calibrated on and checked with, and labels where there are any."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fgfi_tf.data import registry as datasets
from fgfi_tf.data.classes import parse
from fgfi_tf.data.images import read_image
from fgfi_tf.data.splits import VAL_FRACTION
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.paths import user_path
from fgfi_tf.training import flags
from fgfi_tf.training.run_folder import FLAGS_FILE

if TYPE_CHECKING:  # they import TensorFlow
    from fgfi_tf.data.records import PreparedDataset
    from fgfi_tf.evaluation.protocol import Protocol
    from fgfi_tf.models.metadata import ModelMetadata
    from fgfi_tf.prediction import Predictor
    from fgfi_tf.training.config import ExperimentConfig


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A split with labels, and what evaluates on it."""

    dataset: PreparedDataset
    protocol: Protocol

    def ap(self, predictor: Predictor, seen: Callable[[], object] = lambda: None) -> dict[str, float]:
        """The metrics of a detector, image by image, in 0..1; the first is the most important.

        ``seen`` is called at each image.
        """
        from fgfi_tf.training.evaluator import predict_split

        def detect(images: np.ndarray) -> list[dict[str, np.ndarray]]:
            seen()
            return predictor(images)

        frames = predict_split(detect, self.dataset)
        truth = self.protocol.ground_truth(self.dataset.labels(), self.dataset.class_names)
        found = self.protocol.detections(frames, predictor.class_names)
        return dict(self.protocol.evaluate(found, truth).metrics)


@dataclasses.dataclass(frozen=True)
class Material:
    """Pictures, uint8 RGB [H, W, 3] each, and labels.

    Attributes:
        calibration: of training, where there is a training split.
        pictures: to compare detections on.
        source: where they are from, for a line; "" where there are none.
        labelled: to compare AP on; None without.
        missing: why there are no pictures, where something is wrong with them.
    """

    calibration: Sequence[np.ndarray] = ()
    pictures: Sequence[np.ndarray] = ()
    source: str = ""
    labelled: Labelled | None = None
    missing: str = ""


def of_files(text: str, calibration: int, check: int) -> Material:
    """Of pictures and folders, separated by commas, at even distances.

    Raises:
        UserError: a path that is not there, or a picture that cannot be read.
    """
    from fgfi_tf.prediction import find_images, listed_paths

    files = find_images(listed_paths(text))
    read = {i: read_image(files[i].path) for i in sorted({*_even(files, calibration), *_even(files, check)})}
    return Material(
        [read[i] for i in _even(files, calibration)], [read[i] for i in _even(files, check)], text
    )


def of_data(
    data_dir: str, split: str, metadata: ModelMetadata, run: ExperimentConfig | None, counts: tuple[int, int]
) -> Material:
    """Of a dataset's training split, to calibrate on, and of its ``split``, to check with.

    Args:
        data_dir: the raw data; "": that of the run, if it is still there, of which no AP is taken.
        split: "": the run's, else val.
        metadata: of the detector.
        run: that trained it, where that is known.
        counts: pictures to calibrate on, and to check with.

    Raises:
        UserError: the detector does not say its dataset, or what is wrong with the data.
    """
    folder = data_dir or (run.data_dir if run else "")
    if not folder or not (data_dir or user_path(folder).is_dir()):
        return Material()
    if not metadata.dataset:
        raise UserError(
            f"--data_dir={data_dir}: the model does not say of which dataset it is; give --images"
        )

    def opened(name: str) -> PreparedDataset:
        return datasets.open_split(
            metadata.dataset,
            folder,
            name,
            run.prepared_dir if run and not data_dir else "",
            classes=parse(metadata.classes).of_model(metadata.class_names),
            val_fraction=run.val_fraction if run else VAL_FRACTION,
            options=run.options_of("dataset") if run else {},
        )

    dataset = opened(split or (run.val_split if run else "val"))
    labelled = None
    if data_dir:
        labelled = Labelled(dataset, protocols.get(datasets.entry(metadata.dataset).protocol))
        labelled.protocol.check_ready()
    training = opened(run.train_split if run else "train") if counts[0] else dataset
    return Material(_images(training, counts[0]), _images(dataset, counts[1]), dataset.name, labelled)


def run_of(checkpoint: str, extensions: str = "") -> ExperimentConfig | None:
    """The flags of the run that a checkpoint or run folder is of; None where nothing says."""
    path = Path(checkpoint)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / FLAGS_FILE).is_file():
            return flags.read_flagfile(folder / FLAGS_FILE, extensions)
    return None


def _even(items: Sequence, count: int) -> list[int]:
    """Up to ``count`` places at even distances, the first among them."""
    count = min(count, len(items))
    return [i * len(items) // count for i in range(count)]


def _images(dataset: PreparedDataset, count: int) -> list[np.ndarray]:
    import tensorflow as tf

    from fgfi_tf.data.transforms import decode_image

    with dataset.reading():
        places = _even(range(dataset.num_examples), count)
        return [
            decode_image(dataset.sample(tf.constant(place, tf.int64))["image"]).numpy() for place in places
        ]
