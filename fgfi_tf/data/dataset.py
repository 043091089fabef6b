"""The dataset contract (1): what a reader gives of each picture. Everything else comes from the house.

A dataset is one file: a subclass of :class:`Dataset` and ``registry.register("its_name", Subclass())``.
TFRecords, their locks and fingerprint, class names, boxes over the edge and sizes are handled by ``builder``
and ``classes``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fgfi_tf.data.records import RawSplit
    from fgfi_tf.options import Option


#: Notes of a frame.
SIZE_READ = "sizes that the labels do not give, read from the picture"
NO_AREA = "boxes without area, ignored"
ELSEWHERE = "pictures that are not where the labels say, found by their names"
_SHOWN = 3
#: What tools call the same split, and the year of COCO's.
_SAME = {"validation": "val", "valid": "val", "training": "train", "testing": "test"}
_YEAR = re.compile(r"(?<=[a-z])(19|20)\d\d$")


def canonical(split: str) -> str:
    """``val`` for ``valid``, ``validation`` and ``val2017``, in any letter case, and the like."""
    name = _YEAR.sub("", split.lower())
    return _SAME.get(name, name)


def first_of(names: Sequence[str]) -> str:
    """``a, b, c and 7 more``."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One picture with its labels, as its files have them. Raises ValueError for arrays of unequal length.

    Attributes:
        image_id: its name, unique in the split; a path without suffix where folders are nested.
        image_path: the picture file.
        label_path: the file that holds its labels, for messages; None where it has none.
        boxes: float64 [N,4], (xmin, ymin, xmax, ymax), inclusive pixel corners counted from 0, of the upright
            picture: the width is xmax - xmin + 1.
        names: N class names as the labels spell them.
        ignore: bool [N], no object to train on whatever its class (a crowd); none by default.
        attributes: [N, ...] by the names of ``Dataset.attributes``.
        image_size: (H, W) where the labels say it; checked against the file.
        notes: what was put right in its labels, such as ``SIZE_READ``; counted in one line.
        coco_ids: of a picture from COCO's files its id there, and class name -> id of category: what result
            files in COCO's format then say.
    """

    image_id: str
    image_path: Path
    label_path: Path | None = None
    boxes: np.ndarray | Sequence = ()
    names: Sequence[str] = ()
    ignore: np.ndarray | Sequence | None = None
    attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    notes: Sequence[str] = ()
    coco_ids: tuple[int | str, Mapping[str, int | str]] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float64).reshape(-1, 4)
        ignore = np.zeros(len(boxes), bool) if self.ignore is None else np.asarray(self.ignore, bool)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "ignore", ignore)
        lengths = {len(boxes), len(self.names), len(ignore), *map(len, self.attributes.values())}
        if len(lengths) > 1:
            raise ValueError(f"{self.image_id}: boxes, names, ignore and attributes differ in their number")


class Dataset:
    """A dataset. A subclass says what it is and reads its files; it imports no TensorFlow at its top.

    Attributes:
        protocol: the name of its evaluation in ``fgfi_tf.evaluation.registry``.
        class_names: what is learnt where ``--classes`` names nothing; () for the classes of the labels.
        ignored_names: further classes that its labels are known to hold.
        attributes: name -> (shape, dtype) of what its evaluation needs of each object.
        cuts_boxes: boxes may reach over the edge of their picture however far: they are cut, and ignored
            where nothing is left. By default they are refused beyond a pixel and a hundredth of the side.
        options: its own, each a flag where it is chosen, and an argument of :meth:`frames`.
        description, homepage: for the records' own metadata.
    """

    protocol: str = "voc"
    class_names: tuple[str, ...] = ()
    ignored_names: tuple[str, ...] = ()
    attributes: Mapping[str, tuple[tuple[int, ...], type]] = {}
    cuts_boxes: bool = False
    options: tuple[Option, ...] = ()
    description: str = ""
    homepage: str = ""

    def frames(self, data_dir: Path, split: str, **options: Any) -> list[Frame]:
        """The pictures of a split, in its order.

        ``split`` is one of :meth:`splits`, or "" for all there are where it has none; ``options`` those of
        the class that were given. Raises UserError for whatever is wrong with the files; ``errors.Problems``
        collects up to 20.
        """
        raise NotImplementedError("a subclass defines frames")

    def splits(self, data_dir: Path) -> list[str] | None:
        """The splits that a folder holds; where there are none, or one alone, ``--val_fraction`` makes two.

        None, the default: ``frames`` knows every split by its name.
        """
        return None

    def find_split(self, data_dir: Path, split: str, own: Sequence[str]) -> str | None:
        """The one of its splits ``own`` that a user means, such as ``valid`` by ``val``, or None."""
        if split in own:
            return split
        alike = [name for name in own if canonical(name) == canonical(split)]
        return alike[0] if len(alike) == 1 else None

    def image_folder(self, data_dir: str | Path, split: str) -> Path | None:
        """The folder in which pictures lie under their image ids; None where there is no such."""
        return None

    def ready_made(self, data_dir: Path, split: str) -> RawSplit | None:
        """The records of a folder that holds TFRecords already; None, the default, where it does not."""
        return None
