"""What a data set holds, picture by picture: what trainings fail of, found before one is started.

Every picture is read once as training would read it, and every box is checked as preparation checks it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from fgfi_tf.data.classes import ClassTable, absent
from fgfi_tf.data.dataset import Frame
from fgfi_tf.data.edges import boxes_in_image
from fgfi_tf.data.images import encoded_image
from fgfi_tf.errors import UserError

if TYPE_CHECKING:
    from fgfi_tf.data.resize import Resize

#: The share of the objects that a suggested input size makes as long as so many cells of the feature map.
#: Of an object as long as a single one little is left.
SHARE, CELLS = 0.9, 2
#: Pixels of the largest suggested input; more is a user's choice.
LARGEST_INPUT = 1_000_000
_MULTIPLE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Inspected:
    """One picture.

    Attributes:
        frame: as the reader gave it.
        size: (H, W) of the upright picture; None where it cannot be read.
        digest: of the file's content, "" where it cannot be read.
        cut: boxes that reach over the edge.
        problem: why the picture or a box is refused, "" where they are not.
    """

    frame: Frame
    size: tuple[int, int] | None = None
    digest: str = ""
    cut: int = 0
    problem: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The learnt objects of a split, of pictures without a problem: columns of N rows.

    Attributes:
        classes: int [N] into the learnt names.
        sizes: float64 [N,2], (height, width) in pixels of the picture.
        images: int [N,2], (H, W) of the picture.
    """

    classes: np.ndarray
    sizes: np.ndarray
    images: np.ndarray

    def at_input(self, input_size: Sequence[float], policy: Resize) -> np.ndarray:
        """(height, width) [N,2] in pixels of a network input of ``input_size``, by a resize policy."""
        _, scales = policy.resized(self.images, input_size)
        return self.sizes * np.asarray(scales, np.float64)


def inspect(
    frames: Sequence[Frame], max_megapixels: float, description: str, progress: bool = True
) -> list[Inspected]:
    """Reads every picture and checks its boxes, in the order of the frames, with a progress bar."""

    def look(frame: Frame) -> Inspected:
        digest = ""
        try:
            digest = hashlib.blake2b(Path(frame.image_path).read_bytes(), digest_size=16).hexdigest()
            _, size = encoded_image(frame.image_path, max_megapixels)
        except (UserError, OSError) as error:
            return Inspected(frame, digest=digest, problem=str(error))
        try:
            _, cut = boxes_in_image(frame, size)
        except UserError as error:
            return Inspected(frame, tuple(size), digest, problem=str(error))
        return Inspected(frame, tuple(size), digest, cut)

    with ThreadPoolExecutor(4) as pool:
        found = pool.map(look, frames)
        return list(tqdm(found, desc=description, total=len(frames), unit="image", disable=not progress))


def objects_of(found: Sequence[Inspected], table: ClassTable) -> Objects:
    """The learnt objects, each with the size of its picture."""
    classes, sizes, images = [np.zeros(0, np.int64)], [np.zeros((0, 2))], [np.zeros((0, 2), np.int64)]
    for one in found:
        if one.problem:
            continue
        index = table.indices(one.frame.names)
        learnt = (index < len(table.learnt)) & ~one.frame.ignore
        boxes = one.frame.boxes[learnt]
        classes.append(index[learnt])
        sizes.append((boxes[:, 2:] - boxes[:, :2] + 1)[:, ::-1])
        images.append(np.tile(one.size, (len(boxes), 1)))
    return Objects(np.concatenate(classes), np.concatenate(sizes), np.concatenate(images))


def absent_classes(splits: Mapping[str, Sequence[Inspected]], table: ClassTable) -> str:
    """A line on the classes to learn that no label of any split has, "" where there are none such."""
    names = [name for found in splits.values() for one in found for name in one.frame.names]
    held, count = {int(place) for place in table.indices(names)}, len(table.learnt)
    have = {name: int(place in held) for place, name in enumerate(table.learnt)}
    return absent(have, [table.names[place] for place in held if place >= count])


def duplicates(splits: Mapping[str, Sequence[Inspected]]) -> list[tuple[str, ...]]:
    """Pictures of the same content, each group as ``split: image id``; those of several splits come first."""
    by_digest: dict[str, list[tuple[str, str]]] = {}
    for split, found in splits.items():
        for one in found:
            if one.digest:
                by_digest.setdefault(one.digest, []).append((split, one.frame.image_id))
    groups = [group for group in by_digest.values() if len(group) > 1]
    groups.sort(key=lambda group: len({split for split, _ in group}) == 1)
    return [tuple(f"{split}: {image_id}" for split, image_id in group) for group in groups]


def between_splits(group: Sequence[str]) -> bool:
    """Whether a group of :func:`duplicates` has pictures of several splits."""
    return len({name.split(": ")[0] for name in group}) > 1


def suggested_size(
    objects: Objects, images: np.ndarray, long: int, policy: Resize
) -> tuple[tuple[int, int], float]:
    """An input size, as a resize policy takes it, and the share of objects that it is fit for.

    The smallest of the pictures' usual shape at which ``SHARE`` of the objects are so long, on their longer
    side; not above the usual picture or ``LARGEST_INPUT`` pixels.

    Args:
        objects: those to detect.
        images: int [M,2], (H, W) of the pictures, at least one.
        long: pixels of the input.
        policy: one of a fixed size takes (H, W), another (short side, largest long side).
    """

    def as_taken(size: Sequence[float]) -> tuple[float, float]:
        return tuple(size) if policy.fixed_size else (min(size), max(size))

    usual = np.median(images, axis=0)
    longer = objects.at_input(as_taken(usual), policy).max(axis=1)  # N, in a picture of the usual size
    wanted = long / np.quantile(longer, 1 - SHARE) if len(longer) else 1.0
    scale = min(wanted, 1.0, math.sqrt(LARGEST_INPUT / usual.prod()))
    size = as_taken([max(_MULTIPLE, math.ceil(side * scale / _MULTIPLE) * _MULTIPLE) for side in usual])
    reached = objects.at_input(size, policy).max(axis=1) >= long
    return size, float(reached.mean()) if len(reached) else 1.0


def joined(parts: Iterable[Objects]) -> Objects:
    """The objects of several splits, one after the other."""
    parts = list(parts)
    return Objects(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("classes", "sizes", "images"))
    )


def spread(found: Sequence[Inspected], count: int) -> list[Inspected]:
    """At most ``count`` of the pictures, from first to last."""
    places = np.unique(np.linspace(0, len(found) - 1, count).astype(int)) if found and count else []
    return [found[place] for place in places]
