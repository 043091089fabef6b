#!/usr/bin/env python3
"""Detects objects in images: pictures with boxes, and result files in the format of the training data.

python scripts/predict.py --model_path=exported --images=a.png,folder --output_dir=detections
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from fgfi_tf import cli
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.evaluation import results as formats
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.options import option
from fgfi_tf.outputs import OutputFolder
from fgfi_tf.training import flags
from fgfi_tf.training.config import extensions_option

if TYPE_CHECKING:
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
    results: str = option(
        "",
        "Prediction",
        "Format of the result files (empty: that of the training data).",
        chooses=formats.CHOICE,
    )
    format: str = option(
        "", "Prediction", "Protocol whose own format the result files have.", chooses=protocols.CHOICE
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
    form = _format(config, predictor)
    output = _output(config, predictor, form, files)
    kept: dict[str, dict[str, np.ndarray]] = {}
    failed: list[UserError] = []

    def report(error: UserError) -> None:
        failed.append(error)
        print(f"predict.py: error: {error}", file=sys.stderr, flush=True)

    done = 0
    for file, image, found in prediction.predict_files(predictor, files, report, config.max_megapixels):
        picture = prediction.draw_detections(image, found, predictor.class_names, config.min_score)
        output.append(_picture_name(file), _png(picture))
        if form.grows:
            output.append_all(_results(form, {file.name: found}, predictor))
        else:
            kept[file.name] = found
        done += 1
    if not form.grows:
        output.append_all(_results(form, kept, predictor))
    print(f"{done} of {len(files)} images: pictures and result files in {output.folder}")
    if failed:
        _list_failed(failed)
    return 1 if failed else 0


def _format(config: PredictConfig, predictor: Predictor) -> formats.Format:
    """What writes the results; refuses, before an image is read, a format that does not fit the model."""
    from fgfi_tf.data import registry as datasets

    if not (config.results or config.format or predictor.dataset):
        raise UserError(
            f"{predictor.name} does not say what it was trained on, and so in which format results are: "
            f"--results={' or --results='.join(formats.FORMATS)}"
        )
    name = config.results
    if not name:
        name = protocols.protocol_class(config.format or datasets.entry(predictor.dataset).protocol).results
    form = formats.format_of(name)
    try:
        _results(form, {"class": _detections(len(predictor.class_names))}, predictor)
    except UserError as error:
        raise UserError(f"{predictor.name} does not fit the format of the results: {error}") from error
    return form


def _results(
    form: formats.Format, frames: Mapping[str, dict[str, np.ndarray]], predictor: Predictor
) -> dict[str, str]:
    return form.write(Boxes.of_detections(frames, predictor.class_names), "")


def _output(
    config: PredictConfig, predictor: Predictor, form: formats.Format, files: Sequence[ImageFile]
) -> OutputFolder:
    """The folder of the results; refuses, before an image is read, to write over what is there."""
    output = OutputFolder(config.output_dir, "output_dir", config.overwrite)
    nothing = {file.name: _detections(0) for file in files}
    results = _results(form, nothing, predictor)
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
