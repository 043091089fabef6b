"""Writes small folders of one's own pictures for the tests, in the layouts that people have them in."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fgfi_tf.data import registry

XML = """<annotation>{size}{objects}</annotation>"""
OBJECT = """<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def picture(path: Path, width: int = 40, height: int = 20, seed: int = 0) -> Path:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.name.encode()]).integers(0, 255, (height, width, 3), np.uint8)
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else None
    Image.fromarray(pixels).save(path, kind)
    return path


def xml(path: Path, *objects, size=(40, 20)) -> Path:
    """``objects``: (name, xmin, ymin, xmax, ymax), counted from 1; ``size``: (width, height) or None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = "<size><width>{}</width><height>{}</height></size>".format(*size) if size else ""
    path.write_text(XML.format(size=said, objects="".join(OBJECT.format(*o) for o in objects)))
    return path


def text(path: Path, *lines: str) -> Path:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def coco(path: Path, names, annotations, categories=((7, "helmet"), (90, "vest")), **changes) -> Path:
    """``names``: files of 40 x 20 pictures, ids 100, 101 ...; ``annotations``: (image, category, bbox)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "images": [{"id": 100 + i, "file_name": n, "width": 40, "height": 20} for i, n in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, **(more[0] if more else {})}
            for i, (image, category, box, *more) in enumerate(annotations)
        ],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    path.write_text(json.dumps(found | changes))
    return path


def open_split(name: str, root: Path, split: str, **options):
    """Without a progress bar."""
    return registry.open_split(name, root, split, progress=False, **options)


def ids(name: str, root: Path, split: str, **options) -> tuple[str, ...]:
    """The image ids of a split."""
    return open_split(name, root, split, **options).image_ids
