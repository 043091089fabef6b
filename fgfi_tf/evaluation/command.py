"""``scripts/evaluate.py`` on result files: flags, reading, the table, the JSON file, the report.

Imports no TensorFlow: evaluating text files takes a second, starting TensorFlow several.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import kitti, kitti_io, published
from fgfi_tf.evaluation.kitti_types import Detections, Labels
from fgfi_tf.evaluation.tables import ap_table


def _option(default: Any, group: str, text: str, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": text, "choices": choices})


_FILES, _OUTPUT = "Result files of any detector (no model needed)", "Output"


@dataclasses.dataclass(frozen=True)
class FilesConfig:
    """Options of an evaluation from text files."""

    detections: str = _option("", _FILES, "Folder of result files NNNNNN.txt in KITTI's format.")
    compare: str = _option(
        "",
        _FILES,
        "Several such folders side by side: name=DIR,name=DIR. Shown with the differences of each two; "
        "a name that is a row of the published table (1x, 0.5x, 0.5x-I, 0.25x, 0.25x-I) is shown beside it.",
    )
    labels: str = _option("", _FILES, "Folder of the label files NNNNNN.txt.")
    split: str = _option("", _FILES, "File with the frames to evaluate, one id a line (empty: all labels).")
    allow_missing: bool = _option(
        False, _FILES, "Count a missing result file as a frame without detections; else it is an error."
    )
    protocol: str = _option(
        "official",
        _OUTPUT,
        "official: today's development kit, small detections are ignored; reference: the 2019 code.",
        kitti.PROTOCOLS,
    )
    output_json: str = _option("", _OUTPUT, "Write the results to this file, fractions in full precision.")
    report_dir: str = _option("", _OUTPUT, "Write the report (HTML, Markdown, JSON, PNG) to this folder.")
    images: str = _option("", _OUTPUT, "Folder of the images: the report shows the worst frames.")
    name: str = _option("model", _OUTPUT, "What the report calls the model of --detections.")
    published: str = _option(
        "", _OUTPUT, f"Row of the published table to show beside it: {', '.join(published.SHUFFLEDET_ROWS)}."
    )


def evaluate_files(config: FilesConfig) -> None:
    """Evaluates the folder(s), prints the table(s), writes what is asked for.

    Raises:
        UserError: for whatever is wrong with flags, folders or files.
    """
    folders = _folders(config)
    if not config.labels:
        raise UserError("--labels is missing: the folder of the label files (NNNNNN.txt)")
    if config.published not in ("", *published.SHUFFLEDET_ROWS):
        raise UserError(
            f"--published={config.published} is not one of {', '.join(published.SHUFFLEDET_ROWS)}"
        )
    frames = kitti_io.read_split(config.split) if config.split else kitti_io.list_frames(config.labels)
    labels = kitti_io.read_labels(config.labels, frames)
    detections = {
        name: kitti_io.read_detections(folder, frames, config.allow_missing)
        for name, folder in folders.items()
    }
    evaluations = {name: kitti.evaluate(d, labels, config.protocol) for name, d in detections.items()}
    print("\n\n".join(ap_table(e, name if config.compare else "") for name, e in evaluations.items()))
    if config.output_json:
        results = {name: evaluation.to_json() for name, evaluation in evaluations.items()}
        write_json(config.output_json, results if config.compare else results[config.name])
    if config.report_dir:
        write_report(config, labels, detections, evaluations)


def write_json(path: str, results: dict[str, Any]) -> None:
    """Writes a JSON file, its folder too. Raises UserError where that is not possible."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def _folders(config: FilesConfig) -> dict[str, str]:
    if config.detections and config.compare:
        raise UserError("give --detections or --compare, not both")
    if not config.compare:
        return {config.name: config.detections}
    folders: dict[str, str] = {}
    for part in config.compare.split(","):
        name, _, folder = part.partition("=")
        if not name or not folder or name in folders:
            raise UserError(f"--compare: {part!r} is not name=DIR with a name of its own")
        folders[name] = folder
    return folders


def write_report(
    config: FilesConfig,
    labels: Labels,
    detections: dict[str, Detections],
    evaluations: dict[str, kitti.Evaluation],
) -> None:
    """Writes the report of one or several models to ``config.report_dir`` and says where it is."""
    from fgfi_tf.evaluation import report, report_kitti  # plotting takes a second to import

    runs = [
        report_kitti.Run(
            name,
            detections[name],
            evaluations[name],
            (name if name in published.SHUFFLEDET_ROWS else "") if config.compare else config.published,
        )
        for name in evaluations
    ]
    images = Path(config.images) if config.images else None
    path = report.write(report_kitti.build(runs, labels, images), config.report_dir)
    print(f"\nreport: {path}")
