"""Every detector by name. A new detector is one entry here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from fgfi_tf.errors import UserError
from fgfi_tf.models import faster_rcnn
from fgfi_tf.models.card import ModelCard
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.shuffledet import BackboneShuffleDet, ShuffleDet, network, pretrained


@dataclasses.dataclass(frozen=True)
class Entry:
    """A detector: its class, whose attributes are known before it is built, and what builds it."""

    detector: type[Detector]
    build: Callable[..., Detector]


_ENTRIES: dict[str, Entry] = {
    **{name: Entry(ShuffleDet, functools.partial(ShuffleDet, name)) for name in network.VARIANTS},
    **{
        name: Entry(BackboneShuffleDet, functools.partial(BackboneShuffleDet, name))
        for name in pretrained.VARIANTS
    },
    **{
        name: Entry(faster_rcnn.FasterRCNN, functools.partial(faster_rcnn.build, name))
        for name in faster_rcnn.VARIANTS
    },
}


def names() -> list[str]:
    """The names that :func:`build` knows."""
    return sorted(_ENTRIES)


def detector_class(name: str) -> type[Detector]:
    """The class of a detector. Raises UserError for an unknown name."""
    if name not in _ENTRIES:
        raise UserError(f"unknown model {name!r}; known are {', '.join(names())}")
    return _ENTRIES[name].detector


def check_options(name: str, options: Mapping[str, object]) -> None:
    """Raises UserError where users cannot choose one of ``options`` for a detector."""
    known = detector_class(name).user_options
    for option in options:
        if option not in known:
            listed = ", ".join(f"--{other}" for other in known) or "none"
            raise UserError(f"--{option}: {name} has no such option (it has {listed})")


def build(
    name: str, *, input_size: tuple[int, int], class_names: Sequence[str], dataset: str = "", **options
) -> Detector:
    """A detector with fresh weights.

    Args:
        name: one of :func:`names`.
        input_size: see ``Detector.input_size``.
        class_names: what it detects, in the order of the dataset's class indices.
        dataset: the data set it is for, for its card alone.
        options: what else the detector's constructor takes (``weight_decay``, its ``user_options``).

    Raises:
        UserError: for an unknown name, or what the detector refuses.
    """
    kind = detector_class(name)
    input_size, class_names = tuple(input_size), tuple(class_names)
    detector = _ENTRIES[name].build(input_size=input_size, class_names=class_names, **options)
    chosen = {key: options[key] for key in kind.user_options if key in options}
    detector.card = ModelCard(name, input_size, class_names, chosen, dataset)
    return detector
