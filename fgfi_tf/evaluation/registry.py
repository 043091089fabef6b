"""Every evaluation protocol by name. A new protocol is one entry here. Imports no TensorFlow."""

from __future__ import annotations

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.kitti_protocol import KittiProtocol
from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.evaluation.voc_protocol import VocProtocol

_PROTOCOLS: dict[str, type[Protocol]] = {"kitti": KittiProtocol, "voc": VocProtocol}


def names() -> list[str]:
    """The names that :func:`get` knows."""
    return sorted(_PROTOCOLS)


def get(name: str, variant: str = "official") -> Protocol:
    """A protocol. Raises UserError for an unknown name."""
    if name not in _PROTOCOLS:
        raise UserError(f"unknown kind of result files {name!r}; known are {', '.join(names())}")
    return _PROTOCOLS[name](variant)
