"""Painting a street: the camera, the light of the day, what stands still, and things in between."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fgfi_tf.toy import solids
from fgfi_tf.toy.solids import Primitive

CAMERA_HEIGHT = 1.65  # metres above the road, as KITTI's
FOCAL = 1.92  # focal length in image heights: 721 px at 375
HORIZON = 0.46  # of the image height
_SUPERSAMPLING = 2
# 256 equally likely values of a normal distribution, drawn with one random byte each
_GRAIN = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])


@dataclasses.dataclass
class Thing:
    """Something that stands on the road: an object to label, or clutter (``kind`` None)."""

    kind: str | None
    size: tuple[float, float, float]  # height, width, length in metres
    location: np.ndarray  # x, y, z in camera coordinates, of the middle of its foot
    rotation_y: float
    shapes: list[Primitive]
    flat: bool = False  # drawn facing the camera, whatever its rotation
    box: np.ndarray | None = None  # xmin, ymin, xmax, ymax of all of it, inclusive pixels
    pixels: int = 0  # of it in the image, in supersampled pixels
    region: tuple[slice, slice] = (slice(0), slice(0))  # of the supersampled canvas that holds them


class Painter:
    """A camera, the light of the day, and the canvas; paints things in the order given."""

    def __init__(self, rng: np.random.Generator, image_size: tuple[int, int]):
        self.rng = rng
        self.height, self.width = image_size
        self._scale = _SUPERSAMPLING
        self.focal = FOCAL * self.height
        self.center = np.array([self.width / 2, HORIZON * self.height])
        side = rng.choice([-1.0, 1.0])
        sun = np.array([side * rng.uniform(0.3, 1.0), -rng.uniform(0.5, 1.2), -rng.uniform(0.0, 0.8)])
        self.sun = sun / np.linalg.norm(sun)
        self.haze = np.array(solids.pick(rng, ((205, 215, 225), (225, 215, 195), (170, 178, 190)), 8))
        self.haze_depth = rng.uniform(60, 220)  # metres
        size = (self.width * self._scale, self.height * self._scale)
        self.canvas = Image.new("RGB", size)
        self.owner = np.zeros((size[1], size[0]), np.int16)  # number of the thing seen at a pixel

    def project(self, points: np.ndarray) -> np.ndarray:
        """Camera points [n,3] in metres to supersampled pixels [n,2]; depth is kept above 0.4 m."""
        depth = np.maximum(points[:, 2:], 0.4)
        return (self.focal * points[:, :2] / depth + self.center) * self._scale

    def background(self) -> None:
        """Sky, hills, ground, road with its markings, and houses along it."""
        rng, draw = self.rng, ImageDraw.Draw(self.canvas)
        width, height = self.canvas.size
        horizon = int(self.center[1] * self._scale)
        zenith = np.array(solids.pick(rng, ((95, 150, 215), (150, 165, 185), (190, 170, 160)), 10))
        fade = np.linspace(0, 1, horizon)[:, None] ** 1.5
        sky = zenith * (1 - fade) + self.haze * fade  # horizon x 3
        column = Image.fromarray(sky[:, None].astype(np.uint8))
        self.canvas.paste(column.resize((width, horizon), Image.Resampling.NEAREST), (0, 0))
        xs = np.linspace(0, width, 24)
        ridge = horizon - height * 0.05 * np.abs(np.cumsum(rng.normal(0, 0.45, 24)))
        hills = [*zip(xs, ridge, strict=True), (width, horizon + 2), (0, horizon + 2)]
        draw.polygon(hills, fill=_rgb(0.6 * self.haze + 0.4 * np.array([80, 105, 80])))
        ground = solids.pick(rng, ((105, 125, 75), (150, 142, 128), (125, 130, 95)), 6)
        draw.rectangle((0, horizon, width, height), fill=_rgb(ground))
        asphalt = np.array(solids.pick(rng, ((92, 92, 96), (120, 116, 110), (72, 74, 80)), 6))
        self._ground(draw, -7.5, 7.5, (2.0, 400.0), asphalt * 1.25)  # pavements
        self._ground(draw, -5.0, 5.0, (2.0, 400.0), asphalt)
        paint = np.array([225, 225, 215])
        for side in (-4.8, 4.7):
            self._ground(draw, side, side + 0.12, (2.0, 120.0), paint)
        start = rng.uniform(0, 6)
        for near in np.arange(3 + start, 90, 6):
            self._ground(draw, -0.07, 0.07, (near, near + 3), paint)
        if rng.random() < 0.25:
            crossing = rng.uniform(8, 25)
            for left in np.arange(-4.4, 4.4, 1.0):
                self._ground(draw, left, left + 0.5, (crossing, crossing + 2.5), paint)
        self._houses()

    def _ground(
        self,
        draw: ImageDraw.ImageDraw,
        left: float,
        right: float,
        depths: tuple[float, float],
        color: np.ndarray,
    ) -> None:
        near, far = depths
        y = CAMERA_HEIGHT
        corners = np.array([(left, y, near), (right, y, near), (right, y, far), (left, y, far)])
        draw.polygon([tuple(p) for p in self.project(corners)], fill=_rgb(color))

    def _houses(self) -> None:
        rng = self.rng
        palette = ((190, 150, 120), (205, 195, 175), (160, 90, 75), (140, 145, 150), (220, 205, 150))
        for side in (-1.0, 1.0):
            blocks, depth = [], rng.uniform(4, 25)
            while depth < 95:
                length, front = rng.uniform(8, 22), rng.uniform(8.5, 13.0)
                if rng.random() < 0.75:
                    blocks.append((depth, length, front, rng.uniform(4, 12)))
                depth += length + rng.choice([0.0, 3.0, 10.0])
            for depth, length, front, height in reversed(blocks):
                wall = solids.pick(rng, palette)
                faces = solids.frustum(
                    (-length / 2, length / 2, -4, 4), (-length / 2, length / 2, -4, 4), (0, height)
                )
                shapes = [Primitive(c, wall, normal=n) for c, n in faces.values()]
                glass = solids.pick(rng, ((60, 70, 85), (150, 170, 190), (90, 70, 60)))
                columns, floors = max(2, int(length / 3)), max(1, int(height / 3))
                corners, normal = faces["left" if side > 0 else "right"]  # the one towards the road
                s, t = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(floors) + 0.55) / floors)
                u = s.reshape(-1, 1) + np.array([-0.22, 0.22]) / columns
                v = t.reshape(-1, 1) + np.array([-0.27, 0.25]) / floors
                panes = solids.insets(corners, u, v)
                shapes += [Primitive(pane, glass, normal=normal) for pane in panes]
                location = np.array([side * (front + 4), CAMERA_HEIGHT, depth + length / 2])
                self.paint(Thing(None, (height, 8, length), location, np.pi / 2, shapes), 0)

    def paint(self, thing: Thing, number: int) -> None:
        """Paints a thing over what is there, notes its box, and its pixels as owned by ``number``."""
        strokes = self._strokes(thing)
        if not strokes:
            return
        low = np.min([pixels.min(0) - width / 2 for pixels, width, _ in strokes], 0)
        high = np.max([pixels.max(0) + width / 2 for pixels, width, _ in strokes], 0)
        thing.box = np.concatenate([low / self._scale, high / self._scale - 1])
        left, top = np.clip(np.floor(low) - 1, 0, self.canvas.size).astype(int)
        right, bottom = np.clip(np.ceil(high) + 2, 0, self.canvas.size).astype(int)
        if right <= left or bottom <= top:
            return
        self._shadow(thing)
        layer = Image.new("RGBA", (right - left, bottom - top))
        draw = ImageDraw.Draw(layer)
        for pixels, width, color in strokes:
            points = (pixels - (left, top)).ravel().tolist()
            if width:
                draw.line(points, fill=color, width=max(1, round(width)), joint="curve")
            else:
                draw.polygon(points, fill=color)
        self.canvas.paste(layer, (left, top), layer)
        if number:
            seen = np.asarray(layer.getchannel("A")) > 0
            thing.pixels = int(seen.sum())
            thing.region = (slice(top, bottom), slice(left, right))
            self.owner[thing.region][seen] = number

    def _strokes(self, thing: Thing) -> list[tuple[np.ndarray, float, tuple[int, int, int]]]:
        """(supersampled pixels [n,2], line width or 0, colour) of all primitives that face the camera."""
        angle = 0.0 if thing.flat else thing.rotation_y
        cos, sin = np.cos(angle), np.sin(angle)
        frame = np.array([[cos, 0.0, -sin], [0.0, -1.0, 0.0], [sin, 0.0, cos]])  # of forward, up, right
        shapes = thing.shapes
        sizes = [len(shape.points) for shape in shapes]
        starts = np.cumsum([0, *sizes[:-1]])
        points = thing.location + np.concatenate([shape.points for shape in shapes]) @ frame  # P x 3
        pixels = self.project(points)
        none = np.zeros(3)
        normals = np.array([none if s.normal is None else s.normal for s in shapes]) @ frame  # S x 3
        plain = np.array([s.normal is None for s in shapes])
        middles = np.add.reduceat(points, starts) / np.array(sizes)[:, None]
        shown = plain | ((normals * middles).sum(1) < 0)
        light = np.where(plain, 0.95, 0.62 + 0.5 * np.maximum(0.0, normals @ self.sun))[:, None]
        fog = 1 - np.exp(-thing.location[2] / self.haze_depth)
        colors = np.array([s.color for s in shapes]) * light * (1 - fog) + self.haze * fog
        colors = np.clip(colors, 0, 255).astype(int).tolist()
        pixels_per_metre = self.focal / thing.location[2] * self._scale
        return [
            (pixels[start : start + size], shape.width * pixels_per_metre, tuple(color))
            for start, size, shape, color, seen in zip(starts, sizes, shapes, colors, shown, strict=True)
            if seen
        ]

    def _shadow(self, thing: Thing) -> None:
        if thing.location[2] > 45 or thing.size[0] > 3.4:
            return
        half = (max(thing.size[1:]) * 0.55, max(thing.size[1], 0.5) * 0.6)
        angle = 0.0 if thing.flat else thing.rotation_y
        around = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        a, c = half[0] * np.cos(around), half[1] * np.sin(around)
        x = thing.location[0] + a * np.cos(angle) + c * np.sin(angle) - 0.3 * self.sun[0]
        z = thing.location[2] - a * np.sin(angle) + c * np.cos(angle)
        ring = self.project(np.stack([x, np.full_like(x, CAMERA_HEIGHT), z], 1))
        low = np.maximum(np.floor(ring.min(0)), 0).astype(int)
        high = np.minimum(np.ceil(ring.max(0)) + 1, self.canvas.size).astype(int)
        if (high <= low).any():
            return
        patch = self.canvas.crop((*low, *high))
        shade = Image.new("L", patch.size)
        ImageDraw.Draw(shade).polygon([tuple(p) for p in ring - low], fill=115)
        self.canvas.paste(Image.new("RGB", patch.size, (22, 22, 28)), tuple(low), shade)

    def finish(self) -> np.ndarray:
        """The image at its own size with the sensor's exposure, colour, blur and noise, uint8 [H,W,3]."""
        rng = self.rng
        picture = self.canvas.reduce(self._scale)
        if rng.random() < 0.4:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6) * self.height / 192))
        image = np.asarray(picture)
        tint = rng.normal(1.0, 0.025, 3)
        gain, gamma = rng.uniform(0.65, 1.2), rng.uniform(0.8, 1.3)
        levels = 255 * (np.arange(256) / 255) ** gamma * gain
        curves = (levels[:, None] * tint).astype(np.float32)  # 256 x 3
        exposed = np.stack([curves[:, c][image[..., c]] for c in range(3)], axis=-1)
        grain = (_GRAIN * rng.uniform(2.0, 7.0)).astype(np.float32)
        noise = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
        return np.clip(exposed + grain[noise], 0, 255).astype(np.uint8)


def _rgb(color: Iterable[float]) -> tuple[int, int, int]:
    return tuple(int(c) for c in np.clip(np.asarray(color), 0, 255))
