"""``scripts/describe.py``: what a model is made of, and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fgfi_tf.data import policies
from fgfi_tf.data import registry as datasets
from fgfi_tf.data.classes import parse
from fgfi_tf.deploy.card import model_file
from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.models.metadata import METADATA_FOLDER, ModelMetadata, is_saved_model
from fgfi_tf.options import did_you_mean, option
from fgfi_tf.training import early, flags
from fgfi_tf.training.config import extensions_option
from fgfi_tf.training.parsing import parse_size

if TYPE_CHECKING:  # they import TensorFlow
    from fgfi_tf.deploy.counting import Description, Layer
    from fgfi_tf.models.detector import Detector
    from fgfi_tf.training.config import ExperimentConfig

#: Multiply-adds and parameters that the paper gives, at 384 x 1248. Its multiply-adds are those of the layers
#: before the predicting one, as the numbers show.
PUBLISHED = {
    "shuffledet_1x": (5.1e9, 1.6e6),
    "shuffledet_0.5x": (1.5e9, 0.53e6),
    "shuffledet_0.25x": (0.67e9, 0.21e6),
}
PUBLISHED_SIZE = (384, 1248)
_GROUP = "Model"


@dataclasses.dataclass(frozen=True)
class DescribeConfig:
    """Options of a description."""

    model_path: str = option(
        "",
        _GROUP,
        "Name of a detector, file of flags (.cfg), run folder, checkpoint, SavedModel, TFLite or ONNX file; "
        "the flag's name may be left out.",
    )
    input_size: str = option("", _GROUP, "Size of the network input (empty: the model's own).")
    model: str = option(
        "", _GROUP, "Detector; needed for files of other programs only (TF1, .pth, .weights)."
    )
    layers: bool = option(True, _GROUP, "List every layer, or only the totals.")
    extensions: str = extensions_option(_GROUP)


def describe(config: DescribeConfig) -> str:
    """The tables of a model. Raises UserError where it cannot be found or read."""
    from fgfi_tf.deploy import counting

    if not config.model_path:
        raise UserError("name a detector, a file of flags, a checkpoint or an exported model (see --help)")
    path = Path(config.model_path)
    if file := model_file(path) or (path if is_saved_model(path) else None):
        if config.input_size:
            raise UserError(
                f"--input_size={config.input_size}: {path} is exported, and computes what it does"
            )
        of, beside = counting.of_file, file.parent
        if file.is_dir():
            of, beside = counting.of_saved_model, file / METADATA_FOLDER
        metadata = ModelMetadata.read(beside)
        title = f"{file.name}: {_title(metadata)}" if metadata else file.name
        return _text(config, title, of(file), _published(metadata))
    detector, note = _detector(config, path)
    title = f"{_title(detector.metadata, _counted_at(detector))}{note}"
    found = counting.of_detector(detector)
    return _text(config, title, found, _published(detector.metadata), found.layers[-1:])


def _title(metadata: ModelMetadata, counted_at: str = "") -> str:
    (height, width), count = metadata.input_size, len(metadata.class_names)
    classes = f"{count} class{'' if count == 1 else 'es'}"
    return f"{metadata.model}, input {height} x {width}{counted_at}, {classes}"


def _published(metadata: ModelMetadata | None) -> tuple[float, float] | None:
    at_size = metadata is not None and tuple(metadata.input_size) == PUBLISHED_SIZE
    return PUBLISHED.get(metadata.model) if at_size else None


def _counted_at(detector: Detector) -> str:
    resize = policies.resize(detector.resize)
    if not resize.by_batch:
        return ""
    height, width = resize.largest_input(detector.input_size)
    return f" ({detector.resize}; counted at {height} x {width})"


def _detector(config: DescribeConfig, path: Path) -> tuple[Detector, str]:
    """Of a name, flags or a checkpoint; with a remark on its classes where they are not known."""
    from fgfi_tf.models import loading

    size = parse_size("input_size", config.input_size) if config.input_size else None
    if path.suffix == ".cfg":
        run = flags.read_flagfile(path, config.extensions)
        options, name, given, resize = run.options_of("model"), run.model, run.size, run.resize
        class_names, note = _classes(run)
    elif config.model_path in registry.names():
        options, name, given, resize = {}, config.model_path, None, ""
        class_names, note = registry.declaration(name).class_names, ""
    else:
        early.check_checkpoint("model_path", config.model_path, _meant(config.model_path))
        detector = loading.load_detector(config.model_path, model=config.model, input_size=size)
        return detector, ""
    if options.get("anchors") == "auto":  # which only a training finds; there are as many
        options = {**options, "anchors": "published"}
    size = size or given or registry.declaration(name).input_size
    made = registry.build(name, input_size=size, class_names=class_names, resize=resize, **options)
    return made, note


def _meant(word: str) -> str:
    """What to do about a word that is neither a path nor a detector's name."""
    hint = did_you_mean(word, registry.names())
    return hint if hint.startswith("did") else f"names of detectors are {', '.join(registry.names())}"


def _classes(run: ExperimentConfig) -> tuple[tuple[str, ...], str]:
    """What a run of these flags learns, as far as they say it: else the classes that its data are known for.

    Those are the dataset's, or of detectors that are published with it. Of data whose labels alone tell
    their classes it is what the detector is published with, and a remark on that.
    """
    known = [registry.declaration(name) for name in registry.names()]
    candidates = [parse(run.classes).learnt, datasets.entry(run.dataset).class_names]
    candidates += [declared.class_names for declared in known if declared.dataset == run.dataset]
    found = next(filter(None, candidates), ())
    if found:
        return tuple(found), ""
    return registry.declaration(run.model).class_names, " (as published: only labels say those of the data)"


def _text(
    config: DescribeConfig,
    title: str,
    found: Description,
    published: tuple[float, float] | None,
    predicting: Sequence[Layer] = (),
) -> str:
    """``predicting``: the layer that is not among the published multiply-adds, where it is told apart."""
    rows = [("layer", "kind", "output", "parameters", "multiply-adds")] if config.layers else []
    for layer in found.layers if config.layers else ():
        shape = (
            "?" if layer.shape is None else " x ".join("?" if s is None else str(s) for s in layer.shape[1:])
        )
        adds = "?" if layer.multiply_adds is None else f"{layer.multiply_adds:,}"
        rows.append((layer.name, layer.kind, shape, f"{layer.parameters:,}", adds))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [title]
    for name, kind, shape, parameters, adds in rows:
        left = f"{name:{widths[0]}}  {kind:{widths[1]}}  {shape:{widths[2]}}"
        lines.append(f"{left}  {parameters:>{widths[3]}}  {adds:>{widths[4]}}")
    trainable = "" if found.trainable is None else f" ({found.trainable:,} trainable)"
    lines.append(f"parameters: {found.parameters:,}{trainable}")
    total = found.multiply_adds
    known = sum(layer.multiply_adds or 0 for layer in found.layers)
    lines.append(
        f"multiply-adds: {total / 1e9:.3f} G" if total else f"multiply-adds: {known / 1e9:.3f} G and more"
    )
    if published:
        adds, parameters = published
        for layer in predicting:
            before = (total - layer.multiply_adds) / 1e9
            lines.append(f"multiply-adds before the last layer: {before:.3f} G")
        lines.append(f"published: {parameters / 1e6:g} M parameters, {adds / 1e9:g} G multiply-adds")
    return "\n".join(lines)
