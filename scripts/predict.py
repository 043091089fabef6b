#!/usr/bin/env python3
"""Detects objects in images: pictures with boxes, and result files in the format of the training data.

python scripts/predict.py --model_path=exported --images=a.png,folder --output_dir=detections
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from fgfi_tf import cli
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.options import option
from fgfi_tf.outputs import OutputFolder
from fgfi_tf.training import flags
from fgfi_tf.training.config import extensions_option

if TYPE_CHECKING:
    from fgfi_tf.evaluation.protocol import Protocol
    from fgfi_tf.prediction import ImageFile, Predictor

_LISTED = 20


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Options of a prediction."""

    model_path: str = option("", "Prediction", "SavedModel folder, run folder or checkpoint.")
    images: str = option(
        "", "Prediction", "Images and folders of images, subfolders included, separated by commas."
    )
    output_dir: str = option(
        "", "Prediction", "Folder for the pictures and the result files, written as images are done."
    )
    overwrite: bool = option(
        False, "Prediction", "Write over files that --output_dir holds already; the images are kept even so."
    )
    min_score: float = option(0.3, "Prediction", "Lowest score drawn; the result files hold every detection.")
    max_megapixels: float = option(MAX_MEGAPIXELS, "Prediction", "Larger images are passed over.")
    format: str = option(
        "",
        "Prediction",
        f"Format of the result files, {' or '.join(protocols.names())} (empty: that of the training data).",
    )
    extensions: str = extensions_option("Prediction")
    model: str = option("", "Prediction", "Detector; needed for TF1 checkpoints and .pth files only.")


def main(argv: Sequence[str]) -> int:
    """Parses the flags and predicts; exit code 1 where an image could not be read."""
    config = flags.parse(argv, PredictConfig)
    for name in ("model_path", "images", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"--{name} is missing")
    cli.start_tensorflow()
    from fgfi_tf import prediction

    whole = Path(config.images).exists()  # a comma in a name
    paths = [config.images] if whole else [part for part in config.images.split(",") if part]
    files = prediction.find_images(paths, leave_out=config.output_dir)
    predictor = prediction.Predictor.load(config.model_path, config.model)
    protocol = _protocol(config, predictor)
    output = _output(config, predictor, protocol, files)
    failed: list[UserError] = []

    def report(error: UserError) -> None:
        failed.append(error)
        print(f"predict.py: error: {error}", file=sys.stderr, flush=True)

    done = 0
    for file, image, found in prediction.predict_files(predictor, files, report, config.max_megapixels):
        picture = prediction.draw_detections(image, found, predictor.class_names, config.min_score)
        output.append(_picture_name(file), _png(picture))
        detections = protocol.detections({file.name: found}, predictor.class_names)
        output.append_all(protocol.result_files(detections, ""))
        done += 1
    print(f"{done} of {len(files)} images: pictures and result files in {output.folder}")
    if failed:
        _list_failed(failed)
    return 1 if failed else 0


def _protocol(config: PredictConfig, predictor: Predictor) -> Protocol:
    """What writes the results; refuses, before an image is read, a format that does not fit the model."""
    from fgfi_tf.data import registry as datasets

    if not (config.format or predictor.dataset):
        raise UserError(
            f"{predictor.name} does not say what it was trained on, and so in which format results are: "
            f"--format={' or --format='.join(protocols.names())}"
        )
    protocol = protocols.get(config.format or datasets.entry(predictor.dataset).protocol)
    try:
        protocol.detections({"class": _detections(len(predictor.class_names))}, predictor.class_names)
    except UserError as error:
        raise UserError(f"{predictor.name} does not fit the format of the results: {error}") from error
    return protocol


def _output(
    config: PredictConfig, predictor: Predictor, protocol: Protocol, files: Sequence[ImageFile]
) -> OutputFolder:
    """The folder of the results; refuses, before an image is read, to write over what is there."""
    output = OutputFolder(config.output_dir, "output_dir", config.overwrite)
    nothing = {file.name: _detections(0) for file in files}
    results = protocol.result_files(protocol.detections(nothing, predictor.class_names), "")
    output.check([*map(_picture_name, files), *results], [file.path for file in files])
    return output


def _detections(count: int) -> dict[str, np.ndarray]:
    """One box of each of ``count`` classes."""
    return {
        "boxes": np.zeros((count, 4), np.float32),
        "scores": np.zeros(count, np.float32),
        "classes": np.arange(count, dtype=np.int32),
    }


def _picture_name(file: ImageFile) -> str:
    return f"{file.name}.png"


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _list_failed(failed: Sequence[UserError]) -> None:
    print(f"passed over, {len(failed)}:", file=sys.stderr)
    for error in failed[:_LISTED]:
        print(f"  {error}", file=sys.stderr)
    if len(failed) > _LISTED:
        print(f"  and {len(failed) - _LISTED} more", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
