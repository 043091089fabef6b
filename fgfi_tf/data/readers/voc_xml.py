"""Annotations as the PASCAL VOC devkit writes them, one XML file a picture, and as many tools do."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError

# Flags are 0 and 1 in the devkit's files, and words in what some tools write; no text is 0.
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "y", "t"), True),
    **dict.fromkeys(("0", "false", "no", "n", "f", "unspecified", ""), False),
}
_ENCODING = re.compile(rb"<\?xml[^>]*\sencoding\s*=\s*[\"']([^\"'>]*)[\"']")


@dataclasses.dataclass(frozen=True)
class VocObject:
    """One object of an annotation, in pixels of the image."""

    name: str
    box: tuple[float, float, float, float]  # (xmin, ymin, xmax, ymax), 0-based inclusive
    difficult: bool
    truncated: bool


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One annotation file.

    Attributes:
        image_size: (H, W); None where the file does not say, or says 0.
        objects: all of them, of whatever class.
    """

    image_size: tuple[int, int] | None
    objects: tuple[VocObject, ...]

    @property
    def boxes(self) -> np.ndarray:
        """float64 [N,4]."""
        return np.array([o.box for o in self.objects], np.float64).reshape(-1, 4)

    @property
    def names(self) -> tuple[str, ...]:
        """N class names as the file spells them."""
        return tuple(o.name for o in self.objects)

    @property
    def attributes(self) -> dict[str, np.ndarray]:
        """``difficult`` and ``truncated``, bool [N]."""
        return {
            "difficult": np.array([o.difficult for o in self.objects], np.bool_),
            "truncated": np.array([o.truncated for o in self.objects], np.bool_),
        }

    def of_classes(self, class_names: Sequence[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Columns of the objects of some classes, in any letter case, and the class names of the others.

        The columns are ``boxes`` float64 [N,4], ``classes`` int32 [N], ``difficult`` and ``truncated`` bool
        [N].
        """
        index = {name.lower(): number for number, name in enumerate(class_names)}
        known = Annotation(self.image_size, tuple(o for o in self.objects if o.name.lower() in index))
        classes = np.array([index[name.lower()] for name in known.names], np.int32)
        others = tuple(name for name in self.names if name.lower() not in index)
        return {"boxes": known.boxes, "classes": classes, **known.attributes}, others


def read_annotation(path: str | Path) -> Annotation:
    """Reads one XML file. Parts of persons, nested in an object, are no objects.

    Boxes are as the file has them, whether or not they lie in the image: it need not say how large that is.

    Raises:
        UserError: the file cannot be read, is no VOC annotation, has an object without a class, a number that
            is none or too large, a flag that is none, xmin > xmax, or a size that is none.
    """
    path = Path(path)
    root = _parse_xml(path)
    objects = []
    for element in root.findall("object"):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{path}: an object has no <name>")
        objects.append(_read_object(element, name, path))
    if not objects and root.tag.lower() != "annotation":  # of another tool: not a picture without objects
        raise UserError(f"{path}: not a VOC annotation: it holds <{root.tag}>, not <annotation>")
    return Annotation(_read_size(root, path), tuple(objects))


def _parse_xml(path: Path) -> ElementTree.Element:
    """The root element, whatever encoding that Python knows the file says it has."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot read this annotation: {reason}") from error
    try:
        try:
            return ElementTree.fromstring(content)
        except (LookupError, ValueError):  # the parser itself knows few encodings
            match = _ENCODING.search(content)
            encoding = match.group(1)[:40].decode("ascii", "replace") if match else "utf-8"
            return ElementTree.fromstring(content.decode(encoding))
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not a VOC annotation: {error}") from error
    except (LookupError, ValueError) as error:
        raise UserError(
            f"{path}: not a VOC annotation: its encoding is not {encoding!r}, as it says, or that is not "
            "known; save it as UTF-8"
        ) from error


def _read_size(root: ElementTree.Element, path: Path) -> tuple[int, int] | None:
    """(H, W) of the image; None without ``<size>``, and where a side is missing or 0."""
    size = root.find("size")
    if size is None or not all((size.findtext(tag) or "").strip() for tag in ("height", "width")):
        return None
    height, width = _numbers(size, ("height", "width"), path)
    if min(height, width) < 0 or height != int(height) or width != int(width):
        raise UserError(f"{path}: its <size> says {width:g} x {height:g}, which no image has")
    return (int(height), int(width)) if height and width else None


def _read_object(element: ElementTree.Element, name: str, path: Path) -> VocObject:
    bounds = element.find("bndbox")
    if bounds is None:
        raise UserError(f"{path}: a {name} has no <bndbox>")
    xmin, ymin, xmax, ymax = _numbers(bounds, ("xmin", "ymin", "xmax", "ymax"), path)
    if xmin > xmax or ymin > ymax:
        raise UserError(f"{path}: the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} of a {name} is upside down")
    return VocObject(
        name=name,
        box=(xmin - 1, ymin - 1, xmax - 1, ymax - 1),
        difficult=_flag(element, "difficult", path),
        truncated=_flag(element, "truncated", path),
    )


def _numbers(element: ElementTree.Element, tags: Sequence[str], path: Path) -> list[float]:
    texts = [element.findtext(tag) or "" for tag in tags]
    values = text_files.numbers(texts)
    if values is None:
        tag, text = next(pair for pair in zip(tags, texts, strict=True) if text_files.number(pair[1]) is None)
        raise UserError(f"{path}: <{tag}> is {text!r}, not a number")
    largest = max(values, key=abs)
    if abs(largest) > text_files.LARGEST:
        raise UserError(f"{path}: <{tags[values.index(largest)]}> is {largest:g}, which is too large")
    return values


def _flag(element: ElementTree.Element, tag: str, path: Path) -> bool:
    """A flag; older annotations leave some out, which is 0."""
    text = element.findtext(tag) or ""
    value = _FLAGS.get(text.strip().lower())
    if value is None:
        raise UserError(f"{path}: <{tag}> is {text!r}, neither 0 nor 1")
    return value
