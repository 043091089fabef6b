"""``scripts/describe.py``: what a model is made of, and what it costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fgfi_tf.deploy.card import model_file
from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.options import option
from fgfi_tf.training import early, flags
from fgfi_tf.training.config import extensions_option
from fgfi_tf.training.parsing import parse_size

if TYPE_CHECKING:  # they import TensorFlow
    from fgfi_tf.deploy.counting import Description
    from fgfi_tf.models.detector import Detector

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
    model: str = option("", _GROUP, "Detector; needed for TF1 checkpoints and .pth files only.")
    layers: bool = option(True, _GROUP, "List every layer, or only the totals.")
    extensions: str = extensions_option(_GROUP)


def describe(config: DescribeConfig) -> str:
    """The tables of a model. Raises UserError where it cannot be found or read."""
    from fgfi_tf.deploy import counting

    if not config.model_path:
        raise UserError("name a detector, a file of flags, a checkpoint or an exported model (see --help)")
    path = Path(config.model_path)
    if file := model_file(path):
        return _text(config, path.name, counting.of_file(file))
    if (path / "saved_model.pb").is_file():
        return _text(config, path.name, counting.of_saved_model(path))
    detector = _detector(config, path)
    name = detector.metadata.model
    published = PUBLISHED.get(name) if tuple(detector.input_size) == PUBLISHED_SIZE else None
    height, width = detector.input_size
    title = f"{name}, input {height} x {width}, {len(detector.class_names)} classes"
    return _text(config, title, counting.of_detector(detector), published)


def _detector(config: DescribeConfig, path: Path) -> Detector:
    from fgfi_tf.models import loading

    size = parse_size("input_size", config.input_size) if config.input_size else None
    if path.suffix == ".cfg":
        run = flags.read_flagfile(path, config.extensions)
        options, name, given = run.options_of("model"), run.model, run.size
        resize = run.resize
    elif config.model_path in registry.names():
        options, name, given, resize = {}, config.model_path, None, ""
    else:
        early.check_checkpoint("model_path", config.model_path)
        return loading.load_detector(config.model_path, model=config.model, input_size=size)
    declared = registry.declaration(name)
    if options.get("anchors") == "auto":  # which only a training finds; there are as many
        options = {**options, "anchors": "published"}
    size = size or given or declared.input_size
    return registry.build(name, input_size=size, class_names=declared.class_names, resize=resize, **options)


def _text(
    config: DescribeConfig, title: str, found: Description, published: tuple[float, float] | None = None
) -> str:
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
        before = (total - found.layers[-1].multiply_adds) / 1e9
        lines.append(f"multiply-adds before the last layer: {before:.3f} G")
        lines.append(f"published: {parameters / 1e6:g} M parameters, {adds / 1e9:g} G multiply-adds")
    return "\n".join(lines)
