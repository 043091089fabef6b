"""The raw PASCAL VOC layout, as the devkit describes it.

::

    DATA_DIR/VOCdevkit/VOC2007/JPEGImages/000005.jpg
    DATA_DIR/VOCdevkit/VOC2007/Annotations/000005.xml    one object a <object>
    DATA_DIR/VOCdevkit/VOC2007/ImageSets/Main/train.txt  a split: one image name a line

``DATA_DIR`` may also be the VOCdevkit itself. Whatever a user can get wrong here raises
:class:`~fgfi_tf.errors.UserError` with the file.
"""

from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.errors import UserError
from fgfi_tf.paths import user_path

DOWNLOAD_PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/"

#: Alphabetical, as in every published table.
CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
#: What ``split`` names may say in front of the list: "2007_trainval", "0712_trainval", "07+12_trainval"
YEARS = {
    "2007": ("VOC2007",),
    "2012": ("VOC2012",),
    "0712": ("VOC2007", "VOC2012"),
    "07+12": ("VOC2007", "VOC2012"),
}


@dataclasses.dataclass(frozen=True)
class Frame:
    """One image of a split; ``annotation_path`` is None where the split has no labels."""

    image_id: str
    image_path: Path
    annotation_path: Path | None


@dataclasses.dataclass(frozen=True)
class VocObject:
    """One object of an annotation, in pixels of the image."""

    class_index: int
    box: tuple[float, float, float, float]  # (xmin, ymin, xmax, ymax), 0-based inclusive
    difficult: bool
    truncated: bool


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One annotation file; ``image_size`` is (H, W)."""

    image_size: tuple[int, int]
    objects: tuple[VocObject, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """``boxes`` float64 [N,4], ``classes`` int32 [N], ``difficult`` and ``truncated`` bool [N]."""

        def column(name: str, dtype: type, *shape: int) -> np.ndarray:
            return np.array([getattr(o, name) for o in self.objects], dtype).reshape(-1, *shape)

        return {
            "boxes": column("box", np.float64, 4),
            "classes": column("class_index", np.int32),
            "difficult": column("difficult", np.bool_),
            "truncated": column("truncated", np.bool_),
        }


def read_annotation(path: str | Path, class_names: Sequence[str] = CLASS_NAMES) -> Annotation:
    """Reads one XML file. Parts of persons, nested in an object, are no objects.

    Raises:
        UserError: the file cannot be read, is no VOC annotation, has an unknown class, a coordinate that is
            no number, xmin > xmax, or a box outside the image.
    """
    path = Path(path)
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise UserError(f"{path}: cannot read this annotation: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not a VOC annotation: {error}") from error
    size = root.find("size")
    if size is None:
        raise UserError(f"{path}: not a VOC annotation: it has no <size>")
    height, width = (int(_number(size, tag, path)) for tag in ("height", "width"))
    index = {name: number for number, name in enumerate(class_names)}
    objects = (_read_object(element, (height, width), index, path) for element in root.findall("object"))
    return Annotation((height, width), tuple(objects))


def _read_object(
    element: ElementTree.Element, image_size: tuple[int, int], index: dict[str, int], path: Path
) -> VocObject:
    name = (element.findtext("name") or "").strip().lower()
    if name not in index:
        raise UserError(f"{path}: unknown class {name!r}; known are {', '.join(index)}")
    bounds = element.find("bndbox")
    if bounds is None:
        raise UserError(f"{path}: a {name} has no <bndbox>")
    xmin, ymin, xmax, ymax = (_number(bounds, tag, path) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if xmin > xmax or ymin > ymax:
        raise UserError(f"{path}: the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} of a {name} is upside down")
    height, width = image_size
    if xmin < 1 or ymin < 1 or xmax > width or ymax > height:
        raise UserError(
            f"{path}: the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} of a {name} is outside the image, "
            f"{width} wide and {height} high (coordinates count from 1)"
        )
    return VocObject(
        class_index=index[name],
        box=(xmin - 1, ymin - 1, xmax - 1, ymax - 1),
        difficult=_flag(element, "difficult"),
        truncated=_flag(element, "truncated"),
    )


def list_frames(data_dir: str | Path, split: str) -> list[Frame]:
    """The images of a split, in its order, every image and annotation found to exist.

    Args:
        data_dir: see the module.
        split: ``YEAR_LIST`` with year 2007, 2012 or 0712 (both), e.g. ``2007_trainval`` or ``0712_trainval``;
            ``LIST`` alone where the folder holds one year.

    Raises:
        UserError: no such folder, year or list; an empty list; an image named twice, without an image file,
            or without an annotation (the list ``test`` may do without: later test sets are published so).
    """
    devkit = find_devkit(data_dir)
    folders, name = _year_folders(devkit, split)
    frames, seen = [], {}
    for folder in folders:
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        for number, image_id in enumerate(_read_list(path), start=1):
            if image_id in seen:
                raise UserError(
                    f"{path} line {number}: image {image_id} is named twice, first in {seen[image_id]}"
                )
            seen[image_id] = f"{path} line {number}"
            frames.append(_frame(folder, image_id, seen[image_id], unlabelled=name == "test"))
    return frames


def image_folder(data_dir: str | Path, split: str) -> Path | None:
    """The folder of a split's image files; None where there are two, or the data is no raw devkit."""
    try:
        folders, _ = _year_folders(find_devkit(data_dir), split)
    except UserError:
        return None
    return folders[0] / "JPEGImages" if len(folders) == 1 else None


def find_devkit(data_dir: str | Path) -> Path:
    """The VOCdevkit folder that ``data_dir`` is or holds.

    Raises:
        UserError: there is none.
    """
    root = user_path(data_dir)
    for folder in (root, root / "VOCdevkit"):
        if any((folder / year / "ImageSets" / "Main").is_dir() for year in ("VOC2007", "VOC2012")):
            return folder
    raise UserError(
        f"{root}: no VOC data; it must hold VOCdevkit/VOC2007 (or VOC2012) with JPEGImages, Annotations and "
        f"ImageSets/Main, from {DOWNLOAD_PAGE}"
    )


def _year_folders(devkit: Path, split: str) -> tuple[list[Path], str]:
    year, _, name = split.partition("_")
    if year in YEARS and name:
        folders = [devkit / folder for folder in YEARS[year]]
    else:
        folders, name = [f for f in (devkit / "VOC2007", devkit / "VOC2012") if f.is_dir()], split
        if len(folders) > 1:
            raise UserError(
                f"{devkit} holds VOC2007 and VOC2012: "
                f"name the split 2007_{split}, 2012_{split} or 0712_{split}"
            )
    for folder in folders:
        if not (folder / "ImageSets" / "Main" / f"{name}.txt").is_file():
            lists = sorted(p.stem for p in (folder / "ImageSets" / "Main").glob("*.txt") if "_" not in p.stem)
            raise UserError(
                f"split {split!r}: {folder}/ImageSets/Main has no {name}.txt; "
                f"it has {', '.join(lists) or 'no lists'}"
            )
    return folders, name


def _read_list(path: Path) -> list[str]:
    try:
        names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this split: {getattr(error, 'strerror', error)}") from error
    if not names:
        raise UserError(f"{path}: the split is empty")
    return names


def _frame(folder: Path, image_id: str, where: str, unlabelled: bool) -> Frame:
    image = folder / "JPEGImages" / f"{image_id}.jpg"
    annotation = folder / "Annotations" / f"{image_id}.xml"
    if not image.is_file():
        raise UserError(f"{where}: image {image_id} has no image file {image}")
    if not annotation.is_file():
        if not unlabelled:
            raise UserError(f"{where}: image {image_id} has no annotation {annotation}")
        annotation = None
    return Frame(image_id, image, annotation)


def _number(element: ElementTree.Element, tag: str, path: Path) -> float:
    text = element.findtext(tag)
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: <{tag}> is {text!r}, not a number")
    return value


def _flag(element: ElementTree.Element, tag: str) -> bool:
    """A flag that is 1 or 0 or missing (older annotations leave some out)."""
    return (element.findtext(tag) or "0").strip() == "1"
