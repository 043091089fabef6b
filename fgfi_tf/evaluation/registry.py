"""Every evaluation protocol by name. A new protocol is one :func:`register`. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fgfi_tf.errors import UserError
from fgfi_tf.options import Chooses
from fgfi_tf.registries import Registry, resolved

if TYPE_CHECKING:
    from fgfi_tf.evaluation.protocol import Protocol


def _wanted(entry: type[Protocol] | str) -> str:
    if isinstance(entry, str):
        return ""
    from fgfi_tf.evaluation.protocol import Protocol

    right = isinstance(entry, type) and issubclass(entry, Protocol)
    return "" if right else f"subclass of {Protocol.__module__}.Protocol"


#: Classes, or where they are: ``"module:Class"``, imported when they are used.
_PROTOCOLS: Registry[type[Protocol] | str] = Registry("protocol", _wanted)
names, register, unregister = _PROTOCOLS.names, _PROTOCOLS.register, _PROTOCOLS.unregister

register("kitti", "fgfi_tf.evaluation.kitti.protocol:KittiProtocol")
register("voc", "fgfi_tf.evaluation.voc.protocol:VocProtocol")
register("coco", "fgfi_tf.evaluation.coco.protocol:CocoProtocol")
register("wider", "fgfi_tf.evaluation.wider.protocol:WiderProtocol")

#: A flag whose value is the name of a protocol.
CHOICE = Chooses("protocol", names)


def protocol_class(name: str) -> type[Protocol]:
    """The class of a protocol. Raises UserError for an unknown name."""
    return resolved(_PROTOCOLS.get(name))


def get(
    name: str,
    variant: str = "",
    min_overlap: Mapping[str, float] | None = None,
    class_names: Sequence[str] = (),
) -> Protocol:
    """A protocol. Raises UserError: an unknown name or variant, or overlaps where its rules fix the IoU."""
    found = protocol_class(name)
    if min_overlap and found.fixed_overlap:
        raise UserError(f"--min_overlap: the IoU of a match is fixed by the rules of {name}")
    return found(variant, min_overlap, class_names)
