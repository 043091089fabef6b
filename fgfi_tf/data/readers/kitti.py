"""KITTI 2D object detection in the raw layout, as its devkit describes it: frames, label files and splits.

The KITTI of the TFDS catalogue drops DontCare areas and has a split of its own, so no published table can be
reproduced with it. This one keeps every class and attribute and the user's splits.

::

    DATA_DIR/training/image_2/000000.png   left colour images, of any suffix of ``images.IMAGE_SUFFIXES``
    DATA_DIR/training/label_2/000000.txt   one object a line
    DATA_DIR/testing/image_2/000000.png    images without labels (optional)
    DATA_DIR/ImageSets/train.txt           a split: one frame name a line
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fgfi_tf.data import kitti_text, text_files
from fgfi_tf.data.dataset import Dataset, Frame
from fgfi_tf.data.images import images_by_stem
from fgfi_tf.errors import Problems, UserError
from fgfi_tf.paths import user_path

DOWNLOAD_PAGE = "https://www.cvlibs.net/datasets/kitti/eval_object.php"
#: Splits of this name are read from ``testing/``, every other one from ``training/``.
TEST_SPLITS = ("test", "testing")
_LEARNT = 3


class Kitti(Dataset):
    """KITTI: three classes are learnt, the others and DontCare areas are ignored."""

    protocol = "kitti"
    class_names = kitti_text.CLASS_NAMES[:_LEARNT]
    ignored_names = kitti_text.CLASS_NAMES[_LEARNT:]
    attributes = {
        "truncation": ((), np.float32),  # 0 to 1, -1 of DontCare
        "occlusion": ((), np.int32),
        "alpha": ((), np.float32),  # radians
        "dimensions": ((3,), np.float32),  # height, width, length in metres
        "location": ((3,), np.float32),  # metres, camera coordinates
        "rotation_y": ((), np.float32),  # radians
    }
    description = "KITTI 2D object detection with DontCare areas, from the raw layout."
    homepage = DOWNLOAD_PAGE

    def frames(self, data_dir: Path, split: str) -> list[Frame]:
        """See ``Dataset``. Raises UserError: see :func:`list_frames`, ``kitti_text.read``."""
        return read_labels(list_frames(data_dir, split))

    def image_folder(self, data_dir: str | Path, split: str) -> Path:
        """The folder of a split's image files."""
        part = "testing" if split in TEST_SPLITS else "training"
        return user_path(data_dir) / part / "image_2"


def read_labels(frames: list[Frame]) -> list[Frame]:
    """The frames with the objects of their label files, in the order of the lines, every digit kept.

    Raises UserError as ``kitti_text.read`` does.
    """
    if not frames or frames[0].label_path is None:
        nothing = _columns(np.zeros((0, kitti_text.LABEL_FIELDS - 1)))
        return [dataclasses.replace(frame, attributes=nothing) for frame in frames]
    ids, folder = [frame.label_path.stem for frame in frames], frames[0].label_path.parent
    frame_of, names, values = kitti_text.read(folder, ids, kitti_text.LABEL_FIELDS, class_names=None)
    bounds = np.searchsorted(frame_of, np.arange(len(ids) + 1)).tolist()
    found = []
    for frame, start, end in zip(frames, bounds[:-1], bounds[1:], strict=True):
        rows, files = values[start:end], (frame.image_id, frame.image_path, frame.label_path)
        found.append(Frame(*files, rows[:, 3:7], names[start:end], attributes=_columns(rows)))
    return found


def _columns(values: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "truncation": values[:, 0],
        "occlusion": values[:, 1].astype(np.int32),
        "alpha": values[:, 2],
        "dimensions": values[:, 7:10],
        "location": values[:, 10:13],
        "rotation_y": values[:, 13],
    }


def list_frames(data_dir: str | Path, split: str) -> list[Frame]:
    """The frames of a split, in its order, every image and label file found to exist, no label read.

    ``ImageSets/<split>.txt`` names them. ``test`` and ``testing`` stand for ``testing/image_2``,
    whole where they have no list. Raises UserError for no data folder or no such split, an empty split, a
    line that is no frame name or one named twice, frames without an image or a label file.
    """
    root = check_data_dir(data_dir)
    labelled = split not in TEST_SPLITS
    part = root / ("training" if labelled else "testing")
    images = images_by_stem(part / "image_2")
    list_file = root / "ImageSets" / f"{split}.txt"
    if labelled or list_file.is_file():
        names = _read_split(list_file)
    else:
        names = {name: 0 for name in sorted(images)}
        if not names:
            raise UserError(f"{part / 'image_2'}: no images for the split {split!r}")
    kinds = [("image", images, part / "image_2", ".png or .jpg")]
    if labelled:
        labels = {p.stem for p in (part / "label_2").glob("*.txt")}
        kinds.append(("label file", labels, part / "label_2", ".txt"))
    problems = Problems()
    for kind, present, folder, suffix in kinds:
        for name in names:
            if name not in present:
                where = f"{list_file} line {names[name]}: frame {name}"
                problems.add(f"{where} has no {kind}: {folder}/{name}{suffix} is not there")
    problems.raise_any()
    return [Frame(n, images[n], part / "label_2" / f"{n}.txt" if labelled else None) for n in names]


def check_data_dir(data_dir: str | Path) -> Path:
    """The folder as a path; refuses one that does not hold the raw layout, with a way to get it."""
    root = user_path(data_dir)
    if (root / "training" / "image_2").is_dir() or (root / "testing" / "image_2").is_dir():
        return root
    problem = "does not hold the KITTI object data" if root.exists() else "is not there"
    raise UserError(
        f"data folder {root} {problem}: it must contain training/image_2/*.png (or .jpg), "
        "training/label_2/*.txt and ImageSets/train.txt, ImageSets/val.txt; "
        f"images and labels are at {DOWNLOAD_PAGE}"
    )


def _read_split(list_file: Path) -> dict[str, int]:
    """Frame name -> line number, in the order of the list."""
    if not list_file.is_file():
        files = list_file.parent.glob("*.txt")
        present = sorted(p.stem for p in files if not text_files.is_hidden(p))
        have = f"splits there: {', '.join(present)}" if present else "that folder has no splits"
        raise UserError(
            f"{list_file} is not there ({have}); a split is a text file with one frame name a line"
        )
    return text_files.read_ids(list_file)
