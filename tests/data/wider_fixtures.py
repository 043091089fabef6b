"""WIDER FACE's layout with a few drawn pictures: a face is a bright disc."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

EVENTS = ("0--Parade", "1--Hand shaking")
ZEROS = "0 0 0 0 0 0 0 0 0 0 "


def write_wider(root: Path, size: tuple[int, int] = (48, 64), train: int = 6, val: int = 4) -> Path:
    """``train`` and ``val`` pictures of ``size`` (h, w), a face in each but the second of a split.

    The third has three faces, one invalid (row 1) and one without height (row 2).
    """
    generator = np.random.default_rng(4)
    for split, count in (("train", train), ("val", val)):
        lines = []
        for i in range(count):
            name = f"{EVENTS[i % 2]}/{i}_{split}.jpg"
            path = root / f"WIDER_{split}" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(generator.integers(0, 70, (*size, 3)).astype(np.uint8))
            rows = []
            for row in range(3 if i == 2 else int(i != 1)):
                side = int(generator.integers(14, 30))
                x, y = int(generator.integers(0, size[1] - side)), int(generator.integers(0, size[0] - side))
                ImageDraw.Draw(picture).ellipse([x, y, x + side - 1, y + side - 1], fill=(240, 200, 180))
                rows.append(f"{x} {y} {side} {0 if row == 2 else side} 1 0 1 {int(row == 1)} 2 0 ")
            picture.save(path, quality=95)
            lines += [name, str(len(rows)), *(rows or [ZEROS])]
        (root / "wider_face_split").mkdir(exist_ok=True)
        (root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").write_text("\n".join(lines) + "\n")
    return root


def rows_of(root: Path, split: str) -> dict[str, np.ndarray]:
    """Id -> the numbers [n, 10] of the text file."""
    lines = (root / f"wider_face_split/wider_face_{split}_bbx_gt.txt").read_text().splitlines()
    found, place = {}, 0
    while place < len(lines):
        count = int(lines[place + 1])
        rows = [list(map(int, line.split())) for line in lines[place + 2 : place + 2 + count]]
        found[lines[place].removesuffix(".jpg")] = np.array(rows, np.int64).reshape(-1, 10)
        place += 2 + max(count, 1)
    return found


def _cells(values: list) -> np.ndarray:
    array = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        array[i, 0] = value
    return array


def _by_event(rows: dict[str, np.ndarray], make) -> np.ndarray:
    return _cells(
        [_cells([make(name, own) for name, own in rows.items() if name.startswith(f"{e}/")]) for e in EVENTS]
    )


def write_label_mat(root: Path, split: str) -> Path:
    """The labels of a split as the official MATLAB file."""
    from scipy.io import savemat

    rows = rows_of(root, split)
    names = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
    path = root / f"wider_face_split/wider_face_{split}.mat"

    def with_zeros(own):
        return own if len(own) else np.zeros((1, 10), np.int64)

    savemat(
        path,
        {
            "event_list": _cells(list(EVENTS)),
            "file_list": _by_event(rows, lambda name, own: name.split("/")[1]),
            "face_bbx_list": _by_event(rows, lambda name, own: with_zeros(own)[:, :4].astype(float)),
            **{
                f"{name}_label_list": _by_event(rows, lambda _, own, i=i: with_zeros(own)[:, 4 + i : 5 + i])
                for i, name in enumerate(names)
            },
        },
    )
    return path


def write_kit(root: Path, folder: Path | None = None) -> Path:
    """The evaluation kit's files of ``val``: all valid faces of area are hard, the first of each is medium,
    those of the first event are easy."""
    from scipy.io import savemat

    folder = folder or root / "eval_tools" / "ground_truth"
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(root, "val")
    savemat(
        folder / "wider_face_val.mat",
        {
            "event_list": _cells(list(EVENTS)),
            "file_list": _by_event(rows, lambda name, own: name.split("/")[1]),
            "face_bbx_list": _by_event(rows, lambda name, own: own[:, :4].astype(float)),
        },
    )

    def counted(own):
        return np.flatnonzero((own[:, 7] == 0) & (own[:, 3] > 0)) + 1

    for name, choose in (
        ("easy", lambda n, own: counted(own)[:1] if n.startswith(EVENTS[0]) else counted(own)[:0]),
        ("medium", lambda n, own: counted(own)[:1]),
        ("hard", lambda n, own: counted(own)),
    ):
        lists = _by_event(rows, lambda n, own, choose=choose: choose(n, own).astype(float).reshape(-1, 1))
        savemat(folder / f"wider_{name}_val.mat", {"gt_list": lists})
    return folder
