"""``scripts/export.py``: a detector as files, each checked against the detector it was made of."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from fgfi_tf.data import policies
from fgfi_tf.deploy import check
from fgfi_tf.deploy.card import CARD_FILE, SUFFIXES, Card
from fgfi_tf.deploy.check import Row
from fgfi_tf.errors import UserError
from fgfi_tf.models.metadata import METADATA_FOLDER, MODEL_FILE, is_saved_model
from fgfi_tf.options import did_you_mean, not_negative, option
from fgfi_tf.outputs import OutputFolder
from fgfi_tf.training.config import extensions_option
from fgfi_tf.training.parsing import parse_size

if TYPE_CHECKING:  # they import TensorFlow
    from fgfi_tf.deploy.material import Material
    from fgfi_tf.models.detector import Detector
    from fgfi_tf.prediction import Predictor

FORMATS = ("savedmodel", "tflite", "onnx")
QUANTIZATIONS = ("none", "float16", "dynamic", "int8")
CHECK_FILE = "check.json"
ONNX_FILE, SAVED_MODEL_FOLDER = "model.onnx", "savedmodel"
_GROUP, _CHECK = "Export", "Calibration and check"


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Options of an export."""

    checkpoint: str = option("", _GROUP, "Run folder or checkpoint to export.")
    output_dir: str = option("", _GROUP, "Folder to write to: the SavedModel, or the files.")
    format: str = option(
        "savedmodel",
        _GROUP,
        "savedmodel (images of any size to boxes), tflite or onnx (images of the network's size to raw boxes "
        "and scores), or several, separated by commas.",
    )
    quantize: str = option(
        "none",
        _GROUP,
        "Of TFLite files: none, float16, dynamic, int8 (calibrated on pictures), or several, each a file.",
    )
    extensions: str = extensions_option(_GROUP)
    model: str = option(
        "", _GROUP, "Detector; needed for files of other programs only (TF1, .pth, .weights)."
    )
    input_size: str = option("", _GROUP, "Size of the network input (empty: as trained).")
    overwrite: bool = option(False, _GROUP, "Replace the export that the folder holds.")
    images: str = option(
        "",
        _CHECK,
        "Pictures and folders, separated by commas, to calibrate on and to check with (empty: the training's "
        "data, where they still are).",
    )
    data_dir: str = option("", _CHECK, "Folder of the raw dataset, with whose labels AP is compared too.")
    val_split: str = option("", _CHECK, "Split to compare on (empty: the run's own, else val).")
    calibration_images: int = option(
        100, _CHECK, "Training pictures that int8 is calibrated on.", check=not_negative
    )
    check_images: int = option(
        20, _CHECK, "Pictures that detections are compared on; 0: none.", check=not_negative
    )
    latency_runs: int = option(
        50, _CHECK, "Runs whose median is the latency; 0: it is not measured.", check=not_negative
    )

    def listed(self, flag: str, known: tuple[str, ...]) -> list[str]:
        """The values of a flag that takes several. Raises UserError for an unknown one."""
        names = list(dict.fromkeys(part.strip() for part in getattr(self, flag).split(",") if part.strip()))
        for name in names:
            if name not in known:
                raise UserError(f"--{flag}={name}: {did_you_mean(name, known)}")
        if not names:
            raise UserError(f"--{flag} is empty: {did_you_mean('', known)}")
        return names


def check_flags(config: ExportConfig) -> None:
    """Raises UserError for flags that cannot work, before TensorFlow is imported."""
    for name in ("checkpoint", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"--{name} is missing")
    formats = config.listed("format", FORMATS)
    if config.listed("quantize", QUANTIZATIONS) != ["none"] and "tflite" not in formats:
        raise UserError(f"--quantize={config.quantize} is of TFLite files: --format=tflite")
    if config.images and config.data_dir:
        raise UserError("give pictures (--images) or labelled data (--data_dir), not both")
    if config.images and config.val_split:
        raise UserError("--val_split is of labelled data (--data_dir); pictures (--images) have no splits")
    if "int8" in config.listed("quantize", QUANTIZATIONS) and not config.calibration_images:
        raise UserError("--calibration_images=0: --quantize=int8 is calibrated on pictures")
    given = Path(config.checkpoint)
    if given.suffix.lower() in SUFFIXES or is_saved_model(given):
        raise UserError(f"--checkpoint={given} is an export itself: name the run folder that it was made of")
    if given.suffix == ".cfg":
        raise UserError(f"--checkpoint={given} is a file of flags: name the run folder that they trained")


@dataclasses.dataclass(frozen=True)
class _Made:
    """A line of the table, what detects, and what is timed: by number of threads, a function of nothing."""

    row: Row
    predictor: Predictor
    timed: Callable[[], Iterator[tuple[str, Callable[[], object]]]]


def export(config: ExportConfig) -> None:
    """Writes what the flags ask for, and prints and writes the table of the check.

    Raises:
        UserError: for whatever is wrong with flags, checkpoint, pictures or output.
    """
    from fgfi_tf.deploy import counting, network
    from fgfi_tf.models import loading
    from fgfi_tf.prediction import Predictor

    size = parse_size("input_size", config.input_size) if config.input_size else None
    detector = loading.load_detector(config.checkpoint, model=config.model, input_size=size)
    if config.listed("format", FORMATS) != ["savedmodel"]:
        network.check(detector)  # before the data are prepared
    found = _material(config, detector)
    source = Predictor.of_detector(detector.inference_copy())
    adds = counting.of_detector(detector).multiply_adds
    made = [_Made(Row("source", multiply_adds=adds), source, lambda: _in_tensorflow(source, detector))]
    if config.listed("format", FORMATS) == ["savedmodel"]:
        made.append(_saved_model(config, detector, Path(config.output_dir)))
        record = Path(config.output_dir) / METADATA_FOLDER / CHECK_FILE
    else:
        made += _files(config, detector, found)
        record = Path(config.output_dir) / CHECK_FILE
    for one in made[1:]:
        what = "SavedModel: " if Path(one.predictor.name).is_dir() else ""
        print(f"{what}{one.predictor.name} ({one.row.size / 1e6:.1f} MB)", flush=True)
    _compare(config, made, found)
    rows = [one.row for one in made]
    record.write_text(json.dumps(check.as_json(rows, found.source), indent=1) + "\n")
    print(check.table(rows))
    if not found.pictures and config.check_images:
        why = found.missing or "no pictures"
        print(f"not compared with its source: {why} (--images or --data_dir names some)")


def _material(config: ExportConfig, detector: Detector) -> Material:
    from fgfi_tf.deploy import material

    int8 = "int8" in config.listed("quantize", QUANTIZATIONS)
    counts = (config.calibration_images if int8 else 0), config.check_images
    if config.images:
        return material.of_files(config.images, *counts)
    run = material.run_of(config.checkpoint, config.extensions)
    try:
        return material.of_data(config.data_dir, config.val_split, detector.metadata, run, counts)
    except UserError as error:
        if config.data_dir or config.val_split:
            raise
        return material.Material(missing=str(error))  # the run's own data are gone, in part


def _saved_model(config: ExportConfig, detector: Detector, folder: Path) -> _Made:
    from fgfi_tf import export as saved_models
    from fgfi_tf.deploy import counting
    from fgfi_tf.prediction import Predictor

    saved_models.export(detector, folder, overwrite=config.overwrite)
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    predictor = Predictor.load(folder)
    row = Row("SavedModel", total, counting.of_saved_model(folder).multiply_adds)
    return _Made(row, predictor, lambda: _in_tensorflow(predictor, detector))


def _files(config: ExportConfig, detector: Detector, found: Material) -> list[_Made]:
    """TFLite and ONNX files, and a SavedModel beside them, in one folder with one card."""
    from fgfi_tf.deploy import onnx_file, tflite
    from fgfi_tf.deploy.network import RawNetwork
    from fgfi_tf.deploy.predictor import network_inputs

    formats, quantized = config.listed("format", FORMATS), config.listed("quantize", QUANTIZATIONS)
    if "onnx" in formats:
        onnx_file.check_ready()
    network = RawNetwork(detector)
    card = Card(
        tuple(detector.input_size),
        policies.resize(detector.resize).in_evaluation or detector.resize,
        tuple(detector.padding_color),
        tuple(detector.class_names),
        network.suppression,
    )

    def inputs() -> Iterator[np.ndarray]:
        return (network_inputs(card, picture[None])[0][0] for picture in found.calibration)

    contents: dict[str, Callable[[], bytes]] = {}
    if "tflite" in formats:
        for quantize in quantized:
            contents[_file_of(quantize)] = functools.partial(tflite.convert, network, quantize, inputs)
    if "onnx" in formats:
        contents[ONNX_FILE] = lambda: onnx_file.convert(RawNetwork(detector, batch=None))
    output = OutputFolder(config.output_dir, "output_dir", config.overwrite)
    also = [SAVED_MODEL_FOLDER] if "savedmodel" in formats else []
    output.check([*contents, CARD_FILE, MODEL_FILE, CHECK_FILE, *also])
    if is_saved_model(output.folder):
        raise UserError(f"--output_dir={output.folder} is a SavedModel; name another folder for files")
    files = {}
    with _bar(len(contents), "file") as bar:
        for name, convert in contents.items():
            bar.set_description(name)
            files[name] = convert()
            bar.update()
    _remove_others(output.folder, [*files, *also])
    for name, content in files.items():
        output.append(name, content)
    card.write(output.folder)
    detector.metadata.write(output.folder)
    made = [_made_file(output.folder / name, card) for name in files]
    if "savedmodel" in formats:
        made.append(_saved_model(config, detector, output.folder / SAVED_MODEL_FOLDER))
    return made


def _file_of(quantize: str) -> str:
    return "model.tflite" if quantize == "none" else f"model_{quantize}.tflite"


def _remove_others(folder: Path, kept: Sequence[str]) -> None:
    """What an earlier export left beside files of the same names: its card, which is replaced, was of all."""
    if not (folder / CARD_FILE).is_file():
        return
    for name in {*map(_file_of, QUANTIZATIONS), ONNX_FILE} - {*kept}:
        (folder / name).unlink(missing_ok=True)
    saved = folder / SAVED_MODEL_FOLDER
    if SAVED_MODEL_FOLDER not in kept and is_saved_model(saved):
        shutil.rmtree(saved)


def _bar(total: int, unit: str, description: str = "") -> tqdm:
    return tqdm(total=total, unit=unit, desc=description, disable=not sys.stderr.isatty(), leave=False)


def _made_file(path: Path, card: Card) -> _Made:
    from fgfi_tf.deploy import counting
    from fgfi_tf.deploy.runtimes import open_runtime
    from fgfi_tf.prediction import Predictor

    image = np.full((1, *card.input_size, 3), 128, np.uint8)

    def timed() -> Iterator[tuple[str, Callable[[], object]]]:
        for threads in (1, 2):
            yield str(threads), functools.partial(open_runtime(path, threads), image)

    row = Row(path.name, path.stat().st_size, counting.of_file(path).multiply_adds)
    return _Made(row, Predictor.load(path), timed)


def _in_tensorflow(predictor: Predictor, detector: Detector) -> Iterator[tuple[str, Callable[[], object]]]:
    height, width = (max(side, 1) for side in detector.input_size)
    if policies.resize(detector.resize).by_batch:
        height, width = policies.resize(detector.resize).largest_input(detector.input_size)
    yield "all", functools.partial(predictor, np.full((1, height, width, 3), 128, np.uint8))


def _compare(config: ExportConfig, made: Sequence[_Made], found: Material) -> None:
    """Fills in the rows."""
    each = len(found.pictures) + (found.labelled.dataset.num_examples if found.labelled else 0)
    with _bar(len(made) * each, "image", "comparing") as bar:
        expected: list[check.Detections] = []
        for one in made:
            detections = []
            for picture in found.pictures:
                detections += one.predictor(picture[None])
                bar.update()
            if one is made[0]:
                expected = detections
            elif found.pictures:
                one.row.difference = check.compare(expected, detections)
            if found.labelled is not None:
                one.row.metrics = found.labelled.ap(one.predictor, bar.update)
    if config.latency_runs:
        _time(made, config.latency_runs)


def _time(made: Sequence[_Made], count: int) -> None:
    """Fills in latencies; of what is run by the same runtime with as many threads, in turn."""
    from fgfi_tf.deploy.runtimes import latencies_ms

    groups: dict[tuple[str, str], list[tuple[Row, Callable[[], object]]]] = {}
    for one in made:
        for threads, run in one.timed():
            groups.setdefault((threads, Path(one.row.name).suffix), []).append((one.row, run))
    for (threads, _), group in groups.items():
        for (row, _), value in zip(group, latencies_ms([run for _, run in group], count), strict=True):
            row.latency_ms[threads] = value
