"""Annotations as the PASCAL VOC devkit writes them, one XML file a picture, and as many tools do."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError

#: The flags of an object that are read.
FLAGS = ("difficult", "truncated")
# Flags are 0 and 1 in the devkit's files, and words in what some tools write; no text is 0.
_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "y", "t"), True),
    **dict.fromkeys(("0", "false", "no", "n", "f", "unspecified", ""), False),
}
_ENCODING = re.compile(rb"<\?xml[^>]*\sencoding\s*=\s*[\"']([^\"'>]*)[\"']")


@dataclasses.dataclass(frozen=True, eq=False)
class Annotation:
    """One annotation file with its N objects, of whatever class.

    Attributes:
        image_size: (H, W); None where the file does not say, or says 0.
        names: their classes as the file spells them.
        boxes: float64 [N,4], (xmin, ymin, xmax, ymax), inclusive pixel corners counted from 0.
        attributes: ``difficult`` and ``truncated``, bool [N].
    """

    image_size: tuple[int, int] | None
    names: tuple[str, ...]
    boxes: np.ndarray
    attributes: Mapping[str, np.ndarray]


def read_annotation(path: str | Path) -> Annotation:
    """Reads one XML file. Parts of persons, nested in an object, are no objects.

    Boxes are as the file has them: it need not say how large the image is.

    Raises UserError: the file cannot be read, is no VOC annotation, has an object without a class, a number
    that is none or too large, a flag that is none, xmin > xmax, or a size that is none.
    """
    path = Path(path)
    root = _parse_xml(path)
    names, boxes, flags = [], [], []
    for element in root.findall("object"):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{path}: an object has no <name>")
        names.append(name)
        boxes.append(_read_box(element, name, path))
        flags.append([_flag(element, tag, path) for tag in FLAGS])
    if not names and root.tag.lower() != "annotation":  # of another tool: not a picture without objects
        raise UserError(f"{path}: not a VOC annotation: it holds <{root.tag}>, not <annotation>")
    columns = np.array(flags, bool).reshape(-1, len(FLAGS)).T
    return Annotation(
        _read_size(root, path),
        tuple(names),
        np.array(boxes, np.float64).reshape(-1, 4) - 1,
        dict(zip(FLAGS, columns, strict=True)),
    )


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


def _read_box(element: ElementTree.Element, name: str, path: Path) -> list[float]:
    bounds = element.find("bndbox")
    if bounds is None:
        raise UserError(f"{path}: a {name} has no <bndbox>")
    xmin, ymin, xmax, ymax = box = _numbers(bounds, ("xmin", "ymin", "xmax", "ymax"), path)
    if xmin > xmax or ymin > ymax:
        raise UserError(f"{path}: the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} of a {name} is upside down")
    return box


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
    value = _WORDS.get(text.strip().lower())
    if value is None:
        raise UserError(f"{path}: <{tag}> is {text!r}, neither 0 nor 1")
    return value
