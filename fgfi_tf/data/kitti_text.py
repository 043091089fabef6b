"""The lines of KITTI label and result files (one text file a frame) as flat arrays.

The text of all files is parsed at once: tokens are found by array operations on the bytes and all
numbers are converted in one call. Only when something is wrong are the files gone through line by
line, to name the files, the line and the reason. Training and evaluation read labels here.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import text_files
from fgfi_tf.errors import Problems, UserError

#: Every class of the devkit; the three evaluated ones come first. Letter case is not told apart.
CLASS_NAMES = (
    "Car", "Pedestrian", "Cyclist", "Van", "Person_sitting", "Truck", "Tram", "Misc", "DontCare",
)  # fmt: skip
_FIELD_NAMES = (
    "type", "truncation", "occlusion", "alpha", "xmin", "ymin", "xmax", "ymax",
    "height", "width", "length", "x", "y", "z", "rotation_y", "score",
)  # fmt: skip
RESULT_FIELDS = len(_FIELD_NAMES)
LABEL_FIELDS = RESULT_FIELDS - 1
OCCLUSIONS = (-1, 0, 1, 2, 3)  # visible, partly, largely occluded, unknown; -1 for DontCare

_READ_SIZE = 1 << 16
_NAME_WIDTH = 64  # bytes of the longest type name
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")


def read(
    folder: str | os.PathLike[str],
    frame_ids: Sequence[str],
    fields: int,
    class_names: tuple[str, ...] | None,
    allow_missing: bool = False,
    hint: str = "",
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The lines of ``folder/<frame id>.txt``, frame by frame.

    Args:
        folder, frame_ids: an existing folder, and names of its files without their ending.
        fields: ``LABEL_FIELDS`` or ``RESULT_FIELDS``.
        class_names: the known classes, in any letter case; None allows every one.
        allow_missing: an absent file counts as an empty one.
        hint: what the message on an absent file ends with.

    Returns:
        index into ``frame_ids`` int64 [N], N class names as they are spelt, and the fields after the class
        float64 [N, fields - 1], in the order of the devkit's readme.

    Raises UserError: files that cannot be read or hold a wrong line; names up to 20 of them, with the line.
    Lines have ``fields`` fields of finite ASCII numbers, all but the score of at most 1e6, and no negative
    box; labels a truncation of 0 to 1 or -1 and an occlusion of -1 to 3.
    """
    folder = Path(folder)
    contents, unreadable = _read_files(folder, frame_ids, allow_missing, hint)
    parsed = None if unreadable else _parse(contents, fields, class_names)
    if parsed is None:
        raise _problems(folder, frame_ids, contents, unreadable, fields, class_names)
    frame, names, values = parsed
    return frame, [name.decode() for name in names.tolist()], values


def _read_files(
    folder: Path, frame_ids: Sequence[str], allow_missing: bool, hint: str
) -> tuple[list[bytes], dict[int, str]]:
    """The bytes of each frame's file, and why some cannot be read.

    Plain system calls, since opening costs more than reading.
    """
    contents, unreadable = [], {}
    directory = os.open(folder, os.O_RDONLY)
    try:
        for index, frame_id in enumerate(frame_ids):
            content = b""
            try:
                file = os.open(frame_id + ".txt", os.O_RDONLY, dir_fd=directory)
                try:
                    content = os.read(file, _READ_SIZE)
                    while len(content) % _READ_SIZE == 0 and (more := os.read(file, _READ_SIZE)):
                        content += more
                finally:
                    os.close(file)
            except FileNotFoundError:
                if not allow_missing:
                    unreadable[index] = f"no such file{hint}"
            except (OSError, ValueError) as error:  # ValueError: NUL in the name
                unreadable[index] = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            contents.append(content.removeprefix(_BYTE_ORDER_MARK))
    finally:
        os.close(directory)
    return contents, unreadable


def _parse(
    contents: list[bytes], fields: int, class_names: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """File index [N], class name as bytes [N], numbers [N, fields - 1] of all lines; None if one is wrong."""
    # trailing blanks: a window of _NAME_WIDTH bytes from any token stays inside the text
    text = np.frombuffer(b"\n".join([*contents, b" " * _NAME_WIDTH + b"\n"]), np.uint8)
    blank = text <= ord(" ")
    edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1  # alternating token starts and ends
    if not blank[0]:
        edges = np.concatenate([[0], edges])
    starts, ends = edges[::2], edges[1::2]  # [tokens]
    per_line = np.diff(np.searchsorted(starts, np.flatnonzero(text == ord("\n"))), prepend=0)
    if not np.isin(per_line, (0, fields)).all():
        return None
    starts, ends = starts[::fields], ends[::fields]  # [N], of the class names

    width = min(int((ends - starts).max(initial=1)), _NAME_WIDTH)
    window = starts[:, None] + np.arange(width)  # N x width
    inside = window < ends[:, None]
    name = np.ascontiguousarray(np.where(inside, text[window], 0)).view(f"S{width}").reshape(-1)  # N

    numbers = text.copy()
    numbers[window[inside]] = ord(" ")
    values = _to_floats(numbers.tobytes(), len(name) * (fields - 1))
    if values is None or (ends - starts > _NAME_WIDTH).any():
        return None
    if any(_name_problem(one, class_names) for one in np.unique(name).tolist()):
        return None
    values = values.reshape(len(name), fields - 1)  # N x (fields - 1)
    too_large = (np.abs(values[:, :14]) > text_files.LARGEST).any()
    if too_large or any(wrong.any() for wrong, _ in _faults(values, fields)):
        return None
    file_ends = np.cumsum([len(content) + 1 for content in contents])
    return np.searchsorted(file_ends, starts, side="right"), name, values


def _to_floats(text: bytes, count: int) -> np.ndarray | None:
    """The ``count`` finite numbers that the text holds; None where it does not."""
    if not text.strip():
        return np.zeros(0) if count == 0 else None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how some versions report a bad token
        try:
            values = np.fromstring(text, np.float64, sep=" ")
        except (ValueError, DeprecationWarning):
            return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _faults(values: np.ndarray, fields: int) -> Iterator[tuple[np.ndarray, str]]:
    """Of each rule of the numbers [N, fields - 1]: which lines break it, bool [N], and what to say of one."""
    truncation, occlusion = values[:, 0], values[:, 1]
    if fields == LABEL_FIELDS:
        known = (truncation == -1) | ((truncation >= 0) & (truncation <= 1))
        yield ~known, "truncation is {1!r}, neither 0 to 1 nor -1 (of DontCare)"
        yield ~np.isin(occlusion, OCCLUSIONS), "occlusion is {2!r}, none of 0, 1, 2, 3 and -1 (of DontCare)"
    negative = (values[:, 5:7] < values[:, 3:5]).any(axis=1)
    yield negative, "negative box: xmin ymin xmax ymax = {4} {5} {6} {7}"


def _problems(
    folder: Path,
    frame_ids: Sequence[str],
    contents: list[bytes],
    unreadable: Mapping[int, str],
    fields: int,
    class_names: tuple[str, ...] | None,
) -> UserError:
    """The error of the first wrong line of each file."""
    problems = Problems()
    for index, (frame_id, content) in enumerate(zip(frame_ids, contents, strict=True)):
        if index in unreadable:
            problems.add(f"{folder / frame_id}.txt: {unreadable[index]}")
        for line_number, line in enumerate(content.split(b"\n"), start=1):
            problem = _line_problem(line, fields, class_names)
            if problem:
                problems.add(f"{folder / frame_id}.txt line {line_number}: {problem}")
                break
    problems.raise_any()
    return UserError(f"{folder}: the files hold characters that are not text")


def _name_problem(name: bytes, class_names: tuple[str, ...] | None) -> str | None:
    """What is wrong with the class of a line."""
    if len(name) > _NAME_WIDTH:
        return f"its class has a name of more than {_NAME_WIDTH} bytes"
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return "holds characters that are not text; is the file saved as UTF-8?"
    if class_names is not None and text.lower() not in map(str.lower, class_names):
        owner = "KITTI has" if class_names == CLASS_NAMES else "known are"
        return f"unknown class {text!r}; {owner} {', '.join(class_names)} (--classes names others)"
    return None


def _line_problem(line: bytes, fields: int, class_names: tuple[str, ...] | None) -> str | None:
    if _NOT_TEXT.search(line):
        return "holds characters that are not text; is the file saved as UTF-8?"
    tokens = [token.decode(errors="backslashreplace") for token in line.split()]
    if not tokens:
        return None
    if len(tokens) != fields:
        return _count_problem(len(tokens), fields)
    problem = _name_problem(line.split()[0], class_names)
    if problem:
        return problem
    values = []
    for position, token in enumerate(tokens[1:], start=1):
        value = text_files.number(token)
        if value is None:
            return f"{_FIELD_NAMES[position]} (field {position + 1}) is {token!r}, not a finite number"
        if abs(value) > text_files.LARGEST and position < LABEL_FIELDS:
            return f"{_FIELD_NAMES[position]} (field {position + 1}) is {token!r}, which is too large"
        values.append(value)
    faults = _faults(np.array([values]), fields)
    return next((text.format(*tokens) for wrong, text in faults if wrong[0]), None)


def _count_problem(count: int, fields: int) -> str:
    what = "result" if fields == RESULT_FIELDS else "label"
    hint = ""
    if (count, fields) == (RESULT_FIELDS, LABEL_FIELDS):
        hint = "; it may be a result file, whose last field is the score"
    elif (count, fields) == (LABEL_FIELDS, RESULT_FIELDS):
        hint = "; it may be a label file, which has no score"
    return f"{count} fields instead of the {fields} of a {what} ({' '.join(_FIELD_NAMES[:fields])}){hint}"
