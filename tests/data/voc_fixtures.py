"""Draws small VOC folders for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

XML = """<annotation><filename>{name}.jpg</filename><size><width>{width}</width><height>{height}</height>
<depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><pose>Left</pose><truncated>{truncated}</truncated>
<difficult>{difficult}</difficult><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax>
<ymax>{ymax}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>
<ymax>2</ymax></bndbox></part></object>"""


def write_image(folder: Path, name: str, height: int, width: int, objects=()) -> None:
    """``objects``: (class name, xmin, ymin, xmax, ymax, difficult), 1-based as in the devkit."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    ramp = np.add.outer(np.arange(height), np.arange(width)) % 256
    pixels = np.stack([ramp, ramp[::-1], np.full_like(ramp, len(objects) * 40)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
    text = "".join(
        OBJECT.format(
            name=o[0],
            xmin=o[1],
            ymin=o[2],
            xmax=o[3],
            ymax=o[4],
            difficult=int(o[5]),
            truncated=int(o[1] == 1),
        )
        for o in objects
    )
    annotation = XML.format(name=name, height=height, width=width, objects=text)
    (folder / "Annotations" / f"{name}.xml").write_text(annotation)


def write_list(folder: Path, name: str, images) -> None:
    """``ImageSets/Main/<name>.txt``."""
    (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{image}\n" for image in images))


def write_devkit(root: Path) -> Path:
    """Five images of VOC 2012 (one without objects) and one of VOC 2007."""
    folder = root / "VOCdevkit" / "VOC2012"
    write_image(
        folder, "2008_000001", 60, 80, [("dog", 1, 2, 40, 50, False), ("person", 30, 5, 80, 60, True)]
    )
    write_image(folder, "2008_000002", 80, 60, [("sheep", 11, 21, 30, 40.5, False)])
    write_image(
        folder, "2008_000003", 50, 150, [("train", 5, 5, 20, 30, False), ("car", 90, 5, 120, 40, False)]
    )
    write_image(folder, "2008_000004", 60, 80)
    write_image(folder, "2008_000005", 64, 80, [("tvmonitor", 3, 4, 60, 50, False)])
    write_list(folder, "train", ["2008_000001", "2008_000002", "2008_000003", "2008_000004"])
    write_list(folder, "val", ["2008_000005"])
    write_list(folder, "trainval", [f"2008_00000{i}" for i in range(1, 6)])
    older = root / "VOCdevkit" / "VOC2007"
    write_image(older, "000007", 60, 90, [("aeroplane", 2, 2, 50, 40, False)])
    for name in ("train", "trainval"):
        write_list(older, name, ["000007"])
    return root
