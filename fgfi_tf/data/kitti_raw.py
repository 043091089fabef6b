"""The raw KITTI object layout, as its devkit describes it: frames, label files and splits.

::

    DATA_DIR/training/image_2/000000.png   left colour images, png or jpg
    DATA_DIR/training/label_2/000000.txt   one object a line
    DATA_DIR/testing/image_2/000000.png    images without labels (optional)
    DATA_DIR/ImageSets/train.txt           a split: one frame name a line

Whatever a user can get wrong here raises :class:`~fgfi_tf.errors.UserError` with the file, and
the line where there is one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.paths import user_path

DOWNLOAD_PAGE = "https://www.cvlibs.net/datasets/kitti/eval_object.php"

#: Every class of the devkit. The first NUM_TRAINING_CLASSES are learnt, the others are ignored.
CLASS_NAMES = (
    "Car", "Pedestrian", "Cyclist", "Van", "Person_sitting", "Truck", "Tram", "Misc", "DontCare",
)  # fmt: skip
NUM_TRAINING_CLASSES = 3
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
#: Boxes of the real data reach up to 0.52 px beyond the last pixel (frame 006828).
BORDER_TOLERANCE = 1.0
#: Splits of this name are read from ``testing/``, every other one from ``training/``.
TEST_SPLITS = ("test", "testing")

_CLASS_INDEX = {name.lower(): i for i, name in enumerate(CLASS_NAMES)}
_FIELDS = (
    "type", "truncation", "occlusion", "alpha", "xmin", "ymin", "xmax", "ymax",
    "height", "width", "length", "x", "y", "z", "rotation_y",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Frame:
    """One image of a split; ``label_path`` is None for test frames."""

    image_id: str
    image_path: Path
    label_path: Path | None


@dataclasses.dataclass(frozen=True)
class KittiObject:
    """One label line (devkit, readme.txt), in pixels of the image and metres of the camera."""

    class_index: int  # into CLASS_NAMES
    truncation: float  # 0 (none) .. 1; -1 for DontCare
    occlusion: int  # 0 visible, 1 partly, 2 largely, 3 unknown; -1 for DontCare
    alpha: float  # observation angle in radians; -10 for DontCare
    box: tuple[float, float, float, float]  # (xmin, ymin, xmax, ymax), inclusive pixel corners
    dimensions: tuple[float, float, float]  # height, width, length in metres
    location: tuple[float, float, float]  # x, y, z in metres, camera coordinates
    rotation_y: float  # radians; -10 for DontCare

    @property
    def class_name(self) -> str:
        """The devkit's spelling of the class."""
        return CLASS_NAMES[self.class_index]

    @property
    def ignore(self) -> bool:
        """Whether this is no object to train on."""
        return self.class_index >= NUM_TRAINING_CLASSES


def parse_label_line(line: str, where: str, image_size: tuple[int, int] | None = None) -> KittiObject:
    """Parses one line of a label file.

    Args:
        line: the 15 fields, separated by blanks.
        where: what an error calls the line, e.g. ``label_2/000042.txt line 3``.
        image_size: (H, W) of the image; boxes must lie in it, up to BORDER_TOLERANCE pixels.

    Raises:
        UserError: another number of fields, an unknown class (upper and lower case are not told
            apart, as in the devkit), a field that is no finite number, an upside-down box or one
            outside the image.
    """
    fields = line.split()
    if len(fields) != len(_FIELDS):
        raise UserError(f"{where}: {len(fields)} fields, a label has {len(_FIELDS)}: {' '.join(_FIELDS)}")
    class_index = _CLASS_INDEX.get(fields[0].lower())
    if class_index is None:
        raise UserError(f"{where}: unknown class {fields[0]!r}; KITTI has {', '.join(CLASS_NAMES)}")
    values = [_number(text, name, where) for text, name in zip(fields[1:], _FIELDS[1:], strict=True)]
    if values[1] != int(values[1]):
        raise UserError(f"{where}: occlusion is {fields[2]!r}, not a whole number")
    box = tuple(values[3:7])
    _check_box(box, fields, where, image_size)
    return KittiObject(
        class_index=class_index,
        truncation=values[0],
        occlusion=int(values[1]),
        alpha=values[2],
        box=box,
        dimensions=tuple(values[7:10]),
        location=tuple(values[10:13]),
        rotation_y=values[13],
    )


def read_labels(path: Path, image_size: tuple[int, int] | None = None) -> list[KittiObject]:
    """All objects of a label file, in its order; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, or a line is wrong (see :func:`parse_label_line`).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this label file: {_reason(error)}") from error
    return [
        parse_label_line(line, f"{path} line {number}", image_size)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]


def label_arrays(objects: Sequence[KittiObject]) -> dict[str, np.ndarray]:
    """Objects as columns: N rows each, float64 with the digits of the text.

    Returns a dict of ``boxes`` [N,4], ``classes`` int32 [N], ``ignore`` bool [N], ``truncation``
    [N], ``occlusion`` int32 [N], ``alpha`` [N], ``dimensions`` [N,3], ``location`` [N,3],
    ``rotation_y`` [N].
    """
    count = len(objects)

    def column(name: str, dtype: type, *shape: int) -> np.ndarray:
        return np.array([getattr(o, name) for o in objects], dtype).reshape(count, *shape)

    return {
        "boxes": column("box", np.float64, 4),
        "classes": column("class_index", np.int32),
        "ignore": column("ignore", np.bool_),
        "truncation": column("truncation", np.float64),
        "occlusion": column("occlusion", np.int32),
        "alpha": column("alpha", np.float64),
        "dimensions": column("dimensions", np.float64, 3),
        "location": column("location", np.float64, 3),
        "rotation_y": column("rotation_y", np.float64),
    }


def list_frames(data_dir: str | Path, split: str) -> list[Frame]:
    """The frames of a split, in its order, every image and label file found to exist.

    ``ImageSets/<split>.txt`` names them. ``test`` and ``testing`` stand for ``testing/image_2``,
    whole where they have no list.

    Raises:
        UserError: no data folder or no such split, an empty split, a frame named twice, frames
            without an image or a label file.
    """
    root = check_data_dir(data_dir)
    labelled = split not in TEST_SPLITS
    images = _images_by_name(root / ("training" if labelled else "testing") / "image_2")
    list_file = root / "ImageSets" / f"{split}.txt"
    if labelled or list_file.is_file():
        names = _read_split(list_file)
    else:
        names = {name: 0 for name in sorted(images)}
        if not names:
            raise UserError(f"{root / 'testing' / 'image_2'}: no images for the split {split!r}")
    _refuse_missing(names, images, list_file, root, labelled)
    label_dir = root / "training" / "label_2"
    return [Frame(n, images[n], label_dir / f"{n}.txt" if labelled else None) for n in names]


def image_folder(data_dir: str | Path, split: str) -> Path:
    """The folder of a split's image files."""
    part = "testing" if split in ("test", "testing") else "training"
    return user_path(data_dir) / part / "image_2"


def check_data_dir(data_dir: str | Path) -> Path:
    """The folder as a path; refuses one that does not hold the raw layout, with a way to get it."""
    root = user_path(data_dir)
    if (root / "training" / "image_2").is_dir() or (root / "testing" / "image_2").is_dir():
        return root
    problem = "is not there" if not root.exists() else "does not hold the KITTI object data"
    raise UserError(
        f"data folder {root} {problem}: it must contain training/image_2/*.png (or .jpg), "
        f"training/label_2/*.txt and ImageSets/train.txt, ImageSets/val.txt; "
        f"images and labels are at {DOWNLOAD_PAGE}"
    )


def _read_split(list_file: Path) -> dict[str, int]:
    """Frame name -> line number, in the order of the list."""
    if not list_file.is_file():
        present = sorted(p.stem for p in list_file.parent.glob("*.txt"))
        have = f"splits there: {', '.join(present)}" if present else "that folder has no splits"
        raise UserError(
            f"{list_file} is not there ({have}); a split is a text file with one frame name a line"
        )
    names: dict[str, int] = {}
    for number, name in _split_lines(list_file):
        if name in names:
            raise UserError(
                f"{list_file} line {number}: frame {name} is named twice, first in line {names[name]}"
            )
        names[name] = number
    if not names:
        raise UserError(f"{list_file}: the split is empty")
    return names


def _split_lines(list_file: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = list_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{list_file}: cannot read this split: {_reason(error)}") from error
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if name:
            if len(name.split()) > 1 or "/" in name:
                raise UserError(f"{list_file} line {number}: {name!r} is not one frame name")
            yield number, name


def _images_by_name(folder: Path) -> dict[str, Path]:
    """Stem -> file; png goes before jpg where a frame has both."""
    found: dict[str, Path] = {}
    if folder.is_dir():
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        for path in sorted(files, key=lambda p: IMAGE_SUFFIXES.index(p.suffix.lower())):
            found.setdefault(path.stem, path)
    return found


def _refuse_missing(
    names: dict[str, int], images: dict[str, Path], list_file: Path, root: Path, labelled: bool
) -> None:
    part = root / ("training" if labelled else "testing")
    kinds = [("image", [n for n in names if n not in images], part / "image_2", ".png or .jpg")]
    if labelled:
        labels = {p.stem for p in (part / "label_2").glob("*.txt")}
        kinds.append(("label file", [n for n in names if n not in labels], part / "label_2", ".txt"))
    for kind, missing, folder, suffix in kinds:
        if missing:
            first = missing[0]
            others = f" (and {len(missing) - 1} more of its {len(names)} frames)" if len(missing) > 1 else ""
            raise UserError(
                f"{list_file} line {names[first]}: frame {first} has no {kind}{others}: "
                f"{folder}/{first}{suffix} is not there"
            )


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {name} is {text!r}, not a finite number")
    return value


def _check_box(
    box: tuple[float, ...], fields: list[str], where: str, image_size: tuple[int, int] | None
) -> None:
    for low, high, names in ((0, 2, ("xmin", "xmax")), (1, 3, ("ymin", "ymax"))):
        if box[low] > box[high]:
            raise UserError(
                f"{where}: {names[0]} {fields[4 + low]} is greater than {names[1]} {fields[4 + high]}"
            )
    if image_size is None:
        return
    height, width = image_size
    if (
        min(box[0], box[1]) < -BORDER_TOLERANCE
        or box[2] > width - 1 + BORDER_TOLERANCE
        or box[3] > height - 1 + BORDER_TOLERANCE
    ):
        raise UserError(
            f"{where}: the box {' '.join(fields[4:8])} is outside the image, "
            f"which is {width} wide and {height} high"
        )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
