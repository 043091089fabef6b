"""The raw PASCAL VOC layout, as the devkit describes it.

::

    DATA_DIR/VOCdevkit/VOC2007/JPEGImages/000005.jpg     or another suffix of ``images.IMAGE_SUFFIXES``
    DATA_DIR/VOCdevkit/VOC2007/Annotations/000005.xml    one object a <object>
    DATA_DIR/VOCdevkit/VOC2007/ImageSets/Main/train.txt  a split: one image name a line

``DATA_DIR`` may also be the VOCdevkit itself, or one folder of JPEGImages, Annotations and ImageSets, as CVAT
and others write it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fgfi_tf.data import text_files
from fgfi_tf.data.dataset import SIZE_READ, Dataset, Frame
from fgfi_tf.data.images import images_by_stem
from fgfi_tf.data.readers.voc_xml import FLAGS, read_annotation
from fgfi_tf.errors import Problems, UserError
from fgfi_tf.paths import user_path

if TYPE_CHECKING:
    from fgfi_tf.data.records import RawSplit

DOWNLOAD_PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/"

#: Alphabetical, as in every published table.
CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
#: What split names may say in front of the list, beside the year of any folder: "0712_trainval".
YEARS = dict.fromkeys(("0712", "07+12"), ("VOC2007", "VOC2012"))
_YEAR = re.compile(r"VOC(\d{4})")


class Voc(Dataset):
    """PASCAL VOC: every annotated object, ``difficult`` ones included, is one to train on.

    So it is in the published Faster R-CNN runs; evaluation knows them by the attribute.
    """

    protocol = "voc"
    class_names = CLASS_NAMES
    attributes = dict.fromkeys(FLAGS, ((), np.bool_))
    description = "PASCAL VOC detection from the raw layout."
    homepage = DOWNLOAD_PAGE

    def frames(self, data_dir: Path, split: str) -> list[Frame]:
        """See ``Dataset``. Raises UserError: see :func:`list_frames`, ``voc_xml.read_annotation``."""
        return read_labels(list_frames(data_dir, split))

    def image_folder(self, data_dir: str | Path, split: str) -> Path | None:
        """None where there are two, or the data is no raw devkit."""
        try:
            folders, _ = _year_folders(find_devkit(data_dir), split)
        except UserError:
            return None
        return folders[0] / "JPEGImages" if len(folders) == 1 else None

    def ready_made(self, data_dir: Path, split: str) -> RawSplit | None:
        """The stock TFDS ``voc``, where a user has prepared it."""
        if not any((data_dir / "voc" / year).is_dir() for year in ("2007", "2012")):
            return None
        from fgfi_tf.data.readers import voc_stock  # TensorFlow

        return voc_stock.open_stock(data_dir, split)


def list_frames(data_dir: str | Path, split: str) -> list[Frame]:
    """The images of a split, in its order, every image and annotation found to exist, none read.

    ``split`` is ``YEAR_LIST`` with a year, or 0712 (2007 and 2012), e.g. ``2007_trainval`` or
    ``0712_trainval``; ``LIST`` alone where the folder holds one year or is one.

    Raises UserError: no such folder, year or list; an empty list; an image named twice, without an image
    file, or without an annotation (the list ``test`` may do without: later test sets are published so).
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


def read_labels(frames: Sequence[Frame]) -> list[Frame]:
    """The frames with the objects of their annotations, if any. Raises UserError, see ``voc_xml``."""
    problems, labelled = Problems(), []
    for frame in frames:
        with problems.collect():
            labelled.append(with_annotation(frame))
    problems.raise_any()
    return labelled


def with_annotation(frame: Frame) -> Frame:
    """A frame with the objects of its XML file. Raises UserError."""
    if frame.label_path is None:
        return dataclasses.replace(frame, attributes=dict.fromkeys(FLAGS, np.zeros(0, bool)))
    found = read_annotation(frame.label_path)
    notes = [SIZE_READ] if found.image_size is None else []
    return Frame(frame.image_id, frame.image_path, frame.label_path, **vars(found), notes=notes)


def find_devkit(data_dir: str | Path) -> Path:
    """The VOCdevkit folder that ``data_dir`` is or holds. Raises UserError for none."""
    root = user_path(data_dir)
    for folder in (root, root / "VOCdevkit"):
        if _is_year_folder(folder) or _years(folder):
            return folder
    raise UserError(
        f"{root}: no VOC data; it must hold VOCdevkit/VOC2007 (or another year) with JPEGImages, Annotations "
        f"and ImageSets/Main, or these three themselves; VOC is at {DOWNLOAD_PAGE}"
    )


def year_folders(devkit: Path) -> list[Path]:
    """What :func:`find_devkit` found as the folders that hold JPEGImages, Annotations and ImageSets."""
    return [devkit] if _is_year_folder(devkit) else [devkit / name for name in _years(devkit)]


def _is_year_folder(folder: Path) -> bool:
    return (folder / "ImageSets" / "Main").is_dir()


def _years(devkit: Path) -> list[str]:
    """The names of a devkit's folders of years, sorted."""
    return sorted(p.name for p in devkit.glob("VOC*") if _YEAR.fullmatch(p.name) and _is_year_folder(p))


def _year_folders(devkit: Path, split: str) -> tuple[list[Path], str]:
    year, _, name = split.partition("_")
    years = _years(devkit)
    if _is_year_folder(devkit):
        folders, name = [devkit], split
    elif name and (year in YEARS or re.fullmatch(r"\d{4}", year)):
        folders = [devkit / folder for folder in YEARS.get(year, (f"VOC{year}",))]
    else:
        folders, name = [devkit / folder for folder in years], split
        if len(folders) > 1:
            both = ["0712"] if set(YEARS["0712"]) <= set(years) else []
            *several, last = [f"{year.removeprefix('VOC')}_{split}" for year in (*years, *both)]
            held = " and ".join(years)
            raise UserError(f"{devkit} holds {held}: name the split {', '.join(several)} or {last}")
    for lists in (folder / "ImageSets/Main" for folder in folders):
        if not (lists / f"{name}.txt").is_file():
            there = ", ".join(sorted(p.stem for p in lists.glob("*.txt") if "_" not in p.stem))
            raise UserError(f"split {split!r}: {lists} has no {name}.txt; it has {there or 'no lists'}")
    return folders, name


def _frame(folder: Path, image_id: str, images: dict[str, Path], where: str, unlabelled: bool) -> Frame:
    annotation = folder / "Annotations" / f"{image_id}.xml"
    if image_id not in images:
        expected = folder / "JPEGImages" / f"{image_id}.jpg"
        raise UserError(f"{where}: image {image_id} has no image file {expected} (or .png, .jpeg ...)")
    if not annotation.is_file() and not unlabelled:
        raise UserError(f"{where}: image {image_id} has no annotation {annotation}")
    return Frame(image_id, images[image_id], annotation if annotation.is_file() else None)
