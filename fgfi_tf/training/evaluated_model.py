"""A trained model that is to be evaluated: a run folder, a checkpoint or a SavedModel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.protocol import Protocol, Result
from fgfi_tf.training import early

if TYPE_CHECKING:  # they import TensorFlow
    from fgfi_tf.data.records import PreparedDataset
    from fgfi_tf.models.metadata import ModelMetadata
    from fgfi_tf.prediction import Predictor


class Model(NamedTuple):
    """A model to evaluate: where it lies, a predictor where it is a SavedModel, its metadata."""

    path: Path
    predictor: Predictor | None
    metadata: ModelMetadata | None

    @classmethod
    def find(cls, where: str, flag: str = "checkpoint") -> Model:
        """Of a run folder, checkpoint or SavedModel. Raises UserError, before any data is prepared."""
        from fgfi_tf.models.loading import read_metadata
        from fgfi_tf.models.metadata import ModelMetadata, is_saved_model
        from fgfi_tf.prediction import METADATA_FOLDER, Predictor
        from fgfi_tf.training import checkpoints

        path = Path(where)
        if is_saved_model(path):
            return cls(path, Predictor.load(path), ModelMetadata.read(path / METADATA_FOLDER))
        early.check_checkpoint(flag, where)
        path = checkpoints.find_checkpoint(path)
        return cls(path, None, read_metadata(path))

    @property
    def class_names(self) -> tuple[str, ...]:
        """What it detects; () where it does not say."""
        return self.metadata.class_names if self.metadata is not None else ()

    def evaluate(
        self, dataset: PreparedDataset, protocol: Protocol, batch_size: int = 0, name: str = ""
    ) -> tuple[Result, Boxes]:
        """Its result on a split, and its detections; ``name``: the detector, of a file that does not say."""
        from fgfi_tf.training import evaluator

        if self.predictor is None:
            run = evaluator.CheckpointEvaluator(dataset, protocol, batch_size, name)
            return run(self.path)
        frames = evaluator.predict_split(self.predictor, dataset)
        detections = protocol.detections(frames, self.predictor.class_names)
        truth = protocol.ground_truth(dataset.labels(), dataset.class_names)
        return protocol.evaluate(detections, truth), detections
