"""Every detector by name. A new detector is one entry here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fgfi_tf.errors import UserError
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.shuffledet import ShuffleDet
from fgfi_tf.models.shuffledet.network import VARIANTS


def _shuffledet(variant: str) -> Callable[..., Detector]:
    return lambda **options: ShuffleDet(variant, **options)


_BUILDERS: dict[str, Callable[..., Detector]] = {variant: _shuffledet(variant) for variant in VARIANTS}


def names() -> list[str]:
    """The names that :func:`build` knows."""
    return sorted(_BUILDERS)


def build(name: str, *, input_size: tuple[int, int], class_names: Sequence[str], **options) -> Detector:
    """A detector with fresh weights.

    Args:
        name: one of :func:`names`.
        input_size: (height, width) of the network input, pixels.
        class_names: what it detects, in the order of the dataset's class indices.
        options: what else the detector's constructor takes (``weight_decay`` ...).

    Raises:
        UserError: for an unknown name, or what the detector refuses.
    """
    if name not in _BUILDERS:
        raise UserError(f"unknown model {name!r}; known are {', '.join(names())}")
    return _BUILDERS[name](input_size=tuple(input_size), class_names=tuple(class_names), **options)
