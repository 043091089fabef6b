"""A detector as a SavedModel: uint8 images of any size in, boxes in their pixels out."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import tensorflow as tf

from fgfi_tf.devices import portable
from fgfi_tf.errors import UserError
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.metadata import ModelMetadata, is_saved_model
from fgfi_tf.prediction import METADATA_FOLDER, detect_images

_UNFINISHED = ".unfinished-"
#: What a SavedModel consists of.
_PARTS = ("assets", METADATA_FOLDER, "fingerprint.pb", "saved_model.pb", "variables")


class ServingModel(tf.Module):
    """The exported object: one function, the weights that it reads (batch norm folded), the class names.

    The detector is no attribute: Keras would trace every layer once more for the file, which nobody calls,
    in up to two thirds of the time.

    Attributes:
        serve: images uint8 [B, H, W, 3] RGB to ``boxes``, ``scores``, ``classes`` and ``count``.
    """

    def __init__(self, detector: Detector, class_file: str):
        super().__init__(name="detector")
        detector = detector.inference_copy()
        images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
        self.serve = tf.function(
            lambda images: detect_images(detector, images), input_signature=[images], autograph=False
        )
        self.weights = list(self.serve.get_concrete_function().variables)
        self.class_file = tf.saved_model.Asset(class_file)


def export(detector: Detector, folder: Path | str, *, overwrite: bool = False) -> Path:
    """Writes a SavedModel with the signature ``serving_default``.

    It takes ``images`` uint8 [B, H, W, 3], RGB, of any size, and gives ``boxes`` float32 [B, K, 4]
    (xmin, ymin, xmax, ymax) in pixels of those images, ``scores`` [B, K] descending, ``classes``
    int32 [B, K] and ``count`` int32 [B]; rows from ``count`` on are zero. It holds the weights of
    inference alone: no teacher, no optimizer. ``assets/classes.txt`` names the classes, one a
    line; ``assets.extra/model.json`` also says which detector it is.

    Raises:
        UserError: the folder exists and ``overwrite`` is not set, or it cannot be written.
    """
    folder = Path(folder)
    before = list(folder.iterdir()) if folder.exists() else []
    unfinished = [path for path in before if path.name.startswith(_UNFINISHED)]  # of one that was killed
    if len(before) > len(unfinished):
        if not overwrite:
            raise UserError(f"{folder} exists already: choose another folder, or pass --overwrite")
        if not is_saved_model(folder):
            raise UserError(f"{folder} holds something else than a SavedModel; it is left alone")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as scratch:
            written = _write(detector, Path(scratch))
            for path in [*unfinished, *(folder / name for name in _PARTS)]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            for path in written.iterdir():
                path.rename(folder / path.name)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"cannot write the SavedModel {folder}: {error}") from error
    return folder


def _write(detector: Detector, scratch: Path) -> Path:
    """The whole SavedModel, in a folder of its own: an interruption leaves the one before as it is."""
    class_file, folder = scratch / "classes.txt", scratch / "model"
    class_file.write_text("".join(f"{name}\n" for name in detector.class_names))
    with portable():  # this machine's GPU, or that it has none, must not show in the graph
        serving = ServingModel(detector, str(class_file))
        tf.saved_model.save(serving, str(folder), signatures={"serving_default": serving.serve})
    metadata = detector.metadata or ModelMetadata("", tuple(detector.input_size), tuple(detector.class_names))
    metadata.write(folder / METADATA_FOLDER)
    return folder
