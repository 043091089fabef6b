"""Every evaluation protocol by name. A new protocol is one :func:`register`. Imports no TensorFlow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fgfi_tf.errors import UserError

if TYPE_CHECKING:
    from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.options import Chooses

_PROTOCOLS: dict[str, type[Protocol] | str] = {
    "kitti": "fgfi_tf.evaluation.kitti.protocol:KittiProtocol",
    "voc": "fgfi_tf.evaluation.voc.protocol:VocProtocol",
    "coco": "fgfi_tf.evaluation.coco.protocol:CocoProtocol",
    "wider": "fgfi_tf.evaluation.wider.protocol:WiderProtocol",
}


def register(name: str, protocol: type[Protocol] | str) -> None:
    """Makes a protocol known, as a class or as ``module:Class``, which is imported when it is used.

    Raises:
        UserError: another protocol has the name.
    """
    if _PROTOCOLS.get(name, protocol) != protocol:
        raise UserError(f"a protocol {name!r} is registered already")
    _PROTOCOLS[name] = protocol


def names() -> list[str]:
    """The names that :func:`get` knows."""
    return sorted(_PROTOCOLS)


def protocol_class(name: str) -> type[Protocol]:
    """The class of a protocol. Raises UserError for an unknown name."""
    if name not in _PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; known are {', '.join(names())}")
    found = _PROTOCOLS[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = _PROTOCOLS[name] = getattr(importlib.import_module(module), attribute)
    return found


def get(
    name: str,
    variant: str = "",
    min_overlap: Mapping[str, float] | None = None,
    class_names: Sequence[str] = (),
) -> Protocol:
    """A protocol. Raises UserError for an unknown name or variant."""
    return protocol_class(name)(variant, min_overlap, class_names)


#: A flag whose value is the name of a protocol.
CHOICE = Chooses("protocol", names)
