"""Detections of images, from a checkpoint or from an exported SavedModel alike."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np
import tensorflow as tf

from fgfi_tf import extensions
from fgfi_tf.data import policies
from fgfi_tf.data.images import IMAGE_SUFFIXES, MAX_MEGAPIXELS, is_image_name, read_image
from fgfi_tf.data.readers import tree
from fgfi_tf.data.text_files import fits_a_line
from fgfi_tf.deploy.card import model_file
from fgfi_tf.drawing import draw_boxes
from fgfi_tf.errors import UserError, first_line
from fgfi_tf.models.checkpoint_files import DAMAGE
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.loading import load_detector
from fgfi_tf.models.metadata import METADATA_FOLDER, MODEL_FILE, ModelMetadata, is_saved_model

_MEGAPIXELS_AT_ONCE = 32.0  # of the pictures that wait for others of their size: 100 MB
_WINDOW = 4  # batches in which pictures of one size are looked for


def detect_images(detector: Detector, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Resizes images uint8 [B, H, W, 3], RGB, runs the network and detects, all in the graph.

    Gives ``boxes`` float32 [B, K, 4] in pixels of ``images``, ``scores`` float32 [B, K], ``classes`` int32
    [B, K] and ``count`` int32 [B]; see ``Detector.detect``.
    """
    batch = policies.resize(detector.resize).batch(images, detector.input_size)
    batch = detector.prepare_images(batch)
    outputs = detector(detector.preprocess(batch["image"]), training=False)
    return detector.detect(outputs, batch)


class Predictor:
    """Detects objects in uint8 images [B, H, W, 3]; what stands behind it does not matter.

    Attributes:
        class_names: names of the class indices.
        name: the path it was loaded from, for messages.
        dataset: what it was trained on, "" where not known.
    """

    def __init__(
        self, function: Callable[[tf.Tensor], dict], class_names: Sequence[str], name: str, dataset: str = ""
    ):
        self._function, self.class_names, self.name = function, tuple(class_names), name
        self.dataset = dataset

    @classmethod
    def of_detector(cls, detector: Detector, name: str = "detector") -> Predictor:
        """From a detector in this process. One trace serves images of every size."""
        signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
        function = tf.function(
            lambda images: detect_images(detector, images), input_signature=signature, autograph=False
        )
        dataset = detector.metadata.dataset if detector.metadata else ""
        return cls(function, detector.class_names, name, dataset)

    @classmethod
    def load(cls, path: Path | str, model: str = "") -> Predictor:
        """From a SavedModel, a TFLite or ONNX file, a run folder, or a checkpoint. Raises UserError."""
        path = Path(path)
        file = model_file(path)
        if file or is_saved_model(path):
            _check_name(file.parent if file else path / METADATA_FOLDER, model)
        if file:
            return cls._of_file(file)
        if not is_saved_model(path):
            return cls.of_detector(load_detector(path, model=model).inference_copy(), str(path))
        try:
            loaded = tf.saved_model.load(str(path))
            serve = loaded.signatures["serving_default"]
            metadata = ModelMetadata.read(path / METADATA_FOLDER)
            if metadata is None:
                raise ValueError(f"it has no {METADATA_FOLDER}/{MODEL_FILE}")
        except (*DAMAGE, ValueError, KeyError) as error:
            raise UserError(f"{path} is not a SavedModel of this package: {first_line(error)}") from error
        _load_extensions(path, metadata)
        predictor = cls(
            lambda images: serve(images=images), metadata.class_names, str(path), metadata.dataset
        )
        predictor._loaded = loaded  # owns the variables that the signature uses
        return predictor

    @classmethod
    def _of_file(cls, path: Path) -> Predictor:
        from fgfi_tf.deploy.predictor import FileDetector

        detector, metadata = FileDetector(path), ModelMetadata.read(path.parent)
        if metadata is not None:
            _load_extensions(path, metadata)
        dataset = metadata.dataset if metadata else ""
        return cls(detector, detector.card.class_names, str(path), dataset)

    def __call__(self, images: np.ndarray) -> list[dict[str, np.ndarray]]:
        """For each image its ``boxes`` [n, 4], ``scores`` [n] and ``classes`` [n], best first."""
        results = {key: np.asarray(value) for key, value in self._function(tf.constant(images)).items()}
        return split_detections(results)


def _check_name(folder: Path, model: str) -> None:
    """Raises UserError where an export is of another model than the user says."""
    metadata = ModelMetadata.read(folder)
    if model and metadata is not None and metadata.model != model:
        raise UserError(f"{folder} is of {metadata.model}, not of --model={model}")


def _load_extensions(path: Path, metadata: ModelMetadata) -> None:
    """Those of an exported model that are there, for the format of its dataset; it needs none itself."""
    if not extensions.any_loaded():
        there = filter(extensions.is_there, metadata.extensions)
        extensions.load(there, f"{path}: extensions")


def split_detections(results: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Padded arrays of ``Detector.detect`` to one dict for each image, without the padding."""
    return [
        {key: results[key][i, :count] for key in ("boxes", "scores", "classes")}
        for i, count in enumerate(results["count"])
    ]


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A picture to detect in, and its image id in results, unlike every other's.

    The id is the file's path inside the folder that was given, without its suffix. Where two are called
    alike, with the suffix; where still so, the path inside the folder that holds all that was given.
    """

    path: Path
    name: str


def listed_paths(text: str) -> list[str]:
    """The paths of a flag, separated by commas; a single one may hold commas itself."""
    # os.path, since pathlib raises where a list is longer than a path can be.
    if os.path.exists(text):
        return [text]
    parts = [part for part in text.split(",") if part.strip()]
    return [part if os.path.exists(part) else part.strip() for part in parts]  # "a.png, b.png"


def find_images(
    paths: Iterable[str | Path], leave_out: str | Path | None = None, others: list[Path] | None = None
) -> list[ImageFile]:
    """Files as they are and the pictures of folders and their subfolders, sorted, each file once.

    Hidden files and folders are skipped, and the folder ``leave_out``, which is for results. Files that
    are not called like pictures are appended to ``others``.

    Raises UserError: no path, one that is not there, or a folder without a picture.
    """
    if not (paths := list(paths)):
        raise UserError("no image or folder is named")
    found: dict[Path, PurePath] = {}  # absolute -> relative to what was given
    for path in map(Path, paths):
        if path.is_dir():
            below = _files_below(path, leave_out)
            inside = [file for file in below if is_image_name(file)]
            if others is not None:
                others += [file for file in below if not is_image_name(file)]
            if not inside:
                raise UserError(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        elif path.is_file():
            inside = [path]
        else:
            raise UserError(f"no such image or folder: {path}")
        root = path if path.is_dir() else path.parent
        for file in inside:
            found.setdefault(Path(os.path.abspath(file)), file.relative_to(root))
    names = _names(list(found.values()))
    if len(set(names)) < len(names):
        above = os.path.commonpath([file.parent for file in found])
        names = _names([file.relative_to(above) for file in found])
    return [ImageFile(file, name) for file, name in zip(found, names, strict=True)]


def _files_below(folder: Path, leave_out: str | Path | None) -> list[Path]:
    left_out = os.path.abspath(leave_out) if leave_out is not None else ""
    return sorted(tree.walk(folder, lambda path: os.path.abspath(path) == left_out))


def _names(relative: list[PurePath]) -> list[str]:
    """Paths without their suffixes, but with them where two would be alike (letter case does not count)."""
    names = [path.with_suffix("").as_posix() for path in relative]
    while True:
        alike = collections.Counter(name.casefold() for name in names)
        longer = [
            path.as_posix() if alike[name.casefold()] > 1 else name
            for path, name in zip(relative, names, strict=True)
        ]
        if longer == names:
            return names
        names = longer


def predict_files(
    predictor: Predictor,
    files: Sequence[ImageFile],
    on_error: Callable[[UserError], None] | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    batch_size: int = 1,
) -> Iterator[tuple[ImageFile, np.ndarray, dict[str, np.ndarray]]]:
    """(file, image, detections) of each file, in their order, as they are asked for.

    A file that cannot be read goes to ``on_error`` and is skipped; without it, it is raised. Of the next
    few pictures those of one size, which is one size of the network input, are detected together: up to
    ``batch_size``, fewer where they are large. Their detections are those of single pictures.
    """
    read = _readable(files, on_error, max_megapixels)
    for window in _windows(read, 1 if batch_size == 1 else _WINDOW * batch_size):
        by_size: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
        for place, (_, image) in enumerate(window):
            by_size[image.shape].append(place)
        found: dict[int, dict[str, np.ndarray]] = {}
        for places in by_size.values():
            for start in range(0, len(places), batch_size):
                together = places[start : start + batch_size]
                batch = np.stack([window[place][1] for place in together])  # B x H x W x 3
                found.update(zip(together, predictor(batch), strict=True))
        yield from ((file, image, found[place]) for place, (file, image) in enumerate(window))


def predict_frames(
    predictor: Predictor, frames: Iterable[np.ndarray], batch_size: int = 1
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(frame, detections) of each frame [H, W, 3], which are all of one size, ``batch_size`` at a time."""
    frames = iter(frames)
    while together := list(itertools.islice(frames, batch_size)):
        yield from zip(together, predictor(np.stack(together)), strict=True)


def _readable(
    files: Sequence[ImageFile], on_error: Callable[[UserError], None] | None, max_megapixels: float
) -> Iterator[tuple[ImageFile, np.ndarray]]:
    for file in files:
        try:
            if not fits_a_line(file.name):
                path = ascii(str(file.path))
                raise UserError(f"{path}: result files cannot hold the characters of this name")
            image = read_image(file.path, max_megapixels)
        except UserError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield file, image


def _windows(
    read: Iterator[tuple[ImageFile, np.ndarray]], most: int
) -> Iterator[list[tuple[ImageFile, np.ndarray]]]:
    """Runs of up to ``most`` pictures, fewer where they have many pixels."""
    window: list[tuple[ImageFile, np.ndarray]] = []
    pixels = 0
    for file, image in read:
        window.append((file, image))
        pixels += image.shape[0] * image.shape[1]
        if len(window) == most or pixels >= _MEGAPIXELS_AT_ONCE * 1e6:
            yield window
            window, pixels = [], 0
    if window:
        yield window


def draw_detections(
    image: np.ndarray, detections: dict[str, np.ndarray], class_names: Sequence[str], min_score: float = 0.3
) -> np.ndarray:
    """The image [H, W, 3] with the boxes whose score is at least ``min_score``."""
    shown = detections["scores"] >= min_score
    labels = [class_names[int(index)] for index in detections["classes"][shown]]
    return draw_boxes(image, detections["boxes"][shown], labels, detections["scores"][shown])
