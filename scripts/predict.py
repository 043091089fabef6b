#!/usr/bin/env python3
"""Detects objects in images: pictures with boxes, and result files in the format of the training data.

python scripts/predict.py --model_path=exported --images=a.png,folder --output_dir=detections
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.training import flags
from fgfi_tf.training.config import option


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Options of a prediction."""

    model_path: str = option("", "Prediction", "SavedModel folder, run folder or checkpoint.")
    images: str = option("", "Prediction", "Images and folders of images, separated by commas.")
    output_dir: str = option("", "Prediction", "Folder for the pictures and the result files.")
    min_score: float = option(0.3, "Prediction", "Lowest score drawn; the result files hold every detection.")
    model: str = option("", "Prediction", "Detector; needed for TF1 checkpoints and .pth files only.")


def main(argv: Sequence[str]) -> int:
    """Parses the flags and predicts; exit code 1 where an image could not be read."""
    config = flags.parse(argv, PredictConfig)
    for name in ("model_path", "images", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"--{name} is missing")
    cli.start_tensorflow()
    from PIL import Image

    from fgfi_tf import prediction
    from fgfi_tf.data import registry as datasets
    from fgfi_tf.evaluation import registry as protocols

    paths = prediction.list_images(part for part in config.images.split(",") if part)
    predictor = prediction.Predictor.load(config.model_path, config.model)
    protocol = protocols.get(datasets.entry(predictor.dataset or "kitti").protocol)
    output, failed, frames = Path(config.output_dir), [], {}
    output.mkdir(parents=True, exist_ok=True)

    def report(error: UserError) -> None:
        failed.append(error)
        print(f"predict.py: error: {error}", file=sys.stderr)

    for path, image, found in prediction.predict_files(predictor, paths, report):
        picture = prediction.draw_detections(image, found, predictor.class_names, config.min_score)
        Image.fromarray(picture).save(output / f"{path.stem}.png")
        frames[path.stem] = found
    protocol.write_detections(output, protocol.detections(frames, predictor.class_names), "")
    print(f"{len(frames)} of {len(paths)} images: pictures and result files in {output}")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
