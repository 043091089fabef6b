"""``scripts/evaluate.py`` on result files: flags, reading, the table, the JSON file, the report.

Imports no TensorFlow: evaluating text files takes a second, starting TensorFlow several.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry
from fgfi_tf.evaluation.comparison import Comparison
from fgfi_tf.evaluation.protocol import VARIANTS, Protocol
from fgfi_tf.options import Chooses, option

PROTOCOL = Chooses("protocol", registry.names)
_FILES, _OUTPUT = "Result files of any detector (no model needed)", "Output"


@dataclasses.dataclass(frozen=True)
class FilesConfig:
    """Options of an evaluation from text files."""

    detections: str = option(
        "", _FILES, "Folder of result files: NNNNNN.txt of KITTI, comp4_det_<set>_<class>.txt of VOC."
    )
    compare: str = option(
        "",
        _FILES,
        "Several such folders side by side: name=DIR,name=DIR. Shown with what each gains over --baseline; "
        "a name that is a row of the published table (see --published) is shown beside it.",
    )
    baseline: str = option(
        "", _FILES, "The model of --compare that others are compared with (empty: the first but --teacher)."
    )
    teacher: str = option(
        "", _FILES, "The model of --compare that taught others: gains are shown as shares of the gap to it."
    )
    format: str = option("kitti", _FILES, "Their format and protocol.", chooses=PROTOCOL)
    labels: str = option("", _FILES, "Folder of the label files: NNNNNN.txt, or VOC's Annotations.")
    split: str = option("", _FILES, "File with the images to evaluate, one id a line (empty: all labels).")
    allow_missing: bool = option(
        False, _FILES, "Count a missing result file as one without detections; else it is an error."
    )
    protocol: str = option(
        "official",
        _OUTPUT,
        "official: as the current development kits: KITTI's ignores small detections, VOC's accepts an IoU "
        "of exactly 0.5. reference: as the 2019 code, which does neither; of VOC, scores rounded to three "
        "decimals.",
        VARIANTS,
    )
    output_json: str = option("", _OUTPUT, "Write the results to this file, fractions in full precision.")
    report_dir: str = option("", _OUTPUT, "Write the report (HTML, Markdown, JSON, PNG) to this folder.")
    overwrite: bool = option(
        False, _OUTPUT, "Write over files that are there already and are no earlier results of an evaluation."
    )
    images: str = option("", _OUTPUT, "Folder of the images: the report shows the worst frames.")
    min_score: float = option(
        0.3, _OUTPUT, "Lowest score drawn where the report of --compare shows the same frames of all models."
    )
    name: str = option("model", _OUTPUT, "What the report calls the model of --detections.")
    published: str = option(
        "",
        _OUTPUT,
        "Row of the published table to show beside it: "
        + "; ".join(f"{name}: {', '.join(registry.get(name).published_rows)}" for name in registry.names()),
    )


def evaluate_files(config: FilesConfig) -> None:
    """Evaluates the folder(s), prints the table(s), writes what is asked for.

    Raises:
        UserError: for whatever is wrong with flags, folders or files.
    """
    folders, protocol = _folders(config), registry.get(config.format, config.protocol)
    if not config.labels:
        raise UserError("--labels is missing: the folder of the label files")
    protocol.check_published(config.published)
    comparison = Comparison(config.baseline, config.teacher)
    comparison.check(list(folders))
    check_outputs(config)
    truths = protocol.read_truths(config.labels, config.split)
    detections = {
        name: protocol.read_detections(folder, truths, config.split, config.allow_missing)
        for name, folder in folders.items()
    }
    results = {name: protocol.evaluate(found, truths) for name, found in detections.items()}
    print(protocol.table(results if config.compare else {"": results[config.name]}, config.published))
    if config.output_json:
        numbers = {name: result.to_json() for name, result in results.items()}
        write_json(config.output_json, numbers if config.compare else numbers[config.name])
    if config.report_dir:
        write_report(config, protocol, truths, detections, results)
    if len(results) > 1:
        metrics = {name: protocol.figures(result) for name, result in results.items()}
        print("", comparison.table(metrics), "", *comparison.sentences(metrics), sep="\n")


def check_outputs(config: FilesConfig) -> None:
    """Before the work: --output_json and --report_dir replace earlier results alone, unless told.

    Raises:
        UserError: something else is there.
    """
    if config.overwrite:
        return
    path = Path(config.output_json)
    if config.output_json and path.exists() and not _holds_results(path):
        raise UserError(
            f"--output_json={path} is there and holds no results of an evaluation; name another file, or "
            "--overwrite writes over it"
        )
    folder = Path(config.report_dir)
    pages = [name for name in ("index.html", "report.md") if (folder / name).exists()]
    if config.report_dir and pages and not _holds_results(folder / "report.json"):
        raise UserError(
            f"--report_dir={folder}: {pages[0]} is there and is of no report; name another folder, or "
            "--overwrite writes over it"
        )


def _holds_results(path: Path) -> bool:
    """Whether a file is JSON of :func:`write_json` or of a report."""
    try:
        text = path.read_text(encoding="utf-8")
        return isinstance(json.loads(text), dict) and '"AP11":' in text
    except (OSError, ValueError, RecursionError):
        return False


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
    protocol: Protocol,
    truths: Any,
    detections: dict[str, Any],
    results: dict[str, Any],
    split: str = "",
) -> None:
    """Writes the report of one or several models to ``config.report_dir`` and says where it is.

    ``split``: the name of the data set's split, where it is one.
    """
    from fgfi_tf.evaluation import report  # plotting takes a second to import

    if config.compare:  # a name that is a published row is shown beside it
        rows = {name: (name,) for name in results if name in protocol.published_rows}
    else:
        rows = {name: protocol.rows_beside(config.published, split) for name in results}
    images = Path(config.images) if config.images else None
    comparison = Comparison(config.baseline, config.teacher)
    data = protocol.report(detections, results, truths, images, rows, comparison, config.min_score)
    path = report.write(data, config.report_dir)
    print(f"\nreport: {path}")
