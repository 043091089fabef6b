"""KITTI label and result folders (one text file a frame) to flat arrays and back.

The text of all files is parsed at once: tokens are found by array operations on the bytes and all
numbers are converted in one call. Only when something is wrong are the files gone through line by
line, to name the file, the line and the reason.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.kitti_types import (
    NO_ALPHA,
    TYPE_INDEX,
    TYPE_NAMES,
    Detections,
    Labels,
    check_frame_ids,
)

LABEL_FIELDS = 15  # type, truncation, occlusion, alpha, x1 y1 x2 y2, 3D size, location and angle
RESULT_FIELDS = 16  # the same and the score
_READ_SIZE = 1 << 16
_NAME_WIDTH = 16  # bytes looked at of a type name; the longest known one has 14
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read_split(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The frame ids of a split file, one a line.

    Raises:
        UserError: the file is absent or empty, or names a frame twice.
    """
    try:
        frame_ids = Path(path).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a split file (one frame id a line): {error}") from None
    if not frame_ids:
        raise UserError(f"{path}: the split is empty")
    try:
        return check_frame_ids(frame_ids)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def list_frames(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The frame ids of all ``*.txt`` files of a folder, sorted.

    Raises:
        UserError: the folder is absent or holds no text file.
    """
    names = sorted(path.stem for path in _check_folder(folder).glob("*.txt"))
    if not names:
        raise UserError(f"{folder}: holds no text files (NNNNNN.txt, one a frame)")
    return tuple(names)


def read_labels(folder: str | os.PathLike[str], frame_ids: Iterable[str]) -> Labels:
    """The label files ``folder/<frame id>.txt`` of these frames.

    Raises:
        UserError: a folder or file is absent, a line is malformed, a type is unknown; the message
            names file and line.
    """
    frame_ids = check_frame_ids(frame_ids)
    folder = _check_folder(folder)
    frame, kind, values = _parse(
        folder, frame_ids, _read_files(folder, frame_ids, False, _hint(folder)), LABEL_FIELDS
    )
    return Labels(
        frame_ids,
        frame,
        kind,
        values[:, 3:7].copy(),
        values[:, 2].copy(),
        values[:, 0].copy(),
        values[:, 1].copy(),
    )


def read_detections(
    folder: str | os.PathLike[str], frame_ids: Iterable[str], allow_missing: bool = False
) -> Detections:
    """The result files ``folder/<frame id>.txt`` of these frames.

    Args:
        folder: where the files lie; files of other frames are not looked at.
        frame_ids: the frames to read.
        allow_missing: an absent file counts as a frame without detections.

    Raises:
        UserError: as :func:`read_labels`.
    """
    frame_ids = check_frame_ids(frame_ids)
    folder = _check_folder(folder)
    hint = _hint(folder) or " (--allow_missing counts it as a frame without detections)"
    files = _read_files(folder, frame_ids, allow_missing, hint)
    frame, kind, values = _parse(folder, frame_ids, files, RESULT_FIELDS)
    return Detections(
        frame_ids, frame, kind, values[:, 3:7].copy(), values[:, 2].copy(), values[:, 14].copy()
    )


def write_detections(folder: str | os.PathLike[str], detections: Detections) -> None:
    """Writes :func:`result_files` into a folder, over what is there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in result_files(detections).items():
        (folder / name).write_text(text)


def result_files(detections: Detections) -> dict[str, str]:
    """Name -> text of one result file a frame, as the 2019 reference wrote, "" where nothing was found.

    A line is ``Type -1 -1 alpha x1 y1 x2 y2 0 0 0 0 0 0 0 score`` with alpha 0.0 where there is
    none. Numbers are written with as many digits as doubles need: what is read back is equal.
    """
    alphas = np.where(detections.alpha == NO_ALPHA, 0.0, detections.alpha).tolist()
    rows = zip(
        detections.type.tolist(), alphas, detections.boxes.tolist(), detections.scores.tolist(), strict=True
    )
    lines = [
        f"{TYPE_NAMES[kind]} -1 -1 {alpha!r} {x1!r} {y1!r} {x2!r} {y2!r} 0 0 0 0 0 0 0 {score!r}\n"
        for kind, alpha, (x1, y1, x2, y2), score in rows
    ]
    ends = np.searchsorted(detections.frame, np.arange(len(detections.frame_ids)), side="right").tolist()
    return {
        f"{frame_id}.txt": "".join(lines[start:end])
        for frame_id, start, end in zip(detections.frame_ids, [0, *ends], ends, strict=False)
    }


def _check_folder(folder: str | os.PathLike[str]) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (it must hold NNNNNN.txt, one a frame)")
    return folder


def _read_files(folder: Path, frame_ids: Sequence[str], allow_missing: bool, hint: str) -> list[bytes]:
    """The bytes of each frame's file; plain system calls, since opening costs more than reading."""
    contents = []
    directory = os.open(folder, os.O_RDONLY)
    try:
        for frame_id in frame_ids:
            try:
                file = os.open(frame_id + ".txt", os.O_RDONLY, dir_fd=directory)
            except FileNotFoundError:
                if not allow_missing:
                    raise UserError(f"{folder / frame_id}.txt: no such file{hint}") from None
                contents.append(b"")
                continue
            try:
                content = os.read(file, _READ_SIZE)
                while len(content) % _READ_SIZE == 0 and (more := os.read(file, _READ_SIZE)):
                    content += more
            finally:
                os.close(file)
            contents.append(content)
    except OSError as error:
        raise UserError(f"{folder / frame_id}.txt: cannot be read: {error.strerror}") from None
    finally:
        os.close(directory)
    return contents


def _hint(folder: Path) -> str:
    inner = [name for name in ("data", "label_2") if (folder / name).is_dir()]
    return f" (the folder has {inner[0]}/ in it: give {folder / inner[0]})" if inner else ""


def _parse(
    folder: Path, frame_ids: Sequence[str], contents: list[bytes], fields: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame index [N], type index [N] and the numbers [N, fields - 1] of all lines."""
    # trailing blanks: a window of _NAME_WIDTH bytes from any token stays inside the text
    text = np.frombuffer(b"\n".join([*contents, b" " * _NAME_WIDTH + b"\n"]), np.uint8)
    blank = text <= ord(" ")
    edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1  # alternating token starts and ends
    if not blank[0]:
        edges = np.concatenate([[0], edges])
    starts, ends = edges[::2], edges[1::2]  # [tokens]
    per_line = np.diff(np.searchsorted(starts, np.flatnonzero(text == ord("\n"))), prepend=0)
    if not np.isin(per_line, (0, fields)).all():
        raise _first_error(folder, frame_ids, contents, fields)
    starts, ends = starts[::fields], ends[::fields]  # [N], of the type names

    window = starts[:, None] + np.arange(_NAME_WIDTH)  # N x 16
    inside = window < ends[:, None]
    name = np.where(inside, text[window], 0)
    name += np.where((name >= ord("A")) & (name <= ord("Z")), ord("a") - ord("A"), 0).astype(np.uint8)
    name = np.ascontiguousarray(name).view(f"S{_NAME_WIDTH}").reshape(-1)  # N
    kind = np.full(len(name), -1, np.int64)
    for known, index in TYPE_INDEX.items():
        kind[name == known.encode()] = index

    numbers = text.copy()
    numbers[window[inside]] = ord(" ")
    values = _to_floats(numbers.tobytes(), len(kind) * (fields - 1))
    if values is None or (kind < 0).any() or (ends - starts > _NAME_WIDTH).any():
        raise _first_error(folder, frame_ids, contents, fields)
    values = values.reshape(len(kind), fields - 1)  # N x (fields - 1)
    if (values[:, 5:7] < values[:, 3:5]).any():
        raise _first_error(folder, frame_ids, contents, fields)
    file_ends = np.cumsum([len(content) + 1 for content in contents])
    return np.searchsorted(file_ends, starts, side="right"), kind, values


def _to_floats(text: bytes, count: int) -> np.ndarray | None:
    """All numbers of the text, or None where it does not hold ``count`` finite numbers."""
    if not text.strip():
        return np.zeros(0) if count == 0 else None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how some versions report a bad token
        try:
            values = np.fromstring(text, np.float64, sep=" ")
        except (ValueError, DeprecationWarning):
            return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _first_error(folder: Path, frame_ids: Sequence[str], contents: list[bytes], fields: int) -> UserError:
    """The error of the first wrong line."""
    for frame_id, content in zip(frame_ids, contents, strict=True):
        for number, line in enumerate(content.split(b"\n"), start=1):
            problem = _line_problem(line.split(), fields)
            if problem:
                return UserError(f"{folder / frame_id}.txt line {number}: {problem}")
    return UserError(f"{folder}: the files hold characters that are not text")


def _line_problem(tokens: list[bytes], fields: int) -> str | None:
    if not tokens:
        return None
    if len(tokens) != fields:
        what = "a result" if fields == RESULT_FIELDS else "a label"
        return f"{len(tokens)} fields instead of the {fields} of {what}"
    if tokens[0].decode(errors="replace").lower() not in TYPE_INDEX:
        return f"unknown class {tokens[0].decode(errors='replace')!r} (known: {', '.join(TYPE_NAMES)})"
    for position, token in enumerate(tokens[1:], start=2):
        if not _NUMBER.fullmatch(token):
            shown = token.decode(errors="replace")
            return f"field {position} is {shown!r}, not a finite number"
    values = [float(token) for token in tokens[1:]]
    for position, value in enumerate(values, start=2):
        if not np.isfinite(value):
            return f"field {position} is too large"
    if values[5] < values[3] or values[6] < values[4]:
        return f"negative box: x1 y1 x2 y2 = {b' '.join(tokens[4:8]).decode()}"
    return None
