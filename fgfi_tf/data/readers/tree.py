"""What lies in a folder and its subfolders, for readers of layouts in which pictures lie anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fgfi_tf.data.images import is_image_name
from fgfi_tf.errors import UserError

#: Folders that hold no pictures to detect in: prepared records, masks, what macOS leaves in archives.
_SKIPPED = ("tfrecords", "segmentationclass", "segmentationobject", "__macosx")

#: What file systems keep for repairs at the root of a disk, and let nobody read.
_OF_THE_DISK = "lost+found"


def files(root: Path) -> Iterator[Path]:
    """Every file of a data set that is not hidden, as :func:`walk` finds them."""
    return walk(root, lambda folder: folder.name.lower() in _SKIPPED)


def walk(root: Path, skips: Callable[[Path], bool]) -> Iterator[Path]:
    """Every file that is not hidden, sorted by folder and name; a folder that several links name, once.

    ``skips``: whether a folder is passed over. Raises UserError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # whoever walks an absent folder says so in words of its own
            return
        raise UserError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error

    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, onerror=stop, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and name != _OF_THE_DISK and not skips(Path(folder, name))
        )
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def picture_files(root: Path) -> list[Path]:
    """Every picture file, sorted."""
    return sorted(path for path in files(root) if is_image_name(path))


def path_id(picture: Path, root: Path) -> str:
    """The id of a picture in a folder: its path from there, without suffix, with ``/``."""
    inside = picture.relative_to(root) if picture.is_relative_to(root) else Path(picture.name)
    return inside.with_suffix("").as_posix()
