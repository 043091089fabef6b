"""Weights into detectors: of this package's checkpoints, and of whatever else a detector reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from fgfi_tf import extensions
from fgfi_tf.errors import UserError, first_line
from fgfi_tf.interop import weight_files
from fgfi_tf.models import builtin, registry
from fgfi_tf.models.checkpoint_files import DAMAGE, find_checkpoint, step_of
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.metadata import MODEL_FILE, ModelMetadata


def read_metadata(prefix: Path) -> ModelMetadata | None:
    """The metadata of a checkpoint, its detector and dataset made known; None of a file of another program.

    The extensions that it names are imported, unless ``--extensions`` named some, which take their place, and
    the detector is known.

    Raises:
        UserError: the metadata is malformed, or the file that registers the detector is not there.
    """
    metadata = None if weight_files.is_weight_file(prefix) else ModelMetadata.read(prefix.parent)
    if metadata is not None and not (extensions.any_loaded() and metadata.model in registry.names()):
        extensions.load(metadata.extensions, f"{prefix.parent / MODEL_FILE}: extensions")
    return metadata


def load_detector(
    path: Path | str,
    *,
    model: str = "",
    input_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    any_classes: bool = False,
) -> Detector:
    """The detector of a checkpoint, with its weights (their moving average where the run kept one).

    Args:
        path: what ``find_checkpoint`` takes, or a file or TensorFlow checkpoint that ``model`` reads.
        model: its name, checked against the checkpoint's; needed for files of other programs only.
        input_size: see ``Detector.input_size``; by default that of its training.
        class_names: checked against the checkpoint's; those of a file that does not say them.
        any_classes: whether a checkpoint may be of other classes, which the detector has then.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another model or other classes.
    """
    prefix = find_checkpoint(path)
    metadata = read_metadata(prefix)
    if metadata is None and not model:
        where = prefix if weight_files.is_weight_file(prefix) else f"{prefix.parent} has no {MODEL_FILE}"
        raise UserError(f"{where}: say which model it is (--model)")
    if metadata is None:
        return _load_foreign(prefix, model, input_size, class_names, any_classes)
    if model and model != metadata.model:
        raise UserError(f"{prefix} is a checkpoint of {metadata.model}, not of {model}")
    if class_names is not None and tuple(class_names) != metadata.class_names and not any_classes:
        raise UserError(
            f"{prefix} detects {', '.join(metadata.class_names)}; the dataset has {', '.join(class_names)}"
        )
    detector = registry.build_from(metadata, input_size=input_size or metadata.input_size)
    load_weights(detector, prefix)
    return detector


def _load_foreign(
    prefix: Path,
    model: str,
    input_size: tuple[int, int] | None,
    class_names: Sequence[str] | None,
    any_classes: bool,
) -> Detector:
    """Of a file that does not say its classes: those given; where these do not fit, the published ones."""
    published = registry.declaration(model)
    size, names = input_size or published.input_size, tuple(class_names or published.class_names)

    def load(names: tuple[str, ...]) -> Detector:
        detector = registry.build(model, input_size=size, class_names=names, dataset=published.dataset)
        load_weights(detector, prefix)
        return detector

    try:
        return load(names)
    except UserError:
        if not any_classes or len(names) == len(published.class_names):
            raise
    return load(published.class_names)


def load_weights(detector: Detector, path: Path | str) -> None:
    """Loads a trained detector's weights; see :func:`load_detector`. Raises UserError."""
    prefix = find_checkpoint(path)
    if detector.load_trained(prefix):
        return
    name = _name(detector)
    if weight_files.is_weight_file(prefix):
        raise UserError(f"{prefix}: {name} has no weights in files of this kind")
    try:
        names = [key for key, _ in tf.train.list_variables(str(prefix))]
        if not any(key.startswith("student/") for key in names):
            raise UserError(f"{prefix} is neither a checkpoint of a training run nor one that {name} reads")
        tf.train.Checkpoint(student=detector).read(
            str(prefix)
        ).assert_existing_objects_matched().expect_partial()
        if any(key.startswith("averages/") for key in names):
            averaged = tf.train.Checkpoint(averages=_averaged(detector, prefix))
            averaged.read(str(prefix)).assert_existing_objects_matched().expect_partial()
    except UserError:
        raise
    except (ValueError, AssertionError) as error:
        raise UserError(_misfit(detector, prefix, first_line(error))) from error
    except DAMAGE as error:
        raise UserError(f"{prefix} is damaged: {first_line(error)}") from error


def _averaged(detector: Detector, prefix: Path) -> list[tf.Variable]:
    """Of which variables a checkpoint has moving averages: those that its run trained, in the run's order.

    Its options may differ from the detector's in what they freeze.
    """
    theirs = ModelMetadata.read(prefix.parent)
    if theirs is None or detector.metadata is None or theirs.options == detector.metadata.options:
        return detector.trainable_variables
    same = {"input_size": detector.input_size, "class_names": detector.class_names}
    trained = registry.build_from(theirs, **same)
    own, paths = _by_path(detector), {id(v): path for path, v in _by_path(trained).items()}
    return [own[paths[id(variable)]] for variable in trained.trainable_variables]


def _by_path(detector: Detector) -> dict[tuple[str, ...], tf.Variable]:
    """Its variables by the attributes that lead to them, whose order does not depend on what is frozen."""
    view, found, seen = tf.train.TrackableView(detector), {}, set()
    ahead = [((), detector)]
    while ahead:
        path, item = ahead.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, tf.Variable):
            found[path] = item
        ahead += [((*path, name), child) for name, child in view.children(item).items()]
    return found


def _misfit(detector: Detector, prefix: Path, told: str) -> str:
    """What a checkpoint is of that does not fit: another model, or the same with another option."""
    theirs = ModelMetadata.read(prefix.parent)
    if theirs is not None and theirs.model == _name(detector):
        was, now = map(_all_options, (theirs, detector.metadata))
        differing = [name for name in was if name in now and was[name] != now[name]]
        if differing:
            name, *_ = differing
            return f"{prefix} is a checkpoint of {theirs.model} with --{name}={was[name]}, not {now[name]}"
    return f"{prefix} is a checkpoint of another model than {_name(detector)}: {told}"


def load_initial_weights(detector: Detector, path: Path | str, pixels: str = "auto") -> str:
    """The weights that training starts from: a trained detector's, or what ``load_pretrained`` reads.

    Of a run of other classes all is taken that does not depend on the classes.

    Args:
        detector: to fill, made by ``registry.build``.
        path: a word that the detector declares, such as ``"imagenet"``, or what :func:`load_detector` takes.
        pixels: of an ImageNet file, see ``Detector.load_pretrained``.

    Returns:
        A line on what was not loaded, "" where everything was.

    Raises:
        UserError: a checkpoint of another model, or as ``Detector.load_pretrained``.
    """
    if registry.is_pretrained(_name(detector), str(path)):
        detector.load_pretrained(str(path), pixels)
        return ""
    prefix = find_checkpoint(path)
    if detector.load_pretrained(prefix, pixels):
        return ""
    theirs = read_metadata(prefix)
    if theirs is None or theirs.model != _name(detector):
        load_weights(detector, prefix)
        return ""
    was = _all_options(theirs)
    if theirs.class_names == detector.class_names:
        load_weights(detector, prefix)
        detector.begins_from(theirs.options, step_of(prefix))
        return _differing(detector, was, path)
    _transfer(detector, prefix, theirs.class_names)
    detector.begins_from(theirs.options, 0)
    counts = f"{len(theirs.class_names)} -> {len(detector.class_names)} classes"
    note = f"{path}: backbone loaded, head new: {counts}"
    return "; ".join(filter(None, (note, _differing(detector, was, path))))


def _all_options(metadata: ModelMetadata) -> dict[str, object]:
    return {option.name: option.default for option in registry.options(metadata.model)} | metadata.options


def _differing(detector: Detector, was: Mapping[str, object], path: Path | str) -> str:
    """What weights were trained with that changes no shape, and differs. Raises UserError where refused."""
    now, notes = _all_options(detector.metadata), []
    for option in registry.options(detector.metadata.model):
        name = option.name
        if option.weights == "any" or now[name] in (was[name], builtin.AUTO):
            continue
        if option.weights == "refused":
            raise UserError(f"{path}: these weights are for --{name}={was[name]}, not {now[name]}")
        notes.append(f"{path}: trained with --{name}={was[name]}, which is {now[name]} here")
    return "; ".join(notes)


def _transfer(detector: Detector, prefix: Path, class_names: tuple[str, ...]) -> None:
    """Loads what does not depend on the classes from a checkpoint of the same detector of other classes.

    That is every variable but those whose shape changes with the number of classes.
    """
    source = registry.build_from(detector.metadata, class_names=class_names)
    load_weights(source, prefix)
    other = source
    if len(class_names) == len(detector.class_names):
        other = registry.build_from(detector.metadata, class_names=(*class_names, "one more"))
    for target, value, changed in zip(detector.variables, source.variables, other.variables, strict=True):
        if target.shape == changed.shape:
            target.assign(value)


def _name(detector: Detector) -> str:
    return detector.metadata.model if detector.metadata is not None else detector.name
