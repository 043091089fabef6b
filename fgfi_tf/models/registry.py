"""Every detector by name. A new detector is one entry here.

An entry names its code by text, so that the names are known without TensorFlow, which takes seconds to
import.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fgfi_tf.data import policies
from fgfi_tf.errors import UserError
from fgfi_tf.models.card import ModelCard

if TYPE_CHECKING:
    from fgfi_tf.models.detector import Detector

#: In place of a weight file: the ImageNet weights of a detector's own backbone.
IMAGENET = "imagenet"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A detector: its class, whose attributes are known before it is built, and what builds it.

    Attributes:
        detector: the class, or where it is: ``"module:name"``.
        build: a function of ``input_size``, ``class_names`` and the options, or where it is; such a one is
            given the detector's name first.
        teacher: the published teacher of this detector, "" where there is none.
    """

    detector: type[Detector] | str
    build: Callable[..., Detector] | str
    teacher: str = ""


_SHUFFLEDET = "fgfi_tf.models.shuffledet:ShuffleDet"
_BACKBONE = "fgfi_tf.models.shuffledet:BackboneShuffleDet"
_FASTER_RCNN = "fgfi_tf.models.faster_rcnn:FasterRCNN"
_ENTRIES: dict[str, Entry] = {
    # on each of models/backbones
    **{
        f"{backbone}_shuffledet": Entry(_BACKBONE, _BACKBONE)
        for backbone in ("efficientnet_lite0", "efficientnet_b0", "mobilenet_v2", "resnet50")
    },
    **{
        f"shuffledet_{width}": Entry(_SHUFFLEDET, _SHUFFLEDET, "shuffledet_1x")
        for width in ("1x", "0.5x", "0.25x")
    },
    **{
        f"faster_rcnn_{backbone}": Entry(
            _FASTER_RCNN, "fgfi_tf.models.faster_rcnn:build", "faster_rcnn_vgg16"
        )
        for backbone in ("vgg11", "vgg16")
    },
}


def names() -> list[str]:
    """The names that :func:`build` knows."""
    return sorted(_ENTRIES)


def detector_class(name: str) -> type[Detector]:
    """The class of a detector. Raises UserError for an unknown name."""
    if name not in _ENTRIES:
        raise UserError(f"unknown model {name!r}; known are {', '.join(names())}")
    return _resolved(_ENTRIES[name].detector)


def published_teacher(name: str) -> str:
    """The detector that teaches ``name`` in the published runs, "" where there is none."""
    return _ENTRIES[name].teacher if name in _ENTRIES else ""


def check_options(name: str, options: Mapping[str, object]) -> None:
    """Raises UserError where users cannot choose one of ``options`` for a detector."""
    known = detector_class(name).user_options
    for option in options:
        if option not in known:
            listed = ", ".join(f"--{other}" for other in known) or "none"
            raise UserError(f"--{option}: {name} has no such option (it has {listed})")


def build(
    name: str,
    *,
    input_size: tuple[int, int],
    class_names: Sequence[str],
    dataset: str = "",
    resize: str = "",
    **options,
) -> Detector:
    """A detector with fresh weights.

    Args:
        name: one of :func:`names`.
        input_size: see ``Detector.input_size``.
        class_names: what it detects, in the order of the dataset's class indices.
        dataset: the data set it is for, for its card alone.
        resize: the resize policy, where it is not to be the detector's own; an option of its card.
        options: what else the detector's constructor takes (``weight_decay``, its ``user_options``).

    Raises:
        UserError: for an unknown name, or what the detector refuses.
    """
    kind = detector_class(name)
    input_size, class_names = tuple(input_size), tuple(class_names)
    make = _ENTRIES[name].build
    make = functools.partial(_resolved(make), name) if isinstance(make, str) else make
    detector = make(input_size=input_size, class_names=class_names, **options)
    chosen = {key: options[key] for key in kind.user_options if key in options}
    if resize:
        policies.resize(resize)
        detector.resize = chosen["resize"] = resize
    detector.card = ModelCard(name, input_size, class_names, chosen, dataset)
    return detector


def _resolved(code: Any) -> Any:
    """What ``"module:name"`` names; anything else as it is."""
    if not isinstance(code, str):
        return code
    module, _, name = code.partition(":")
    return getattr(importlib.import_module(module), name)
