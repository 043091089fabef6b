"""A folder of pictures with their labels, as labelImg, CVAT and Roboflow leave it.

* VOC's XML files beside the pictures, or in a folder ``Annotations`` (or ``labels`` ...) beside theirs;
* YOLO's text files in the same places, with a names file (``data.yaml``, ``obj.names``, ``classes.txt``);
* folders ``train``, ``valid`` (or ``val``) and ``test``, above or below such folders, are the splits;
* a folder with VOC's ``ImageSets/Main`` has the splits of its lists, as VOC itself.

A picture's id is its path from the folder without suffix, so that equal names in two folders stay apart.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from fgfi_tf.data import text_files
from fgfi_tf.data.dataset import NO_AREA, Dataset, Frame, canonical, first_of
from fgfi_tf.data.images import image_size, is_image_name
from fgfi_tf.data.readers import tree, voc, yolo
from fgfi_tf.errors import Problems, UserError
from fgfi_tf.paths import user_path

_LABEL_FOLDERS = ("annotations", "annotation", "labels", "label", "xml", "xmls")
_SPLITS = ("train", "val", "test")


class Folder(Dataset):
    """Pictures and label files of any folder; see the module."""

    protocol = "voc"
    attributes = voc.Voc.attributes
    description = "Pictures with VOC's XML or YOLO's text files."

    def splits(self, data_dir: Path) -> list[str]:
        """VOC's lists, or the folders that are called like splits."""
        return voc_splits(data_dir) or _Tree(data_dir).splits

    def frames(self, data_dir: Path, split: str) -> list[Frame]:
        """See ``Dataset``. Raises UserError: see ``voc_xml`` and ``yolo``; no picture or no label at all."""
        if split and split in voc_splits(data_dir):
            return voc.read_labels(voc.list_frames(data_dir, split))
        return _Tree(data_dir).frames(split)

    def image_folder(self, data_dir: str | Path, split: str) -> Path | None:
        """Image ids are paths from the root; of VOC's lists, names."""
        root = user_path(data_dir)
        return voc.Voc().image_folder(root, split) if voc_splits(root) else root


def voc_splits(data_dir: Path) -> list[str]:
    """The lists of ``ImageSets/Main``, of a VOC folder or the years of a devkit; [] where there are none."""
    try:
        devkit = voc.find_devkit(data_dir)
    except UserError:
        return []
    folders = voc.year_folders(devkit)
    found = []
    for folder in folders:
        names = sorted(
            p.stem for p in (folder / "ImageSets/Main").glob("*.txt") if not text_files.is_hidden(p)
        )
        of_class = [n for n in names if n.rpartition("_")[2] in names and "_" in n]  # dog_train beside train
        year = f"{folder.name.removeprefix('VOC')}_" if len(folders) > 1 else ""
        found += [f"{year}{name}" for name in names if name not in of_class]
    return found


class _Tree:
    """The pictures and label files below a folder. Raises UserError where there is no picture."""

    def __init__(self, root: Path):
        self._root = root
        self._pictures: list[PurePosixPath] = []
        self._labels: dict[str, dict[PurePosixPath, Path]] = {".xml": {}, ".txt": {}}
        for path in tree.files(root):
            inside = PurePosixPath(path.relative_to(root).as_posix())
            if is_image_name(path):
                self._pictures.append(inside)
            elif path.suffix.lower() in self._labels:
                self._labels[path.suffix.lower()][_key(inside.parent.parts, inside.stem)] = path
        if not self._pictures:
            problem = "no pictures there" if root.is_dir() else "there is no such folder"
            raise UserError(
                f"{root}: {problem}; --dataset=folder reads pictures with XML or YOLO label files"
            )
        self._split_of = {picture: _split_folder(picture) for picture in self._pictures}

    @property
    def splits(self) -> list[str]:
        """The names of the folders that are splits, train first."""
        found = {name for name in self._split_of.values() if name}
        return sorted(found, key=lambda name: (_SPLITS.index(canonical(name)), name))

    def frames(self, split: str) -> list[Frame]:
        """The labelled pictures in the folder of a split, or all where it is ""; see ``Folder.frames``."""
        pictures = [p for p in sorted(self._pictures) if not split or self._split_of[p] == split]
        labels = {picture: self._label_of(picture) for picture in pictures}
        without = [str(picture) for picture, label in labels.items() if label is None]
        if len(without) == len(pictures):
            if canonical(split) == "test":
                return [self._frame(picture, None, ()) for picture in pictures]
            of_split = f" of the split {split!r}" if split else ""
            raise UserError(
                f"{self._root}: none of the {len(pictures)} pictures{of_split} has a label file "
                f"(.xml or .txt beside it or in Annotations or labels), e.g. {pictures[0]}"
            )
        if without:
            text = "%s: pictures without a label file, left out (an empty file means no object): %d, %s"
            logging.warning(text, self._root, len(without), first_of(without))
        self._tell_unused(split, labels)
        names = self._names([path for path in labels.values() if path is not None and _is_yolo(path)])
        problems, frames = Problems(), []
        for picture, label in labels.items():
            if label is not None:
                with problems.collect():
                    frames.append(self._frame(picture, label, names))
        problems.raise_any()
        return frames

    def _label_of(self, picture: PurePosixPath) -> Path | None:
        keys = list(_label_keys(picture))
        return next((of[key] for of in self._labels.values() for key in keys if key in of), None)

    def _names(self, labels: Sequence[Path]) -> tuple[str, ...]:
        if not labels:
            return ()
        path = yolo.find_names(self._root, [label.parent for label in labels])
        if path is None:
            raise UserError(
                f"{self._root}: YOLO's labels number the classes and there is no file with their names: "
                f"{', '.join(yolo.NAMES_FILES[:4])}"
            )
        return yolo.read_names(path)

    def _frame(self, picture: PurePosixPath, label: Path | None, names: Sequence[str]) -> Frame:
        path = self._root / picture
        image_id = picture.with_suffix("").as_posix()
        if label is None or not _is_yolo(label):
            return voc.with_annotation(Frame(image_id, path, label))
        boxes, found = yolo.read_objects(label, names, image_size(path))
        empty = (boxes[:, 2:] + 1 <= boxes[:, :2]).any(axis=1)
        flags, notes = dict.fromkeys(Folder.attributes, np.zeros(len(boxes), bool)), [NO_AREA] * empty.sum()
        return Frame(image_id, path, label, boxes, found, ignore=empty, attributes=flags, notes=notes)

    def _tell_unused(self, split: str, labels: dict[PurePosixPath, Path | None]) -> None:
        """Label files of the same folders that no picture has."""
        used = {path for path in labels.values() if path is not None}
        folders = collections.Counter((path.parent, path.suffix.lower()) for path in used)
        known = {path for found in self._labels.values() for path in found.values()}
        if split:
            elsewhere = {self._label_of(p) for p in self._pictures if self._split_of[p] != split}
            known -= elsewhere - {None}
        unused = sorted(
            str(path.relative_to(self._root))
            for path in known - used
            if folders[path.parent, path.suffix.lower()] and path.name not in yolo.NAMES_FILES
        )
        if unused:
            text = "%s: label files without a picture: %d, %s"
            logging.warning(text, self._root, len(unused), first_of(unused))


def _is_yolo(label: Path) -> bool:
    return label.suffix.lower() == ".txt"


def _key(folders: Sequence[str], stem: str) -> PurePosixPath:
    """Where a label may lie; of folders letter case is not told apart."""
    return PurePosixPath(*(folder.lower() for folder in folders), stem)


def _label_keys(picture: PurePosixPath) -> Iterator[PurePosixPath]:
    """Beside the picture, then in each label folder on the way up, with and without the pictures' folder."""
    folders, stem = picture.parent.parts, picture.stem
    yield _key(folders, stem)
    for depth in range(len(folders), -1, -1):
        above, below = folders[:depth], folders[depth:]
        for name in _LABEL_FOLDERS:
            yield _key((*above, name, *below), stem)
            if below:
                yield _key((*above, name, *below[1:]), stem)


def _split_folder(picture: PurePosixPath) -> str:
    """The folder, of the first two, that is called like a split; "" where none is."""
    folders = picture.parent.parts[:2]
    return next((name for name in folders if canonical(name) in _SPLITS), "")
