"""Every detector by name. A new one is added by :func:`register`, from any file.

The package's own detectors are declared in ``builtin`` and name their code by text, so that their flags are
known without TensorFlow, which takes seconds to import.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fgfi_tf.errors import UserError
from fgfi_tf.models import builtin
from fgfi_tf.models.declaration import IMAGENET, Declaration
from fgfi_tf.models.metadata import ModelMetadata
from fgfi_tf.options import Option
from fgfi_tf.registries import Registry, resolved

if TYPE_CHECKING:
    from fgfi_tf.models.detector import Detector

__all__ = ["IMAGENET", "Declaration", "build", "declaration", "detector_class", "names", "register"]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A detector; see :func:`register`."""

    detector: type[Detector] | str
    build: Callable[..., Detector] | str
    declaration: Declaration


_DETECTORS: Registry[_Entry] = Registry("model")


def register(
    name: str,
    detector: type[Detector] | str,
    *,
    build: Callable[..., Detector] | str | None = None,
    declaration: Declaration | None = None,
    replace: bool = False,
) -> None:
    """Makes a detector known by a name, to every script that imports the file which calls this.

    Args:
        name: what ``--model`` says.
        detector: the class; or where it is, ``"package.module:Class"``, which is imported when it is needed.
        build: what makes one of ``input_size``, ``class_names``, ``weight_decay`` and its options by keyword;
            the class where it is not given. Of one that is named by text, such as
            ``"package.module:function"``, the first argument is ``name``.
        declaration: in place of the class's own; needed where the class is named by text.
        replace: whether an earlier detector of that name gives way.

    Raises:
        UserError: the name is taken and ``replace`` is not set, or ``detector`` is no detector.
    """
    if not isinstance(detector, str):
        from fgfi_tf.models.detector import Detector

        if not (isinstance(detector, type) and issubclass(detector, Detector)):
            raise UserError(
                f"model {name!r}: {detector!r} is no subclass of fgfi_tf.models.detector.Detector"
            )
        declaration = declaration or detector.declaration
    elif declaration is None:
        raise UserError(f"model {name!r}: {detector} is named by text and needs a declaration")
    _DETECTORS.register(name, _Entry(detector, build or detector, declaration), replace=replace)


names, unregister = _DETECTORS.names, _DETECTORS.unregister


def declaration(name: str) -> Declaration:
    """What a detector declares. Raises UserError for an unknown name."""
    return _DETECTORS.get(name).declaration


def options(name: str) -> tuple[Option, ...]:
    """The options of a detector. Raises UserError for an unknown name."""
    return declaration(name).options


def detector_class(name: str) -> type[Detector]:
    """The class of a detector. Raises UserError for an unknown name."""
    return resolved(_DETECTORS.get(name).detector)


def build(
    name: str,
    *,
    input_size: tuple[int, int],
    class_names: Sequence[str],
    dataset: str = "",
    extensions: Sequence[str] = (),
    classes: str = "",
    resize: str = "",
    **given: Any,
) -> Detector:
    """A detector with fresh weights.

    Args:
        name: one of ``names()``.
        input_size: see ``Detector.input_size``.
        class_names: what it detects, in the order of the dataset's class indices.
        dataset, classes: the data set it is for and its ``--classes``, for its metadata alone.
        extensions: what ``--extensions`` named, for its metadata alone.
        resize: the resize policy, where it is not to be the detector's own.
        given: what else the detector's constructor takes: ``weight_decay``, and its declared options, which
            have their declared defaults where they are not given.

    Raises:
        UserError: for an unknown name, or what the detector refuses.
    """
    entry = _DETECTORS.get(name)
    input_size, class_names = tuple(input_size), tuple(class_names)
    make = entry.build
    make = functools.partial(resolved(make), name) if isinstance(make, str) else make
    defaults = {option.name: option.default for option in entry.declaration.options}
    detector = make(input_size=input_size, class_names=class_names, **{**defaults, **given})
    chosen = {key: given[key] for key in defaults if key in given and given[key] != defaults[key]}
    resize = "" if resize == entry.declaration.resize else resize
    if resize:
        detector.resize = resize
    detector.metadata = ModelMetadata(
        name, input_size, class_names, chosen, dataset, tuple(extensions), classes, resize
    )
    return detector


def build_from(metadata: ModelMetadata, **changes: Any) -> Detector:
    """A detector with fresh weights as ``model.json`` describes it; ``changes`` of :func:`build`'s arguments.

    Raises:
        UserError: as :func:`build`; an option that the detector no longer has.
    """
    check_options(metadata.model, metadata.options)
    names = [field.name for field in dataclasses.fields(metadata) if field.name not in ("model", "options")]
    fields = {name: getattr(metadata, name) for name in names}
    return build(metadata.model, **{**fields, **metadata.options, **changes})


def is_pretrained(name: str, text: str) -> bool:
    """Whether ``text`` is a word for pretrained weights of a detector, and no path.

    Raises:
        UserError: it is one of other detectors alone.
    """
    if name in _DETECTORS and text in declaration(name).pretrained:
        return True
    if any(text in declaration(other).pretrained for other in names()):
        raise UserError(f"--init_checkpoint={text}: {name} has no such weights of its own; pass their file")
    return False


def check_options(name: str, given: Mapping[str, Any]) -> None:
    """Raises UserError where a detector has no such option, or not of that value."""
    known = {option.name: option for option in options(name)}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"{name} has no option {key!r} (it has {', '.join(known) or 'none'})")
        known[key].validate(value)


for _name, _detector, _build, _declaration in builtin.DETECTORS:
    register(_name, _detector, build=_build, declaration=_declaration)
