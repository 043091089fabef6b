"""``scripts/inspect_data.py``: flags, what the splits of a data set hold, the page that shows it."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.data import inspection, policies, splits
from fgfi_tf.data import registry as datasets
from fgfi_tf.data.classes import ClassTable, listed, parse, resolve
from fgfi_tf.data.dataset import Frame, first_of
from fgfi_tf.data.images import MAX_MEGAPIXELS, read_for_report
from fgfi_tf.data.inspection import Inspected, Objects
from fgfi_tf.errors import UserError, UserErrors
from fgfi_tf.evaluation.report.data import Bars, Figure, Gallery, Picture, ReportData, Row, Section, Table
from fgfi_tf.evaluation.report.write import to_markdown, write
from fgfi_tf.models import registry
from fgfi_tf.options import at_least, check_values, fraction, not_negative, option, options_of, positive
from fgfi_tf.paths import user_path
from fgfi_tf.training.config import DATASET, DETECTOR, RESIZE, extensions_option
from fgfi_tf.training.parsing import parse_size

_DATA, _INPUT = "Data", "Network input"
_QUANTILES, _LISTED = (0.05, 0.25, 0.5, 0.75, 0.95), 20
_EDGES = (0, 8, 16, 32, 64, 128, np.inf)
_SIZES = (
    ("under 8", "#b4432f"),
    ("8 to 16", "#d97a1f"),
    ("16 to 32", "#8a8f98"),
    ("32 to 64", "#4d9db8"),
    ("64 to 128", "#3465a4"),
    ("128 and more", "#2f8f6b"),
)
_SIDE = 640  # pixels of the longer side of a drawn picture


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Options of an inspection; those of the data are train.py's."""

    dataset: str = option("folder", _DATA, "Dataset to inspect.", chooses=DATASET)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extensions: str = extensions_option(_DATA)
    data_dir: str = option("", _DATA, "Folder of the raw dataset; may also stand without --data_dir=.")
    train_split: str = option("train", _DATA, "As of train.py; folders with splits of their own show all.")
    val_split: str = option("val", _DATA, "As of train.py; folders with splits of their own show all.")
    classes: str = option("", _DATA, "Classes to learn, merge and ignore, as train.py takes them.")
    val_fraction: float = option(
        splits.VAL_FRACTION, _DATA, "Share that is val where there are no splits.", check=fraction
    )
    max_megapixels: float = option(
        MAX_MEGAPIXELS, _DATA, "Larger pictures are told as broken.", check=positive
    )
    model: str = option("shuffledet_0.5x", _INPUT, "Detector that the sizes are for.", chooses=DETECTOR)
    input_size: str = option("", _INPUT, "Network input, as of train.py (empty: what is suggested).")
    resize: str = option("", _INPUT, policies.RESIZE_HELP, chooses=RESIZE)
    stride: int = option(
        16, _INPUT, "Pixels of the input between two cells of the detector's feature map.", check=at_least(1)
    )
    output_dir: str = option("", "Page", "Folder for the page: index.html, report.md, figures, pictures.")
    pictures: int = option(
        12, "Page", "Pictures drawn of each split, those with most objects first.", check=not_negative
    )


@dataclasses.dataclass(frozen=True)
class Found:
    """A data set that was looked at, by the names of its splits."""

    splits: Mapping[str, Sequence[Inspected]]
    table: ClassTable
    objects: Mapping[str, Objects]
    problems: Sequence[str]


def run(config: InspectConfig, progress: bool = True) -> int:
    """Prints what a data set holds, writes the page where asked for; 1 where something is broken.

    Raises:
        UserError: no folder, or no split of it can be read; the page would be in that folder.
    """
    if not config.data_dir:
        raise UserError("--data_dir is missing: the folder of the pictures and labels")
    check_values(config)
    if config.input_size and max(parse_size("input_size", config.input_size)) < 1:
        raise UserError(f"--input_size={config.input_size}: a side must be at least 1")
    folder = user_path(config.data_dir).resolve()
    if config.output_dir and user_path(config.output_dir).resolve().is_relative_to(folder):
        raise UserError(
            f"--output_dir={config.output_dir}: is in --data_dir, of which the page's pictures would be part"
        )
    found = look(config, progress)
    data = report(config, found)
    for_terminal = tuple(
        dataclasses.replace(section, parts=tuple(part for part in section.parts if isinstance(part, Table)))
        for section in data.sections
    )
    print(to_markdown(dataclasses.replace(data, sections=for_terminal)))
    if config.output_dir:
        print(f"page: {write(data, config.output_dir)}")
    return 1 if found.problems else 0


def look(config: InspectConfig, progress: bool) -> Found:
    """Reads every split. Raises UserError where none can be."""
    dataset, root = datasets.entry(config.dataset), user_path(config.data_dir)
    frames: dict[str, list[Frame]] = {}
    unread: dict[str, list[str]] = {}  # what is wrong -> the splits that it is wrong with
    options = options_of(config, "dataset")
    own = dataset.splits(root)
    for split in own if own is not None and len(own) > 1 else [config.train_split, config.val_split]:
        try:
            frames[split] = splits.frames_of(dataset, root, split, config.val_fraction, options)
        except UserError as error:
            for line in str(error).splitlines()[isinstance(error, UserErrors) :]:  # less the heading
                unread.setdefault(line, []).append(split)
    problems = [f"{', '.join(names)}: {line}" for line, names in unread.items()]
    if not frames:
        heading = [f"{root}: no split can be read:"] if len(problems) > 1 else []
        raise UserErrors("\n".join([*heading, *problems]))
    counts = collections.Counter(name for found in frames.values() for frame in found for name in frame.names)
    table = resolve(parse(config.classes), counts, dataset.class_names, dataset.ignored_names, str(root))
    looked = {
        split: inspection.inspect(found, config.max_megapixels, f"reading {split}", progress)
        for split, found in frames.items()
    }
    objects = {split: inspection.objects_of(found, table) for split, found in looked.items()}
    problems += [f"{split}: {one.problem}" for split, found in looked.items() for one in found if one.problem]
    return Found(looked, table, objects, problems)


def report(config: InspectConfig, found: Found) -> ReportData:
    """What was found as sections of a page."""
    sizes = np.array([one.size for looked in found.splits.values() for one in looked if one.size is not None])
    every = inspection.joined(found.objects.values())
    facts = [("pictures", str(sum(map(len, found.splits.values())))), ("objects", str(len(every.classes)))]
    facts += [("classes", str(len(found.table.learnt)))]
    findings, sections = [], []
    if len(sizes):
        policy = policies.resize(config.resize or registry.declaration(config.model).resize)
        long = inspection.CELLS * config.stride
        suggested, reached = inspection.suggested_size(every, sizes, long, policy)
        size = parse_size("input_size", config.input_size) if config.input_size else suggested
        flag = f"--input_size={size[0]}x{size[1]}"
        if not config.input_size:
            what = "the smallest" if reached > 0.5 else "too small for an input"
            findings.append(
                f"{flag}: {what} at which most objects are as long as {inspection.CELLS} cells of the "
                f"feature map, {long} pixels ({reached:.0%} of them are); larger finds more."
            )
        facts.append(("network input", f"{size[0]}x{size[1]}"))
        at_input = every.at_input(size, policy)
        small = (at_input.max(axis=1) < config.stride).sum()
        if small:
            findings.append(
                f"At {flag}, {small} of {len(at_input)} objects ({small / len(at_input):.0%}) are smaller "
                "than a cell of the feature map on both sides: too small for a detector of stride "
                f"{config.stride}."
            )
        sections.append(_size_section(found, every, at_input, sizes, flag))
    groups = inspection.duplicates(found.splits)
    sections.append(_problem_section(found, groups))
    sections += [_pictures(config, split, looked, found.table) for split, looked in found.splits.items()]
    between = sum(map(inspection.between_splits, groups))
    if between:
        findings.append(f"In several splits: {_number(between, 'picture')}; results on them mean nothing.")
    if found.problems:
        findings.append(f"A training stops at {_number(len(found.problems), 'problem')}; see below.")
    cut = sum(one.cut for looked in found.splits.values() for one in looked)
    if cut:
        findings.append(f"Over the edge of their picture, and cut: {_number(cut, 'box', 'boxes')}.")
    if config.classes and (missing := inspection.absent_classes(found.splits, found.table)):
        findings.append(f"{missing}.")
    if found.table.unknown:
        findings.append(f"Classes that are not learnt without --classes: {listed(found.table.unknown)}.")
    heads = [Table("", (), tuple(Row(text, ()) for text in findings))] if findings else []
    sections.insert(0, Section("Overview", (*heads, _class_table(found))))
    numbers = {"facts": dict(facts), "findings": findings, "problems": list(found.problems)}
    numbers["duplicates"] = [list(group) for group in groups]
    title = f"{Path(config.data_dir).resolve().name}, --dataset={config.dataset}"
    return ReportData(title, "What the data holds.", tuple(facts), tuple(sections), numbers)


def _class_table(found: Found) -> Table:
    """Objects and pictures of each class in each split; ignored classes behind the learnt ones."""
    every, index = list(found.splits.values()), found.table.index
    rows = []
    for place, name in enumerate(found.table.names):
        held = [
            [sum(index[n.lower()] == place for n in one.frame.names) for one in looked] for looked in every
        ]
        values = tuple(value for counts in held for value in (sum(counts), sum(map(bool, counts))))
        learnt = place < len(found.table.learnt)
        if learnt or any(values):
            rows.append(Row(name if learnt else f"{name} (ignored)", values, "" if learnt else "muted"))
    held = [[len(one.frame.names) for one in looked] for looked in every]
    rows.append(Row("no object", tuple(v for counts in held for v in (0, counts.count(0))), "muted"))
    rows.append(Row("all", tuple(v for counts in held for v in (sum(counts), len(counts))), "total"))
    groups = tuple((split, 2) for split in found.splits)
    return Table("Objects by class and split", ("objects", "pictures") * len(groups), tuple(rows), groups)


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _size_section(
    found: Found, every: Objects, at_input: np.ndarray, sizes: np.ndarray, flag: str
) -> Section:
    columns = tuple(f"{share:.0%}" for share in _QUANTILES)

    def row(name: str, values: np.ndarray) -> Row:
        none = (None,) * len(_QUANTILES)
        return Row(name, tuple(map(float, np.quantile(values, _QUANTILES))) if len(values) else none)

    heights, widths = sizes.T
    shapes = (row("width", widths), row("height", heights), row("width / height", widths / heights))
    side = np.sqrt(at_input.prod(axis=1))
    sides = {name: side[every.classes == place] for place, name in enumerate(found.table.learnt)}
    counts = [np.histogram(values, _EDGES)[0] for values in sides.values()]
    series = tuple(
        (name, color, tuple(float(of[i] / max(1, of.sum())) for of in counts))
        for i, (name, color) in enumerate(_SIZES)
    )
    categories = tuple(f"{name} ({len(values)})" for name, values in sides.items())
    bars = Bars(f"square root of the area at {flag}, pixels", categories, series, "share of the objects")
    note = "Quantiles: 5% of the values are below the first column."
    objects = f"Objects at {flag}: square root of the area in pixels"
    return Section(
        "Sizes",
        (
            Table("Pictures, in pixels", columns, shapes, note=note),
            Table(objects, columns, tuple(row(*item) for item in sides.items())),
            Figure("object_sizes", "", (bars,), columns=1),
        ),
    )


def _problem_section(found: Found, groups: Sequence[Sequence[str]]) -> Section:
    parts, notes = [], {}
    for heading, lines in (
        ("What stops a training", found.problems),
        ("Pictures of the same content", [" = ".join(group[:4]) for group in groups]),
    ):
        if lines:
            parts.append(
                Table(f"{heading}: {len(lines)}", (), tuple(Row(line, ()) for line in lines[:_LISTED]))
            )
    for split, looked in found.splits.items():
        for one in looked:
            for note in [*one.frame.notes, *["boxes over the edge, cut"] * one.cut]:
                notes.setdefault((split, note), []).append(one.frame.image_id)
    text = " ".join(f"{split}: {note} ({len(ids)}: {first_of(ids)})." for (split, note), ids in notes.items())
    if not (text or parts):
        text = "None: every picture can be read, every box lies in its picture."
    return Section("Problems", tuple(parts), text)


def _pictures(config: InspectConfig, split: str, looked: Sequence[Inspected], table: ClassTable) -> Section:
    from PIL import Image

    from fgfi_tf.drawing import draw_boxes

    readable = [one for one in looked if one.size is not None]
    readable.sort(key=lambda one: (-len(one.frame.names), one.frame.image_id))
    most = (config.pictures + 1) // 2
    chosen = [*readable[:most], *inspection.spread(readable[most:], config.pictures - most)]
    pictures, file_name = [], re.sub(r"\W", "_", split)
    for number, one in enumerate(chosen):
        image = read_for_report(one.frame.image_path)
        scale = _SIDE / max(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        index = table.indices(one.frame.names)
        labels = [
            table.names[i] if i < len(table.learnt) and not ignored else f"{name} (ignored)"
            for i, name, ignored in zip(index, one.frame.names, one.frame.ignore, strict=True)
        ]
        boxes = (one.frame.boxes + [0, 0, 1, 1]) * scale - [0, 0, 1, 1]
        caption = f"{one.frame.image_id}, {one.size[1]} x {one.size[0]}, {len(labels)} objects"
        pictures.append(
            Picture(f"{file_name}_{number}", caption, draw_boxes(np.asarray(resized), boxes, labels))
        )
    note = "Those with most objects, then some of the others."
    return Section(f"Pictures of {split}", (Gallery("", tuple(pictures), note, columns=3),))
