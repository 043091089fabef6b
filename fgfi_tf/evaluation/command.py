"""``scripts/evaluate.py`` on result files: flags, reading, the table, the JSON file, the report.

Imports no TensorFlow: evaluating text files takes a second, starting TensorFlow several.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.comparison import Comparison
from fgfi_tf.evaluation.protocol import Protocol, Result
from fgfi_tf.options import option

_FILES, _OUTPUT = "Result files of any detector (no model needed)", "Output"


def _of_each(text: str, what: Callable[[type[Protocol]], str]) -> Callable[[], str]:
    """A help with a text of each protocol that has one; they may be registered until it is asked for."""

    def help_text() -> str:
        texts = {name: what(registry.protocol_class(name)) for name in registry.names()}
        return f"{text} {'; '.join(f'{name}: {of}' for name, of in texts.items() if of)}."

    return help_text


def _variants(protocol: type[Protocol]) -> str:
    known = [f"{key} ({text})" for key, text in protocol.variants.items()]
    return ", ".join(known) if len(known) > 1 else ""


_FORMATS_HELP = _of_each("Format of --labels and results.", lambda one: one.files or "CSV files of boxes")
_VARIANTS_HELP = _of_each("Variant of the protocol (empty: its first).", _variants)
_PUBLISHED_HELP = _of_each(
    "Row of the published table to show beside it.", lambda one: ", ".join(one.published)
)


@dataclasses.dataclass(frozen=True)
class FilesConfig:
    """Options of an evaluation from files."""

    detections: str = option("", _FILES, "Folder or file of one detector's results, as --format says.")
    compare: str = option(
        "",
        _FILES,
        "Several such results side by side, or with --data_dir several models: name=DIR,name=DIR. Shown "
        "with what each gains over --baseline; a name that is a row of the published table (see --published) "
        "is shown beside it.",
    )
    baseline: str = option(
        "", _FILES, "The model of --compare that others are compared with (empty: the first but --teacher)."
    )
    teacher: str = option(
        "", _FILES, "The model of --compare that taught others: gains are shown as shares of the gap to it."
    )
    format: str = option("kitti", _FILES, _FORMATS_HELP, chooses=registry.CHOICE)
    labels: str = option("", _FILES, "Folder or file of the ground truth, as --format says.")
    classes: str = option(
        "", _FILES, "Classes of KITTI's or VOC's files, helmet,vest (empty: those of the benchmark)."
    )
    split: str = option("", _FILES, "File with the images to evaluate, one id a line (empty: all labels).")
    allow_missing: bool = option(
        False, _FILES, "Count a missing result file as one without detections; else it is an error."
    )
    metric: str = option(
        "",
        _OUTPUT,
        "Protocol that evaluates, of any data (empty: that of --format or of the dataset).",
        chooses=registry.CHOICE,
    )
    protocol: str = option("", _OUTPUT, _VARIANTS_HELP)
    min_overlap: str = option(
        "", _OUTPUT, "Classes and the IoU of a match, of --metric=kitti: Van=0.7,Car=0.5 (others as usual)."
    )
    output_json: str = option("", _OUTPUT, "Write the results to this file, fractions in full precision.")
    report_dir: str = option("", _OUTPUT, "Write the report (HTML, Markdown, JSON, PNG) to this folder.")
    overwrite: bool = option(
        False, _OUTPUT, "Write over files that are there already and are no earlier results of an evaluation."
    )
    images: str = option("", _OUTPUT, "Folder of the images: the report shows the worst of them.")
    min_score: float = option(
        0.3, _OUTPUT, "Lowest score drawn where the report of --compare shows the same images of all models."
    )
    name: str = option("model", _OUTPUT, "What the report calls the model of --detections.")
    published: str = option("", _OUTPUT, _PUBLISHED_HELP)


def evaluate_files(config: FilesConfig) -> None:
    """Evaluates the results, prints the table(s), writes what is asked for.

    Raises UserError for whatever is wrong with flags, folders or files.
    """
    found_in, classes = folders(config), _classes(config)
    source = registry.get(config.format, class_names=classes)
    protocol = open_protocol(config, config.format, classes)
    if not config.labels:
        raise UserError("--labels is missing: the folder or file of the ground truth")
    protocol.check_published(config.published)
    Comparison(config.baseline, config.teacher).check(list(found_in))
    check_outputs(config, protocol)
    truth = source.read_ground_truth(config.labels, config.split)
    _tell_absent(classes, truth)
    detections = {}
    for name, path in found_in.items():
        found = source.read_detections(path, truth, config.split, config.allow_missing)
        if config.metric not in ("", config.format):  # the classes that the files' own protocol evaluates
            found = found.with_classes(source.evaluated_classes(found))
            # The order of such files means nothing, and WIDER's evaluator would cut where scores rise.
            found = found.take(found.by_score(found.classes >= 0))
        detections[name] = found.to(protocol.corners)
    truth = truth.to(protocol.corners)
    results = {name: protocol.evaluate(found, truth) for name, found in detections.items()}
    show_results(config, protocol, truth, detections, results)


def show_results(
    config: FilesConfig,
    protocol: Protocol,
    truth: Boxes,
    detections: Mapping[str, Boxes],
    results: Mapping[str, Result],
    title: str = "",
    split: str = "",
) -> None:
    """Prints the table of one or several models, writes what is asked for, and says what they gain.

    ``title``: what the table calls a single model; ``split``: the name of the data set's split, of one.
    """
    shown = results if config.compare else {title: results[config.name]}
    print(protocol.table(shown, config.published, split))
    if config.output_json:
        numbers = {name: result.to_json() for name, result in results.items()}
        write_json(config.output_json, numbers if config.compare else numbers[config.name])
    if config.report_dir:
        write_report(config, protocol, truth, detections, results, split)
    if len(results) > 1:
        comparison = Comparison(config.baseline, config.teacher)
        metrics = {name: result.metrics for name, result in results.items()}
        print("", comparison.table(metrics), "", *comparison.sentences(metrics), sep="\n")


def open_protocol(config: FilesConfig, default: str, class_names: Sequence[str] = ()) -> Protocol:
    """The protocol that the flags name, or the default one; ``class_names`` are those of files.

    Raises UserError for an unknown name, variant or overlap, or where it needs a package that is missing.
    """
    overlaps = parse_overlaps(config.min_overlap)
    protocol = registry.get(config.metric or default, config.protocol, overlaps, class_names)
    protocol.check_ready()
    return protocol


def _classes(config: FilesConfig) -> tuple[str, ...]:
    names = [name.strip() for name in config.classes.split(",") if name.strip()]
    if len({name.casefold() for name in names}) < len(names):
        raise UserError(f"--classes={config.classes}: a class is named twice (letter case is not told apart)")
    return tuple(names)


def _tell_absent(names: Sequence[str], truth: Boxes) -> None:
    """Warns of listed classes of which there is no label: a misspelt one has no AP, and lowers the mean."""
    held = {truth.class_names[place].casefold() for place in set(truth.classes.tolist()) if place >= 0}
    absent = [name for name in names if name.casefold() not in held]
    if absent:
        logging.warning("--classes: the labels hold no %s", ", no ".join(absent))


def parse_overlaps(text: str) -> dict[str, float]:
    """``Van=0.7,Car=0.5`` as numbers. Raises UserError where it is something else."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.rpartition("=")
        number = text_files.number(value)
        if not name or number is None or not 0 < number < 1 or name in found:
            raise UserError(
                f"--min_overlap: {part!r} is not CLASS=IOU with an IoU between 0 and 1, once a class"
            )
        found[name] = number
    return found


def check_outputs(config: FilesConfig, protocol: Protocol) -> None:
    """Raises UserError where --output_json or --report_dir would replace what is no earlier result."""
    path = Path(config.output_json)
    for flag in ("labels", "split"):
        given = getattr(config, flag)
        if config.output_json and given and path.exists() and os.path.exists(given) and path.samefile(given):
            raise UserError(f"--output_json={path} is the file of --{flag}: name another one")
    if config.overwrite:
        return
    if config.output_json and path.exists() and not _holds_results(path, protocol):
        raise UserError(
            f"--output_json={path} is there and holds no results of an evaluation; name another file, or "
            "--overwrite writes over it"
        )
    folder = Path(config.report_dir)
    parts = ("index.html", "report.md", "report.json", "figures", "pictures")
    pages = [name for name in parts if (folder / name).exists()]
    if config.report_dir and pages and not _holds_results(folder / "report.json", protocol):
        raise UserError(
            f"--report_dir={folder}: {pages[0]} is there and is of no report; name another folder, or "
            "--overwrite writes over it"
        )


def _holds_results(path: Path, protocol: Protocol) -> bool:
    """Whether a file is JSON of :func:`write_json` or of a report."""
    try:
        text = path.read_text(encoding="utf-8")
        return isinstance(json.loads(text), dict) and protocol.json_mark in text
    except (OSError, ValueError, RecursionError):
        return False


def write_json(path: str, results: dict[str, Any]) -> None:
    """Writes a JSON file, its folder too. Raises UserError where that is not possible."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def folders(config: FilesConfig) -> dict[str, str]:
    """What is evaluated, by name. Raises UserError for a wrong ``--compare``."""
    if config.detections and config.compare:
        raise UserError("give --detections or --compare, not both")
    if not config.compare:
        return {config.name: config.detections}
    found: dict[str, str] = {}
    for part in config.compare.split(","):
        name, _, folder = part.partition("=")
        if not name or not folder or name in found:
            raise UserError(f"--compare: {part!r} is not name=DIR with a name of its own")
        found[name] = folder
    return found


def write_report(
    config: FilesConfig,
    protocol: Protocol,
    ground_truth: Boxes,
    detections: Mapping[str, Boxes],
    results: Mapping[str, Result],
    split: str = "",
) -> None:
    """Writes the report on one or several models of a split to ``config.report_dir`` and says where it is."""
    # plotting takes a second to import
    from fgfi_tf.evaluation.report.build import Run, build
    from fgfi_tf.evaluation.report.write import write

    if config.compare:  # a name that is a published row is shown beside it
        rows = {name: (name,) * (name in protocol.published) for name in results}
    else:
        rows = dict.fromkeys(results, protocol.rows_beside(config.published, split))
    runs = [Run(name, detections[name], result, rows[name]) for name, result in results.items()]
    comparison = Comparison(config.baseline, config.teacher)
    images = Path(config.images) if config.images else None
    data = build(protocol, runs, ground_truth, images, comparison, config.min_score)
    print(f"\nreport: {write(data, config.report_dir)}")
