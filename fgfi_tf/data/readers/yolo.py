"""YOLO's text files, one a picture: ``class cx cy w h`` in shares of the picture, and their names files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError

#: What the files of class names are called, the best known first; ``*.names`` and other ``*.yaml`` count too.
NAMES_FILES = ("data.yaml", "data.yml", "obj.names", "classes.txt", "_darknet.labels")
_FIELDS = 5
_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\""""
# YAML's block items, "- name" or "number: name", and what stands between the commas of its [...] and {...}.
_ITEM = re.compile(
    r"""\s+(?:-\s+|(['"]?)(?P<key>\d{1,6})\1\s*:\s*)(?P<value>.*\S)\s*|-\s+(?P<bare>.*\S)\s*"""
)
_KEY = rf"(?P<key>{_QUOTED}|[^\s,:'\"{{}}\[\]]+)\s*:\s*"
_VALUE = rf"(?P<value>{_QUOTED}|[^\s,'\"{{}}\[\]][^,{{}}\[\]]*?)\s*"
_IN_LIST, _IN_MAP = (
    re.compile(rf"\s*{_VALUE}(?:,\s*|(?=\]))"),
    re.compile(rf"\s*{_KEY}{_VALUE}(?:,\s*|(?=\}}))"),
)
_OVER = 0.01  # so far a share may lie outside of 0 to 1: rounding of the tools, and as much as boxes are cut


def read_objects(
    path: Path, class_names: Sequence[str], size: tuple[int, int]
) -> tuple[np.ndarray, list[str]]:
    """The objects of a label file: boxes float64 [N,4], inclusive 0-based corners, and their class names.

    A polygon, as segmentation has it, gives the box around it. ``size``: (H, W) of the upright picture.

    Raises UserError: the file cannot be read, or the first line that is no such object.
    """
    boxes, names = [], []
    for number, line in enumerate(text_files.read_text(path).split("\n"), start=1):
        tokens = line.split()
        if tokens:
            problem = _problem(tokens, class_names)
            if problem:
                raise UserError(f"{path} line {number}: {problem}")
            boxes.append(_box([float(token) for token in tokens[1:]], size))
            names.append(class_names[int(tokens[0])])
    return np.array(boxes, np.float64).reshape(-1, 4), names


def _problem(tokens: Sequence[str], class_names: Sequence[str]) -> str:
    values = text_files.numbers(tokens[1:])
    if not re.fullmatch(r"[0-9]{1,6}", tokens[0]):
        return f"{tokens[0]!r} is no class number"
    if int(tokens[0]) >= len(class_names):
        return f"class {tokens[0]} has no name: the names file holds {len(class_names)}"
    if len(tokens) != _FIELDS and (len(tokens) < 7 or len(tokens) % 2 == 0):
        hint = "; it may be a file of detections" if len(tokens) == _FIELDS + 1 else ""
        return f"{len(tokens)} fields instead of class cx cy w h (or class and a polygon){hint}"
    if values is None:
        return f"not numbers: {' '.join(tokens[1:])[:60]!r}"
    if len(tokens) == _FIELDS and min(values[2:]) < 0:
        return f"the box has a negative size: {' '.join(tokens[1:])}"
    if min(values) < -_OVER or max(values) > 1 + _OVER:
        return f"not shares of the picture's sides, 0 to 1: {' '.join(tokens[1:])[:60]}"
    return ""


def _box(values: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = size
    if len(values) == _FIELDS - 1:
        cx, cy, w, h = values
        low, high = (cx - w / 2, cy - h / 2), (cx + w / 2, cy + h / 2)
    else:
        low, high = (min(values[0::2]), min(values[1::2])), (max(values[0::2]), max(values[1::2]))
    return low[0] * width, low[1] * height, high[0] * width - 1, high[1] * height - 1


def find_names(root: Path, folders: Sequence[Path]) -> Path | None:
    """The names file of a folder of pictures: in the root, or where labels lie or above them."""
    places = [root]
    for folder in dict.fromkeys(folders):
        places += [place for place in (folder, *folder.parents) if place.is_relative_to(root)]
    for place in dict.fromkeys(places):
        for name in NAMES_FILES:
            if (place / name).is_file():
                return place / name
        others = [*sorted(place.glob("*.names")), *sorted(place.glob("*.y*ml"))]
        for path in others:
            if path.suffix == ".names" or re.search(r"^names\s*:", text_files.read_text(path), re.MULTILINE):
                return path
    return None


def read_names(path: Path) -> tuple[str, ...]:
    """The class names of a names file, by their numbers: one a line, or the ``names`` of a YAML file.

    Raises UserError: the file cannot be read or holds no names.
    """
    text = text_files.read_text(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        names = _yaml_names(text)
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path}: holds no class names, one a line or as names: [a, b] in YAML")
    if not all(names):
        raise UserError(f"{path}: class {names.index('')} has no name")
    return tuple(names)


def _yaml_names(text: str) -> list[str]:
    """``names`` as a flow list, a block list or a block of ``number: name``: the forms that tools write."""
    match = re.search(r"^names\s*:[ \t]*(.*)$", text, re.MULTILINE)
    if not match:
        return []
    rest = text[match.start(1) :]
    if rest.lstrip().startswith(("[", "{")):
        return _flow_names(rest.lstrip())
    numbered: dict[int, str] = {}
    for line in rest.splitlines()[1:]:
        if not line.strip() or line.strip().startswith("#"):
            continue
        item = _ITEM.fullmatch(line)
        if not item:
            break
        numbered[int(item["key"] or len(numbered))] = _unquoted(item["value"] or item["bare"])
    return _in_order(numbered)


def _flow_names(text: str) -> list[str]:
    """The names of ``[a, b]`` or ``{0: a, 1: b}``; none where it is no such thing."""
    is_list = text[0] == "["
    form, closing = (_IN_LIST, "]") if is_list else (_IN_MAP, "}")
    numbered: dict[int, str] = {}
    place = 1 + len(text[1:]) - len(text[1:].lstrip())
    while not text.startswith(closing, place):
        item = form.match(text, place)
        number = str(len(numbered)) if is_list else _unquoted(item["key"]) if item else ""
        if not item or not re.fullmatch(r"[0-9]{1,6}", number):
            return []
        numbered[int(number)] = _unquoted(item["value"])
        place = item.end()
    return _in_order(numbered)


def _in_order(numbered: Mapping[int, str]) -> list[str]:
    return [numbered.get(number, "") for number in range(max(numbered, default=-1) + 1)]


def _unquoted(text: str) -> str:
    """A scalar without its quotation marks, or without the comment behind it."""
    text = text.strip()
    quoted = re.match(_QUOTED, text)
    if not quoted:
        return text.split(" #")[0].strip()
    inner = quoted.group()[1:-1]
    if text[0] == "'":
        return inner.replace("''", "'")
    try:
        return str(json.loads(quoted.group()))
    except ValueError:  # an escape of YAML's own
        return re.sub(r"\\(.)", r"\1", inner)
