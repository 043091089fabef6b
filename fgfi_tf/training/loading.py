"""Weights into detectors: of this package's checkpoints, the 2019 TF1 code's, other frameworks' files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.interop import imagenet, tf1_shuffledet, weight_files
from fgfi_tf.models import registry
from fgfi_tf.models.card import MODEL_FILE, ModelCard
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.shuffledet import ShuffleDet
from fgfi_tf.training.checkpoints import DAMAGE, find_checkpoint


def load_detector(
    path: Path | str,
    *,
    model: str = "",
    input_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Detector:
    """The detector of a checkpoint, with its weights (their moving average where the run kept one).

    Args:
        path: what ``checkpoints.find_checkpoint`` takes, or the prefix of a TF1 ShuffleDet checkpoint.
        model: its name, checked against the checkpoint's; needed for files of other programs only.
        input_size: see ``Detector.input_size``; by default that of its training.
        class_names: checked against the checkpoint's.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another model or other classes.
    """
    prefix = find_checkpoint(path)
    card = None if weight_files.is_weight_file(prefix) else ModelCard.read(prefix.parent)
    if card is None and not model:
        where = prefix if weight_files.is_weight_file(prefix) else f"{prefix.parent} has no {MODEL_FILE}"
        raise UserError(f"{where}: say which model it is (--model)")
    name = model or card.model
    if card is not None and name != card.model:
        raise UserError(f"{prefix} is a checkpoint of {card.model}, not of {name}")
    if card is not None and class_names is not None and tuple(class_names) != card.class_names:
        raise UserError(
            f"{prefix} detects {', '.join(card.class_names)}; the dataset has {', '.join(class_names)}"
        )
    if card is None:  # what the published weights were trained on
        kind = registry.detector_class(name)
        names = tuple(class_names or kind.default_class_names)
        card = ModelCard(name, kind.default_input_size, names, dataset=kind.default_dataset)
    detector = registry.build(
        name,
        input_size=input_size or card.input_size,
        class_names=card.class_names,
        dataset=card.dataset,
        classes=card.classes,
        **card.options,
    )
    load_weights(detector, prefix, name)
    return detector


def load_weights(detector: Detector, path: Path | str, name: str = "", *, backbone: bool = False) -> None:
    """Loads a checkpoint's weights into a detector; see :func:`load_detector`. Raises UserError.

    With ``backbone``, a TF1 checkpoint may hold the backbone alone.
    """
    prefix, name = find_checkpoint(path), name or detector.name
    if weight_files.is_weight_file(prefix):
        weight_files.load_detector_weights(detector, prefix)
        return
    if tf1_shuffledet.is_reference_checkpoint(prefix):
        _load_reference(detector, prefix, backbone)
        return
    _check_options(detector, prefix)
    try:
        names = [key for key, _ in tf.train.list_variables(str(prefix))]
        if not any(key.startswith("student/") for key in names):
            raise UserError(f"{prefix} is not a checkpoint of a training run")
        tf.train.Checkpoint(student=detector).read(
            str(prefix)
        ).assert_existing_objects_matched().expect_partial()
        if any(key.startswith("averages/") for key in names):
            averaged = tf.train.Checkpoint(averages=detector.trainable_variables)
            averaged.read(str(prefix)).assert_existing_objects_matched().expect_partial()
    except UserError:
        raise
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"{prefix} is a checkpoint of another model than {name}: {first_line(error)}"
        ) from error
    except DAMAGE as error:
        raise UserError(f"{prefix} is damaged: {first_line(error)}") from error


def load_initial_weights(detector: Detector, path: Path | str, pixels: str = "auto") -> None:
    """The weights that training starts from: as :func:`load_weights`, or a backbone's alone.

    ``path`` may be ``"imagenet"``: the weights of the detector's own backbone. ``pixels`` is for ImageNet
    files, see ``weight_files.load_initial_weights``. Raises UserError.
    """
    if str(path) == registry.IMAGENET:
        imagenet.load(detector)
        return
    prefix = find_checkpoint(path)
    if weight_files.is_weight_file(prefix):
        weight_files.load_initial_weights(detector, prefix, pixels)
    else:
        load_weights(detector, prefix, detector.card.model, backbone=True)


def _check_options(detector: Detector, prefix: Path) -> None:
    """Names the option, such as the width, in which a checkpoint's model differs."""
    card = ModelCard.read(prefix.parent)
    if card is None or detector.card is None or card.model != detector.card.model:
        return
    ours, theirs = detector.card.options.get("width", 1.0), card.options.get("width", 1.0)
    if ours != theirs:
        raise UserError(f"{prefix} is a checkpoint of {card.model} with --width={theirs:g}, not {ours:g}")


def _load_reference(detector: Detector, prefix: Path, backbone: bool) -> None:
    if not isinstance(detector, ShuffleDet):
        raise UserError(f"{prefix} is a TF1 checkpoint of ShuffleDet, not of {detector.name}")
    names = dict(tf.train.list_variables(str(prefix)))
    if not any(name.endswith("conv12/kernels") for name in names):
        if not backbone:
            raise UserError(f"{prefix} holds a backbone alone, not a trained detector")
        tf1_shuffledet.load(detector, prefix, backbone_only=True)
        return
    try:
        tf1_shuffledet.load(detector, prefix)
    except UserError:
        # An imitation run of the 2019 code keeps its teacher under a prefix.
        if not any(name.startswith(tf1_shuffledet.TEACHER_PREFIX) for name in names):
            raise
        tf1_shuffledet.load(detector, prefix, prefix=tf1_shuffledet.TEACHER_PREFIX)
