"""The raw PASCAL VOC layout, as the devkit describes it.

::

    DATA_DIR/VOCdevkit/VOC2007/JPEGImages/000005.jpg     or another suffix of ``images.IMAGE_SUFFIXES``
    DATA_DIR/VOCdevkit/VOC2007/Annotations/000005.xml    one object a <object>
    DATA_DIR/VOCdevkit/VOC2007/ImageSets/Main/train.txt  a split: one image name a line

``DATA_DIR`` may also be the VOCdevkit itself. Whatever a user can get wrong here raises
:class:`~fgfi_tf.errors.UserError` with the file.
"""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import text_files
from fgfi_tf.data.images import images_by_stem
from fgfi_tf.errors import Problems, UserError
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

# Flags are 0 and 1 in the devkit's files, and words in what some tools write; no text is 0.
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "y", "t"), True),
    **dict.fromkeys(("0", "false", "no", "n", "f", "unspecified", ""), False),
}
_ENCODING = re.compile(rb"<\?xml[^>]*\sencoding\s*=\s*[\"']([^\"'>]*)[\"']")


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
    """One annotation file.

    Attributes:
        image_size: (H, W); None where the file does not say, or says 0.
        objects: those of known classes.
        unknown: the class names of the others, one for each object.
    """

    image_size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    unknown: tuple[str, ...] = ()

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


def read_annotation(
    path: str | Path, class_names: Sequence[str] = CLASS_NAMES, skip_unknown: bool = False
) -> Annotation:
    """Reads one XML file. Parts of persons, nested in an object, are no objects.

    Boxes are as the file has them, whether or not they lie in the image: it need not say how large that is.

    Args:
        path: the file.
        class_names: the known classes.
        skip_unknown: leave out objects of other classes; they are an error otherwise.

    Raises:
        UserError: the file cannot be read, is no VOC annotation, has an unknown class (see above), a number
            that is none or too large, a flag that is none, xmin > xmax, or a size that is none.
    """
    path = Path(path)
    root = _parse_xml(path)
    index = {name: number for number, name in enumerate(class_names)}
    objects, unknown = [], []
    for element in root.findall("object"):
        name = (element.findtext("name") or "").strip().lower()
        if name in index:
            objects.append(_read_object(element, name, index[name], path))
        elif name and skip_unknown:
            unknown.append(name)
        else:
            raise UserError(f"{path}: unknown class {name!r}; known are {', '.join(index)}")
    return Annotation(_read_size(root, path), tuple(objects), tuple(unknown))


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


def _read_object(element: ElementTree.Element, name: str, class_index: int, path: Path) -> VocObject:
    bounds = element.find("bndbox")
    if bounds is None:
        raise UserError(f"{path}: a {name} has no <bndbox>")
    xmin, ymin, xmax, ymax = _numbers(bounds, ("xmin", "ymin", "xmax", "ymax"), path)
    if xmin > xmax or ymin > ymax:
        raise UserError(f"{path}: the box {xmin:g} {ymin:g} {xmax:g} {ymax:g} of a {name} is upside down")
    return VocObject(
        class_index=class_index,
        box=(xmin - 1, ymin - 1, xmax - 1, ymax - 1),
        difficult=_flag(element, "difficult", path),
        truncated=_flag(element, "truncated", path),
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
    frames, seen, problems = [], {}, Problems()
    for folder in folders:
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        images = images_by_stem(folder / "JPEGImages", ".jpg")
        for image_id, number in text_files.read_ids(path).items():
            where = f"{path} line {number}"
            if image_id in seen:
                raise UserError(f"{where}: image {image_id} is named twice, first in {seen[image_id]}")
            seen[image_id] = where
            with problems.collect():
                frames.append(_frame(folder, image_id, images, where, unlabelled=name == "test"))
    problems.raise_any()
    return frames


def read_labels(frames: Sequence[Frame]) -> list[Annotation]:
    """The annotation of each frame; one without objects and size where a frame has none.

    Raises:
        UserError: annotations that cannot be read or are wrong (see :func:`read_annotation`), up to 20.
    """
    problems, annotations = Problems(), []
    for frame in frames:
        with problems.collect():
            path = frame.annotation_path
            annotations.append(Annotation(None, ()) if path is None else read_annotation(path))
    problems.raise_any()
    return annotations


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


def _frame(folder: Path, image_id: str, images: dict[str, Path], where: str, unlabelled: bool) -> Frame:
    annotation = folder / "Annotations" / f"{image_id}.xml"
    if image_id not in images:
        expected = folder / "JPEGImages" / f"{image_id}.jpg"
        raise UserError(f"{where}: image {image_id} has no image file {expected} (or .png, .jpeg ...)")
    if not annotation.is_file():
        if not unlabelled:
            raise UserError(f"{where}: image {image_id} has no annotation {annotation}")
        annotation = None
    return Frame(image_id, images[image_id], annotation)


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
    value = _FLAGS.get(text.strip().lower())
    if value is None:
        raise UserError(f"{path}: <{tag}> is {text!r}, neither 0 nor 1")
    return value
