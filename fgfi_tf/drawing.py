"""Drawing boxes with labels and masks as heat maps on pictures, and montages of pictures.

Every function takes and returns RGB uint8 arrays [H,W,3] and does not change its inputs.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

# One hue per class, far apart also for colour-blind readers; dark text is readable on all of them.
PALETTE: tuple[Color, ...] = (
    (77, 195, 255),  # sky: the first class (car)
    (255, 176, 32),  # orange: the second (pedestrian)
    (87, 224, 132),  # green: the third (cyclist)
    (255, 110, 150),
    (190, 150, 255),
    (255, 226, 77),
    (64, 224, 208),
    (230, 160, 120),
    (175, 185, 195),
)
_INK: Color = (16, 20, 26)
_PAPER: Color = (250, 250, 248)


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


@functools.lru_cache(maxsize=1024)
def class_color(name: str) -> Color:
    """The colour of a class name: fixed for the KITTI classes, by its letters for any other."""
    known = ("car", "pedestrian", "cyclist", "van", "person_sitting", "truck", "tram", "misc", "dontcare")
    if name.lower() in known:
        return PALETTE[known.index(name.lower())]
    return PALETTE[sum((i + 1) * ord(c) for i, c in enumerate(name)) % len(PALETTE)]


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
    colors: Sequence[Color] | None = None,
) -> np.ndarray:
    """Draws boxes, each with its class name and score, over a copy of the image.

    Args:
        image: RGB [H,W,3], uint8, or any real type in 0..255.
        boxes: [N,4] (xmin, ymin, xmax, ymax), inclusive pixel corners of ``image``; parts outside
            the image are not drawn, boxes with a non-finite corner are left out.
        labels: N class names; the colour follows the name.
        scores: N scores, written behind the name with two decimals.
        colors: N RGB colours instead of those of the class names.

    Returns uint8 [H,W,3]. The line width and the letters grow with the image; a label that finds no room
    above its box, which other labels may take up, goes inside it or below, and is never outside the picture.
    Raises ValueError where the image is not [H,W,3], or the lists differ in length from the boxes.
    """
    canvas = Image.fromarray(_as_uint8(image))
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    for name, given in (("labels", labels), ("scores", scores), ("colors", colors)):
        if given is not None and len(given) != len(boxes):
            raise ValueError(f"draw_boxes: {len(boxes)} boxes but {len(given)} {name}")
    names = [""] * len(boxes) if labels is None else list(map(str, labels))
    if colors is None:
        colors = [PALETTE[0] if labels is None else class_color(name) for name in names]
    colors = [tuple(map(int, color)) for color in colors]
    texts = names
    if scores is not None:
        texts = [f"{name} {score:.2f}".strip() for name, score in zip(names, scores, strict=True)]
    draw = ImageDraw.Draw(canvas)
    line = max(1, round(math.sqrt(canvas.width * canvas.height) / 300))
    order = range(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable")
    drawn = [i for i in order if np.isfinite(boxes[i]).all()]  # the best score last, so on top
    for i in drawn:
        _outline(draw, boxes[i], colors[i], line, canvas.size)
    plates: list[_Plate] = []
    for i in reversed(drawn):  # the best score chooses its place first
        touches = (boxes[i, 2:] >= 0).all() and (boxes[i, :2] <= np.subtract(canvas.size, 1)).all()
        if texts[i] and touches:
            taken = [plate.area for plate in plates]
            plates.append(_plate(draw, boxes[i], texts[i], colors[i], line, taken))
    for plate in reversed(plates):
        draw.rectangle(plate.area, fill=plate.color)
        draw.text(plate.origin, plate.text, fill=_INK, font=plate.font)
    return np.asarray(canvas)


def overlay_mask(
    image: np.ndarray, mask: np.ndarray, color: Color = (255, 64, 32), alpha: float = 0.5
) -> np.ndarray:
    """Lays a mask over an RGB image [H,W,3] as a translucent layer with a bright edge: uint8 [H,W,3].

    The mask is [h,w], bool (an imitation mask) or float in 0..1 (stronger where higher). A position covers
    the rectangle of H/h x W/w image pixels that it stands for. ``alpha``: the opacity where the mask is 1.
    """
    base = _as_uint8(image).astype(np.float32)
    height, width = base.shape[:2]
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"overlay_mask: the mask must be [h,w], got shape {mask.shape}")
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    heat = np.clip(mask.astype(np.float32), 0.0, 1.0)[rows][:, columns]  # H x W
    edge = np.zeros((height, width), bool)
    inside = heat > 0
    edge[:, 1:] |= inside[:, 1:] != inside[:, :-1]
    edge[1:, :] |= inside[1:, :] != inside[:-1, :]
    opacity = (alpha * heat)[..., None]  # H x W x 1
    out = base * (1 - opacity) + np.asarray(color, np.float32) * opacity
    glow = np.asarray(color, np.float32) * 0.5 + 127.5
    out[edge] = 0.3 * out[edge] + 0.7 * glow
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def montage(
    images: Sequence[np.ndarray], captions: Sequence[str] | None = None, columns: int = 2
) -> np.ndarray:
    """A grid of RGB pictures [H,W,3], 0..255, on light ground, each with its caption: uint8 [H',W',3].

    Pictures of different sizes are scaled to the width of the widest, keeping their shape; those
    of one row share its height. Captions too long for their column end in an ellipsis.
    """
    if not len(images):
        raise ValueError("montage: no images")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"montage: {len(images)} images but {len(captions)} captions")
    columns = max(1, min(columns, len(images)))
    pictures = [Image.fromarray(_as_uint8(image)) for image in images]
    width = max(picture.width for picture in pictures)
    pictures = [
        p.resize((width, max(1, round(p.height * width / p.width))), Image.Resampling.BILINEAR)
        for p in pictures
    ]
    letters = max(10, round(width / 45))
    gap = max(4, round(width / 80))
    foot = round(letters * 1.7) if captions is not None else 0
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(p.height for p in row) + foot for row in rows]
    canvas = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    top = gap
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            left = gap + c * (width + gap)
            canvas.paste(picture, (left, top))
            if captions is not None:
                text = _shorten(str(captions[r * columns + c]), _font(letters), width)
                draw.text((left, top + picture.height + foot // 2), text, _INK, _font(letters), anchor="lm")
        top += heights[r] + gap
    return np.asarray(canvas)


def _as_uint8(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an RGB image must be [H,W,3], got shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    return np.clip(np.rint(image.astype(np.float32)), 0, 255).astype(np.uint8)


def _outline(
    draw: ImageDraw.ImageDraw, box: np.ndarray, color: Color, line: int, size: tuple[int, int]
) -> None:
    """The frame of a box with a dark hairline around it, so that it shows on any ground."""
    left, top = np.floor(np.maximum(box[:2], 0)).astype(int)
    right, bottom = np.ceil(np.minimum(box[2:], np.subtract(size, 1))).astype(int)
    if right < left or bottom < top:
        return
    if min(right - left, bottom - top) > 4 * line:
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_INK, width=line + 2)
    draw.rectangle((left, top, right, bottom), outline=color, width=line)


@dataclasses.dataclass(frozen=True)
class _Plate:
    """A label's ground: its pixels (left, top, right, bottom), and the text on it."""

    area: tuple[int, int, int, int]
    origin: tuple[float, float]
    text: str
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    color: Color


def _plate(
    draw: ImageDraw.ImageDraw, box: np.ndarray, text: str, color: Color, line: int, taken: Sequence[tuple]
) -> _Plate:
    """The text on a plate in the box's colour, where it covers the least of the plates there are."""
    width, height = draw.im.size
    font = _font(int(np.clip(math.sqrt(width * height) / 48, 9, 40)))
    text = _shorten(text, font, width - 4)
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    plate_width, plate_height = int(x1 - x0) + 5, int(y1 - y0) + 5
    above = math.floor(box[1]) - plate_height
    tops = [above] if above >= 0 else []
    tops += [max(0, math.floor(box[1])) + line, math.ceil(box[3]) + 1]  # inside and below
    lefts = (math.floor(box[0]), math.ceil(box[2]) + 1 - plate_width)
    lefts = [min(max(left, 0), max(0, width - plate_width)) for left in lefts]
    tops = [min(max(top, 0), max(0, height - plate_height)) for top in tops]
    corners = itertools.product(lefts, tops)
    areas = [(left, top, left + plate_width - 1, top + plate_height - 1) for left, top in corners]
    area = min(areas, key=lambda one: sum(_shared_pixels(one, other) for other in taken))
    return _Plate(area, (area[0] + 2 - x0, area[1] + 2 - y0), text, font, color)


def _shared_pixels(first: tuple, second: tuple) -> int:
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    return max(width, 0) * max(height, 0)


def _shorten(text: str, font: ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..." if text else ""
