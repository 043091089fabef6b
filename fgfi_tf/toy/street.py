"""A drawn data set: street scenes in the raw KITTI layout, for trying the package without data.

Scenes are built in metres (road, houses, trees, traffic, people), projected by a camera like
KITTI's and painted far to near, so sizes follow depth, occlusion is what is really covered, and the
labels hold consistent 3D boxes. Far things lie in DontCare areas; vans, trucks, parked bicycles,
posts, bins and containers look a little like what is to be found.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from fgfi_tf.errors import UserError
from fgfi_tf.paths import user_path
from fgfi_tf.toy import figures, solids
from fgfi_tf.toy.painter import CAMERA_HEIGHT, Painter, Thing

LEAST_HEIGHT = 15 / 375  # of the image height; smaller objects are DontCare
LEAST_VISIBLE = 0.12  # an object covered more than this far has no label
LEAST_INSIDE = 0.2  # the share of an object's box that must lie in the image

_WORTH_PROCESSES = 100  # frames; starting processes takes the time of some twenty

_TYPES = ("Car", "Pedestrian", "Cyclist", "Van", "Truck")
_SHARES = (0.42, 0.25, 0.21, 0.08, 0.04)
_SIZES = {  # height, width, length in metres, and their spread
    "Car": ((1.52, 1.63, 3.9), 0.06),
    "Pedestrian": ((1.75, 0.65, 0.8), 0.05),
    "Cyclist": ((1.75, 0.6, 1.75), 0.04),
    "Van": ((2.15, 1.9, 5.0), 0.06),
    "Truck": ((3.2, 2.5, 8.0), 0.1),
}

_DRAWN_BY = {
    "Car": solids.car,
    "Pedestrian": figures.pedestrian,
    "Van": solids.van,
    "Truck": solids.truck,
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One finished frame: RGB uint8 [H,W,3] and the lines of its label file."""

    image: np.ndarray
    labels: tuple[str, ...]


def write(
    output_dir: str | Path,
    num_train: int,
    num_val: int,
    seed: int = 0,
    image_size: tuple[int, int] = (192, 624),
    progress: bool = True,
) -> None:
    """Writes ``training/image_2``, ``training/label_2`` and ``ImageSets/{train,val}.txt``.

    Args:
        output_dir: made where absent; must not hold a data set yet.
        num_train: training frames, 000000 and on.
        num_val: validation frames, the ids after those.
        seed: the same seed, counts and size give the same bytes.
        image_size: (H, W) in pixels.
        progress: show a progress bar on stderr, where that is a terminal.

    Raises:
        UserError: the folder holds a ``training`` folder already, or a size or count is impossible.
    """
    root = user_path(output_dir)
    if (root / "training").exists():
        raise UserError(f"{root} already holds a data set; it is not overwritten")
    if min(image_size) < 32 or num_train < 1 or num_val < 0:
        raise UserError(
            f"cannot draw {num_train} + {num_val} frames of {image_size[0]} x {image_size[1]} pixels"
        )
    drawn = root / ".unfinished"  # what an interruption leaves is no data set
    if drawn.exists():
        shutil.rmtree(drawn)
    for folder in (drawn / "training/image_2", drawn / "training/label_2", root / "ImageSets"):
        folder.mkdir(parents=True, exist_ok=True)
    total = num_train + num_val
    write_frame = functools.partial(_write_frame, drawn, seed, image_size)
    if total < _WORTH_PROCESSES:
        _wait(map(write_frame, range(total)), total, progress)
    else:
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            _wait(pool.map(write_frame, range(total), chunksize=8), total, progress)
    for split, frames in (("train", range(num_train)), ("val", range(num_train, total))):
        (root / f"ImageSets/{split}.txt").write_text("".join(f"{i:06d}\n" for i in frames))
    (drawn / "training").rename(root / "training")
    drawn.rmdir()


def draw_scene(rng: np.random.Generator, image_size: tuple[int, int]) -> Scene:
    """Draws one street with its labels."""
    painter = Painter(rng, image_size)
    painter.background()
    things = _populate(rng, painter)
    things.sort(key=lambda thing: -thing.location[2])
    for number, thing in enumerate(things, start=1):
        painter.paint(thing, number)
    return Scene(painter.finish(), tuple(_labels(painter, things)))


def _populate(rng: np.random.Generator, painter: Painter) -> list[Thing]:
    """Objects and clutter at places that do not collide, and a far group."""
    things: list[Thing] = []
    for _ in range(int(rng.integers(3, 12))):
        kind = _TYPES[rng.choice(len(_TYPES), p=_SHARES)]
        _try_to_add(things, lambda kind=kind: _object(rng, painter, kind, None))
    for _ in range(int(rng.integers(3, 10))):
        _try_to_add(things, lambda: _clutter(rng, painter))
    if rng.random() < 0.6:
        depth, x = rng.uniform(70, 110), rng.uniform(-12, 12)
        for _ in range(int(rng.integers(2, 5))):
            kind = ("Car", "Pedestrian", "Car")[rng.integers(3)]
            place = np.array([x + rng.normal(0, 3), CAMERA_HEIGHT, depth + rng.normal(0, 4)])
            things.append(_object(rng, painter, kind, place))
    return things


def _try_to_add(things: list[Thing], make) -> None:
    for _ in range(6):
        new = make()
        reach = max(new.size[1:]) / 2
        gaps = [
            np.hypot(*(new.location - t.location)[[0, 2]]) - 0.8 * (reach + max(t.size[1:]) / 2)
            for t in things
        ]
        if min(gaps, default=1.0) > 0:
            things.append(new)
            return


def _object(rng: np.random.Generator, painter: Painter, kind: str, place: np.ndarray | None) -> Thing:
    base, spread = _SIZES[kind]
    size = tuple(float(s) for s in np.array(base) * np.clip(rng.normal(1, spread, 3), 0.75, 1.25))
    if place is None:
        # even in pixel height: as many large objects as small ones
        tall = rng.uniform(20, 190) / 375 * painter.height
        depth = float(np.clip(painter.focal * 1.6 / tall, 4.6, 60))
        reach = depth * painter.width / 2 / painter.focal
        if kind == "Pedestrian":
            x = rng.uniform(-1, 1) * min(reach, 9.0)
        elif kind == "Cyclist":
            x = rng.choice([-1, 1]) * rng.uniform(0.5, max(0.5, min(reach * 1.05, 6.0)))
        else:
            x = rng.choice([-6.3, -1.9, 1.9, 6.3, rng.uniform(-reach, reach)]) + rng.normal(0, 0.3)
        x = float(np.clip(x, -reach * 1.1, reach * 1.1))
        place = np.array([x, CAMERA_HEIGHT, depth + (size[2] / 2 if kind in ("Car", "Van", "Truck") else 0)])
    along = rng.choice([-1.0, 1.0]) * np.pi / 2
    turn = along + rng.normal(0, 0.12)
    if rng.random() < (0.25 if kind in ("Car", "Van", "Truck") else 0.6):
        turn = rng.uniform(-np.pi, np.pi)
    flat = kind in ("Pedestrian", "Cyclist")
    if kind == "Cyclist":
        side = np.cos(turn - np.arctan2(place[0], place[2]))
        shapes = figures.cyclist(rng, size, float(np.copysign(max(abs(side), 0.16), side)))
    else:
        shapes = _DRAWN_BY[kind](rng, size)
    if kind == "Pedestrian" and np.cos(turn) < 0:
        for shape in shapes:
            shape.points = shape.points * (-1, 1, 1)
    return Thing(kind, size, place, float(turn), shapes, flat)


def _clutter(rng: np.random.Generator, painter: Painter) -> Thing:
    depth = float(rng.uniform(6, 45))
    reach = depth * painter.width / 2 / painter.focal
    x = rng.choice([-1.0, 1.0]) * rng.uniform(min(4.5, reach * 0.7), max(5.0, min(reach * 1.2, 11.0)))
    grown = rng.random() < 0.4
    shapes = figures.tree(rng) if grown else figures.clutter(rng)
    flat = all(shape.normal is None for shape in shapes)
    return Thing(
        None,
        (3.5 if grown else 1.5, 0.6, 0.8),
        np.array([x, CAMERA_HEIGHT, depth]),
        rng.uniform(-3, 3),
        shapes,
        flat,
    )


def _labels(painter: Painter, things: Iterable[Thing]) -> list[str]:
    """The label lines, nearest first, DontCare areas last."""
    limit = np.array([painter.width - 1, painter.height - 1] * 2)
    lines, ignored = [], []
    for number, thing in reversed(list(enumerate(things, start=1))):
        if thing.kind is None or thing.box is None:
            continue
        box = np.clip(thing.box, 0, limit)
        whole, inside = (max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1]) for b in (thing.box, box))
        visible = np.count_nonzero(painter.owner[thing.region] == number) / max(thing.pixels, 1)
        if min(box[2:] - box[:2]) < 0.01:  # of a picture that is hardly wider than a pixel of it
            continue
        if inside < LEAST_INSIDE * whole or visible < LEAST_VISIBLE or not thing.pixels:
            continue
        if box[3] - box[1] < LEAST_HEIGHT * painter.height:
            ignored.append(box)
            continue
        occlusion = 0 if visible > 0.85 else 1 if visible > 0.5 else 2
        lines.append(_line(thing, box, 1 - inside / whole, occlusion))
    for box in _merge(ignored, painter.height):
        corners = " ".join(f"{v:.2f}" for v in np.clip(box, 0, limit))
        lines.append(f"DontCare -1 -1 -10 {corners} -1 -1 -1 -1000 -1000 -1000 -10")
    return lines


def _line(thing: Thing, box: np.ndarray, truncation: float, occlusion: int) -> str:
    x, y, z = thing.location
    alpha = (thing.rotation_y - np.arctan2(x, z) + np.pi) % (2 * np.pi) - np.pi
    turn = (thing.rotation_y + np.pi) % (2 * np.pi) - np.pi
    numbers = [*box, *thing.size, x, y, z, turn]
    return f"{thing.kind} {truncation:.2f} {occlusion} {alpha:.2f} " + " ".join(f"{v:.2f}" for v in numbers)


def _merge(boxes: list[np.ndarray], height: int) -> list[np.ndarray]:
    """Joins boxes that nearly touch into areas with a margin, as KITTI's DontCare areas have."""
    margin = height / 125 * np.array([-1, -1, 1, 1])
    areas: list[np.ndarray] = []
    for box in sorted(boxes, key=lambda b: b[0]):
        box = box + margin
        if areas and box[0] <= areas[-1][2]:
            areas[-1] = np.concatenate(
                [np.minimum(areas[-1][:2], box[:2]), np.maximum(areas[-1][2:], box[2:])]
            )
        else:
            areas.append(box)
    return areas


def _write_frame(root: Path, seed: int, image_size: tuple[int, int], index: int) -> None:
    scene = draw_scene(np.random.default_rng([seed, index]), image_size)
    picture = Image.fromarray(scene.image)
    picture.save(root / f"training/image_2/{index:06d}.png", compress_level=1, compress_type=2)
    text = "".join(f"{line}\n" for line in scene.labels)
    (root / f"training/label_2/{index:06d}.txt").write_text(text)


def _wait(frames: Iterable[None], total: int, progress: bool) -> None:
    for _ in tqdm(
        frames, "drawing street scenes", total, unit="image", disable=not (progress and sys.stderr.isatty())
    ):
        pass
