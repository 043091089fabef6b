#!/usr/bin/env python3
"""Detects objects in images or in a video: pictures with boxes, and result files in one format or several.

python scripts/predict.py --model_path=exported --images=a.png,folder --output_dir=found --results=coco,csv
python scripts/predict.py --model_path=device/model_int8.tflite --video=drive.mp4 --output_dir=found
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from fgfi_tf import cli
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.evaluation import results as formats
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.options import at_least, did_you_mean, option, positive
from fgfi_tf.outputs import OutputFolder
from fgfi_tf.training import flags
from fgfi_tf.training.config import extensions_option

if TYPE_CHECKING:
    from fgfi_tf.prediction import ImageFile, Predictor

_LISTED = 20


def _results_help() -> str:
    known = "; ".join(f"{name}: {form.text}" for name, form in formats.FORMATS.items())
    return f"Formats of the result files, separated by commas (empty: that of the training data). {known}."


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Options of a prediction."""

    model_path: str = option(
        "", "Prediction", "SavedModel folder, TFLite or ONNX file of export.py, run folder or checkpoint."
    )
    images: str = option(
        "", "Prediction", "Images and folders of images, subfolders included, separated by commas."
    )
    video: str = option(
        "", "Prediction", "Video in place of images; its frames are called NAME/000000, NAME/000001, ..."
    )
    output_dir: str = option(
        "", "Prediction", "Folder for the pictures and the result files, written as images are done."
    )
    overwrite: bool = option(
        False, "Prediction", "Write over files that --output_dir holds already; the images are kept even so."
    )
    min_score: float = option(0.3, "Prediction", "Lowest score drawn; the result files hold every detection.")
    pictures: bool = option(True, "Prediction", "Write the pictures with their boxes, as PNG.")
    max_megapixels: float = option(MAX_MEGAPIXELS, "Prediction", "Larger images are skipped.", check=positive)
    batch_size: int = option(
        8, "Prediction", "Most images of one size that are detected together.", check=at_least(1)
    )
    results: str = option("", "Prediction", _results_help)
    format: str = option(
        "", "Prediction", "Protocol whose own format the result files have.", chooses=protocols.CHOICE
    )
    extensions: str = extensions_option("Prediction")
    model: str = option(
        "", "Prediction", "Detector; needed for files of other programs only (TF1, .pth, .weights)."
    )


def main(argv: Sequence[str]) -> int:
    """Parses the flags and predicts; exit code 1 where an image could not be read."""
    config = flags.parse(argv, PredictConfig)
    for name in ("model_path", "video" if config.video else "images", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"--{name} is missing")
    if config.video and config.images:
        raise UserError("give --images or --video, not both")
    if config.format and config.results:
        raise UserError("give --format or --results, not both: --format stands for the results of its own")
    cli.start_tensorflow()
    from fgfi_tf import prediction

    if config.video:
        return _predict_video(config)
    others: list[Path] = []
    files = prediction.find_images(prediction.listed_paths(config.images), config.output_dir, others)
    predictor = prediction.Predictor.load(config.model_path, config.model)
    forms = _formats(config, predictor)
    output = _output(config, predictor, forms, files)
    failed, seconds = _predict(config, predictor, forms, files, output)
    done = len(files) - len(failed)
    what = "pictures and result files" if config.pictures else "result files"
    speed = f", {done / seconds:.1f} images/s" if done else ""
    print(f"{done} of {len(files)} images{speed}: {what} in {output.folder}")
    _list_skipped(failed, others)
    return 1 if failed else 0


def _predict(
    config: PredictConfig,
    predictor: Predictor,
    forms: Sequence[formats.Format],
    files: Sequence[ImageFile],
    output: OutputFolder,
) -> tuple[list[UserError], float]:
    """Writes everything; what could not be read, and how many seconds it took."""
    from fgfi_tf import prediction

    kept: dict[str, dict[str, np.ndarray]] = {}
    failed: list[UserError] = []
    begin = time.monotonic()
    with tqdm(total=len(files), unit="image", disable=not sys.stderr.isatty()) as bar:

        def report(error: UserError) -> None:
            failed.append(error)
            bar.write(f"predict.py: error: {error}", file=sys.stderr)
            bar.update()

        with _kept_in_any_case(forms, kept, predictor, output):
            for file, image, found in prediction.predict_files(
                predictor, files, report, config.max_megapixels, config.batch_size
            ):
                if config.pictures:
                    drawn = prediction.draw_detections(image, found, predictor.class_names, config.min_score)
                    output.append(f"{file.name}.png", _png(drawn))
                for form in forms:
                    if form.grows:
                        output.append_all(_results(form, {file.name: found}, predictor))
                kept[file.name] = found
                bar.update()
    return failed, time.monotonic() - begin


@contextlib.contextmanager
def _kept_in_any_case(
    forms: Sequence[formats.Format],
    kept: Mapping[str, dict[str, np.ndarray]],
    predictor: Predictor,
    output: OutputFolder,
) -> Iterator[None]:
    """Writes the files that are one whole at the end, of what was found until then, whatever ends it."""
    try:
        yield
    except BaseException:
        if kept:
            _write_whole(forms, kept, predictor, output)
        raise
    _write_whole(forms, kept, predictor, output)


def _write_whole(
    forms: Sequence[formats.Format],
    kept: Mapping[str, dict[str, np.ndarray]],
    predictor: Predictor,
    output: OutputFolder,
) -> None:
    for form in forms:
        if not form.grows:
            output.append_all(_results(form, kept, predictor))


def _predict_video(config: PredictConfig) -> int:
    """Writes the video with its boxes, and the results of its frames."""
    from fgfi_tf.deploy.video import Video, VideoWriter
    from fgfi_tf.prediction import Predictor, draw_detections, predict_frames

    video = Video.open(Path(config.video))
    predictor = Predictor.load(config.model_path, config.model)
    forms = _formats(config, predictor)
    stem, name = video.path.stem, f"{video.path.stem}.mp4"
    output = OutputFolder(config.output_dir, "output_dir", config.overwrite)
    nothing = {f"{stem}/{number:06d}": _detections(0) for number in range(max(video.frames, 1))}
    written = [file for form in forms for file in _results(form, nothing, predictor)]
    output.check([*([name] if config.pictures else []), *written], [video.path])
    kept: dict[str, dict[str, np.ndarray]] = {}
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=video.frames or None, unit="frame", disable=not sys.stderr.isatty())
        )
        writer = None
        begin = time.monotonic()
        stack.enter_context(_kept_in_any_case(forms, kept, predictor, output))
        for frame, found in predict_frames(predictor, video, config.batch_size):
            frame_id = f"{stem}/{len(kept):06d}"
            kept[frame_id] = found
            for form in forms:
                if form.grows:
                    output.append_all(_results(form, {frame_id: found}, predictor))
            if config.pictures:
                if writer is None:
                    output.folder.joinpath(name).unlink(missing_ok=True)
                    writer = stack.enter_context(VideoWriter(output.folder / name, video.size, video.rate))
                writer.append(draw_detections(frame, found, predictor.class_names, config.min_score))
            bar.update()
        if not kept:
            raise UserError(f"{video.path}: no frame of this video can be read")
    seconds = time.monotonic() - begin
    what = "video and result files" if config.pictures else "result files"
    frames = f"{len(kept)} frame{'' if len(kept) == 1 else 's'}"
    print(f"{frames}, {len(kept) / seconds:.1f} frames/s: {what} in {output.folder}")
    return 0


def _formats(config: PredictConfig, predictor: Predictor) -> list[formats.Format]:
    """What writes the results; refuses, before an image is read, a format that does not fit the model."""
    from fgfi_tf.data import registry as datasets

    if not (config.results or config.format or predictor.dataset):
        raise UserError(
            f"{predictor.name} does not say what it was trained on, and so in which format results are: "
            f"--results={' or --results='.join(formats.FORMATS)}"
        )
    names = [name.strip() for name in config.results.split(",") if name.strip()]
    if not names:
        protocol = config.format or datasets.entry(predictor.dataset).protocol
        names = [protocols.protocol_class(protocol).results]
    for name in names:
        if name not in formats.FORMATS:
            hint = did_you_mean(name, formats.FORMATS)
            raise UserError(f"--results={name}: no such format of result files; {hint}")
    forms = [formats.format_of(name) for name in dict.fromkeys(names)]
    try:
        for form in forms:
            _results(form, {"class": _detections(len(predictor.class_names))}, predictor)
    except UserError as error:
        raise UserError(f"{predictor.name} does not fit the format of the results: {error}") from error
    return forms


def _results(
    form: formats.Format, frames: Mapping[str, dict[str, np.ndarray]], predictor: Predictor
) -> dict[str, str]:
    return form.write(Boxes.of_detections(frames, predictor.class_names), "")


def _output(
    config: PredictConfig, predictor: Predictor, forms: Sequence[formats.Format], files: Sequence[ImageFile]
) -> OutputFolder:
    """The folder of the results; refuses, before an image is read, to write over what is there."""
    output = OutputFolder(config.output_dir, "output_dir", config.overwrite)
    nothing = {file.name: _detections(0) for file in files}
    names = [f"{file.name}.png" for file in files] if config.pictures else []
    for form in forms:
        names += _results(form, nothing, predictor)
    twice = [name for name, count in collections.Counter(map(str.casefold, names)).items() if count > 1]
    if twice:
        raise UserError(
            f"{len(twice)} files would be written twice, such as {twice[0]}: "
            "give fewer formats to --results, or rename the image"
        )
    output.check(names, [file.path for file in files])
    return output


def _detections(count: int) -> dict[str, np.ndarray]:
    """One box of each of ``count`` classes."""
    return {
        "boxes": np.zeros((count, 4), np.float32),
        "scores": np.zeros(count, np.float32),
        "classes": np.arange(count, dtype=np.int32),
    }


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _list_skipped(failed: Sequence[UserError], others: Sequence[Path]) -> None:
    if failed:
        print(f"skipped, {len(failed)}:", file=sys.stderr)
    for error in failed[:_LISTED]:
        print(f"  {error}", file=sys.stderr)
    if len(failed) > _LISTED:
        print(f"  and {len(failed) - _LISTED} more", file=sys.stderr)
    if others:
        kinds = collections.Counter(path.suffix.lower() or "no suffix" for path in others)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        print(f"skipped, as they are not called like pictures: {listed}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
