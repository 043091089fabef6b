"""What every reader of text files shares: UTF-8 with or without a byte order mark, numbers, lists of ids."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fgfi_tf.data.images import IMAGE_SUFFIXES
from fgfi_tf.errors import UserError

#: No coordinate, size or distance is beyond this: float32 arithmetic on it stays finite.
LARGEST = 1e6
#: Endings of files that belong to an id; no id ends with one.
FILE_SUFFIXES = (*IMAGE_SUFFIXES, ".txt", ".xml")

_CLASS_COLUMN = re.compile(r"(.*\S)\s+(?:-1|0|\+?1)")  # ImageSets/Main/<class>_<list>.txt
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_NAME_BYTES = 250  # file systems end at 255, with the suffix


def numbers(texts: Sequence[str]) -> list[float] | None:
    """Finite decimal numbers; None if any is something else, as other scripts' digits and ``1_000`` are."""
    together = "".join(texts)
    if "_" in together or not together.isascii():
        return None
    try:
        values = list(map(float, texts))
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def number(text: str) -> float | None:
    """One such number, or None."""
    values = numbers((text,))
    return values[0] if values else None


def is_hidden(path: Path) -> bool:
    """Whether a folder listing passes the file over: ``._a.xml`` is what macOS leaves beside ``a.xml``."""
    return path.name.startswith(".")


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, with or without a byte order mark; UserError where it is none."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read: it is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def fits_a_line(name: str) -> bool:
    """Whether lines and file names can hold a picture's name: no control characters, line ends or bad bytes.

    Blanks of any kind can stand in names: macOS puts U+202F into those of screenshots.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def ids_below(folder: Path, suffix: str) -> tuple[str, ...]:
    """The ids of a folder's files of a suffix, sorted; of its subfolders too, with ``/``. None is hidden."""
    found = (path.relative_to(folder) for path in folder.rglob(f"*{suffix}"))
    seen = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return tuple(sorted(path.as_posix().removesuffix(suffix) for path in seen))


def read_ids(path: str | Path, nested: bool = False) -> dict[str, int]:
    """The ids of a list file, one a line, each with its line number, in the order of the list.

    An id is the name of an image file without folder and extension; it may hold blanks. A second column of
    -1, 0 and 1, as VOC's lists of one class have, is not read where every line has it. ``nested``: ids may
    be paths inside a folder, with ``/``. Raises UserError where the file cannot be read or is empty, a line
    is no id, or an id is there twice.
    """
    lines = {n: line.strip() for n, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()}
    if not lines:
        raise UserError(f"{path}: the list is empty; it must hold one id a line")
    with_column = {number: _CLASS_COLUMN.fullmatch(line) for number, line in lines.items()}
    if all(with_column.values()):
        lines = {number: match.group(1) for number, match in with_column.items()}
    ids: dict[str, int] = {}
    for line_number, name in lines.items():
        problem = _id_problem(name, nested)
        if problem:
            raise UserError(f"{path} line {line_number}: {problem}")
        if name in ids:
            raise UserError(f"{path} line {line_number}: {name!r} is named twice, first in line {ids[name]}")
        ids[name] = line_number
    return ids


def _id_problem(name: str, nested: bool) -> str | None:
    if _CONTROL.search(name):
        return f"{name[:60]!r} holds characters that no id has"
    if max(len(part.encode()) for part in name.split("/")) > _MAX_NAME_BYTES:
        return f"{name[:60]!r}... is longer than a file's name can be"
    parts = re.split(r"[/\\]", name)
    if nested and "\\" not in name and not {"", ".", ".."} & set(parts):
        folder, bare = name[: len(name) - len(parts[-1])], parts[-1]
    else:
        folder, bare = "", parts[-1]
    stem, dot, suffix = bare.rpartition(".")
    if stem and f"{dot}{suffix}".lower() in FILE_SUFFIXES:
        bare = stem
    if folder + bare != name:
        hint = f"; write {folder + bare!r}" if bare.strip(".") else ""
        wanted = "are paths inside a folder, with no" if nested else "have no folder and no"
        return f"{name!r} is no id: ids {wanted} file extension{hint}"
    return None
