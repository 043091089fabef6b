"""Resize policies: how an image becomes the network input, for training, evaluation and prediction alike.

A policy is a value without state. Its methods compute in the graph, and their sizes (height, width) may
have leading dimensions. ``input_size``, what ``--input_size`` says, is a pair of int or an int32 tensor [2].
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data import transforms
from fgfi_tf.errors import UserError

Size = tuple[int, int] | tf.Tensor


class NetworkInput(NamedTuple):
    """An image as the network is given it: the picture in the upper left corner, zeros beside it.

    Attributes:
        image: float32 [..., H, W, 3]; ``boxes``: float32 [N, 4] in its pixels.
        kept: bool [N], the boxes that training goes on with.
        content: (h, w) of the picture, int32 [2].
        scale: network input pixels per image pixel, float32 [2] (y, x).
    """

    image: tf.Tensor
    boxes: tf.Tensor
    kept: tf.Tensor
    content: tf.Tensor
    scale: tf.Tensor


class Resize:
    """Base of the policies: what a new one may override.

    Attributes:
        keep_aspect_ratio: the picture may be smaller than the network input, which is padded.
        by_batch: a network input is as large as the largest image of its batch; images of similar aspect
            ratio then share a batch.
        box_corners: ``"edges"`` or ``"corners"``, see ``transforms.resize_boxes``.
        max_aspect: training crops longer pictures to this ratio of long to short side, at a random place,
            and drops boxes of which nothing is left; 0 for never.
        in_evaluation: the name of the policy that this one is where nothing is trained; "": itself.
        multiple: where the size of network inputs changes, their sides are multiples of so many pixels.
    """

    keep_aspect_ratio: bool = False
    by_batch: bool = False
    box_corners: str = "edges"
    max_aspect: float = 0.0
    in_evaluation: str = ""
    multiple: int = 1

    @property
    def fixed_size(self) -> bool:
        """Whether every network input has the size ``input_size``."""
        return not self.by_batch and type(self).training_size is Resize.training_size

    def check_input_size(self, size: tuple[int, int]) -> None:
        """Raises UserError, starting with the size, where it cannot be an ``input_size``."""
        if min(size) < 1:
            raise UserError(f"{size[0]}x{size[1]}: height and width must be above 0")

    def largest_input(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the largest network input in training, for the estimate of memory."""
        return input_size

    def training_size(self, input_size: tuple[int, int], seed: int, step: tf.Tensor) -> Size:
        """The ``input_size`` of a training step (int64 scalar): a function of it and the run's seed."""
        return input_size

    def resized(self, size: tf.Tensor, input_size: Size) -> tuple[tf.Tensor, tf.Tensor]:
        """Of images of ``size`` int32 [..., 2]: sizes of the resized pictures, scales float32 [..., 2]."""
        raise NotImplementedError("a subclass defines resized")

    def cropped(self, resized: tf.Tensor) -> tf.Tensor:
        """Sizes [..., 2] of resized pictures that training crops to ``max_aspect``."""
        if not self.max_aspect:
            return resized
        shortest = tf.cast(tf.reduce_min(resized, axis=-1, keepdims=True), tf.float64)
        return tf.minimum(resized, tf.cast(tf.math.ceil(shortest * self.max_aspect), tf.int32))

    def padded(self, content: tf.Tensor, input_size: Size) -> Size:
        """The size of the network input for pictures of ``content`` int32 [2], the largest of a batch."""
        return input_size

    def __call__(
        self,
        image: tf.Tensor,
        input_size: Size,
        boxes: tf.Tensor | None = None,
        *,
        crop_key: tf.Tensor | None = None,
        padded: tf.Tensor | None = None,
    ) -> NetworkInput:
        """Resizes an image [..., H, W, 3], 0..255, crops where there is a key (while training), and pads.

        ``boxes`` are float32 [N, 4] of the image, ``crop_key`` is int64 [2]. ``padded`` is the size of the
        network input, int32 [2]; by default as large as this image needs.
        """
        boxes = tf.zeros([0, 4]) if boxes is None else boxes
        content, scale = self.resized(tf.shape(image)[-3:-1], input_size)
        image = tf.image.resize(image, content, method="bilinear", antialias=False)
        boxes = transforms.resize_boxes(boxes, scale, self.box_corners)
        kept = tf.ones_like(boxes[:, 0], tf.bool)
        if crop_key is not None and self.max_aspect:
            size, content = content, self.cropped(content)
            start = crop_start(boxes, size, content, crop_key)  # (y, x)
            image = tf.slice(image, tf.concat([start, [0]], 0), tf.concat([content, [3]], 0))
            boxes = cut_boxes(boxes, start, size, content)
            kept = tf.reduce_all(boxes[:, :2] != boxes[:, 2:], axis=-1)
        if padded is None:
            padded = self.padded(content, input_size)
        if self.keep_aspect_ratio:
            image = transforms.pad_image(image, padded)
        if not isinstance(padded, tf.Tensor):
            image = tf.ensure_shape(image, (*image.shape[:-3], *padded, 3))
        return NetworkInput(image, boxes, kept, tf.convert_to_tensor(content, tf.int32), scale)

    def batch(self, images: tf.Tensor, input_size: Size) -> dict[str, tf.Tensor]:
        """Images [B,H,W,3] of one size, 0..255, as a batch without objects (``fgfi_tf.data.sample``)."""
        count, size = tf.shape(images)[0], tf.shape(images)[1:3]
        made = self(tf.cast(images, tf.float32), input_size)
        rows = {"content_size": tf.cast(made.content, tf.float32), "scale": made.scale, "image_size": size}
        rows = {name: tf.tile(value[None], [count, 1]) for name, value in rows.items()}  # B x 2 each
        return {"image": made.image, **rows}


class Stretch(Resize):
    """To ``input_size``, whatever the aspect ratio, as ShuffleDet and the SSD and YOLO papers do."""

    def resized(self, size: tf.Tensor, input_size: Size) -> tuple[Size, tf.Tensor]:
        """All of it to ``input_size``."""
        return input_size, tf.cast(input_size, tf.float32) / tf.cast(size, tf.float32)


class Letterbox(Resize):
    """As large as fits into ``input_size`` with the aspect ratio kept, in its upper left corner."""

    keep_aspect_ratio = True

    def resized(self, size: tf.Tensor, input_size: Size) -> tuple[tf.Tensor, tf.Tensor]:
        """The shorter ratio counts."""
        limit = tf.cast(input_size, tf.float64)
        resized, scale = _scaled(size, tf.reduce_min(limit / tf.cast(size, tf.float64), axis=-1))
        return tf.minimum(resized, tf.cast(input_size, tf.int32)), scale


@dataclasses.dataclass(frozen=True)
class ShorterSide(Resize):
    """The shorter side to a length, the longer within a limit, the aspect ratio kept (Faster R-CNN).

    ``input_size`` is (shorter side, largest longer side or 0 for no limit). A batch is padded to its largest
    image.

    Attributes:
        multiple: padded sides are multiples of this.
    """

    max_aspect: float = 2.0
    multiple: int = 1
    keep_aspect_ratio = True
    by_batch = True
    box_corners = "corners"

    def __post_init__(self):
        if self.max_aspect and self.max_aspect < 1:
            raise ValueError(f"the largest aspect ratio must be at least 1, not {self.max_aspect}")

    def check_input_size(self, size: tuple[int, int]) -> None:
        """(short side, largest long side or 0 for no limit)."""
        short, limit = size
        if short < 32 or 0 < limit < short:
            raise UserError(
                f"{short}x{limit}: expected are a short side of at least 32 pixels and a limit of the "
                "long side that is not below it, or 0 for none"
            )

    def largest_input(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """That of an image of 2:1, padded; few are longer."""
        short, limit = input_size
        longest = int(short * (self.max_aspect or 2.0))
        longest = min(limit, longest) if limit else longest
        return tuple(-(-side // self.multiple) * self.multiple for side in (short, longest))

    def resized(self, size: tf.Tensor, input_size: Size) -> tuple[tf.Tensor, tf.Tensor]:
        """The ratio of the short sides, or of the long ones where that is the limit."""
        size = tf.cast(size, tf.float64)
        short, limit = tf.unstack(tf.cast(input_size, tf.float64), axis=-1)
        limit = tf.where(limit > 0, limit, float("inf"))
        return _scaled(
            size, tf.minimum(short / tf.reduce_min(size, axis=-1), limit / tf.reduce_max(size, axis=-1))
        )

    def padded(self, content: tf.Tensor, input_size: Size) -> tf.Tensor:
        """The largest picture's, each side rounded up to ``multiple``."""
        return -(-content // self.multiple) * self.multiple


class TorchvisionShorterSide(ShorterSide):
    """As torchvision's detectors resize: sizes rounded down, never cropped, padded to multiples of 32."""

    box_corners = "edges"

    def __init__(self):
        super().__init__(max_aspect=0.0, multiple=32)

    def resized(self, size: tf.Tensor, input_size: Size) -> tuple[tf.Tensor, tf.Tensor]:
        """As for :class:`ShorterSide`, but that the scales are those of the rounded sizes."""
        _, scale = super().resized(size, input_size)
        size = tf.cast(size, tf.float64)
        resized = tf.maximum(tf.floor(size * tf.cast(scale, tf.float64)), 1.0)
        return tf.cast(resized, tf.int32), tf.cast(resized / size, tf.float32)


def _scaled(size: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sizes [..., 2] times one scale [...], rounded, int32, at least 1; and that scale twice, float32.

    The scale is not that of the rounded sides. In float64, so that graphs, tables and exported models round
    alike.
    """
    scale = tf.cast(scale, tf.float32)
    resized = tf.round(tf.cast(size, tf.float64) * tf.cast(scale, tf.float64)[..., None])
    return tf.maximum(tf.cast(resized, tf.int32), 1), tf.stack([scale, scale], axis=-1)


def crop_start(boxes: tf.Tensor, size: tf.Tensor, content: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Where to cut ``content`` out of ``size`` (h, w), int32 [2], along the longer side.

    All boxes stay inside where they fit, at a random place; where they do not, the cut begins within their
    extent. Without boxes it is anywhere.
    """
    axis = tf.cast(size[1] > content[1], tf.int32)  # 1: cut along x
    length, kept = tf.gather(size, axis), tf.gather(content, axis)
    any_box = tf.shape(boxes)[0] > 0
    low = tf.cast(tf.reduce_min(tf.gather(boxes, 1 - axis, axis=1)), tf.int32)
    high = tf.cast(tf.reduce_max(tf.gather(boxes, 3 - axis, axis=1)), tf.int32)
    low, high = tf.where(any_box, low, length), tf.where(any_box, high, 0)
    extent = high - low + 1
    fits = extent < kept
    first = tf.where(fits, tf.maximum(high - kept, 0), low)
    last = tf.where(fits, tf.minimum(low, length - kept), low + (extent - kept) // 2)
    last = tf.minimum(last, length - kept + 1)
    drawn = tf.random.stateless_uniform(
        [], key, minval=0, maxval=tf.maximum(last - first, 1), dtype=tf.int32, alg=streams.ALGORITHM
    )
    start = tf.where(low == 0, 0, first + drawn)
    start = tf.where(length > kept, tf.clip_by_value(start, 0, length - kept), 0)
    return tf.where(axis == 1, tf.stack([0, start]), tf.stack([start, 0]))


def cut_boxes(boxes: tf.Tensor, start: tf.Tensor, size: tf.Tensor, content: tf.Tensor) -> tf.Tensor:
    """Boxes [N,4] of an image of ``size`` in its part ``content`` from ``start`` (y, x), int32 [2] each.

    They are limited to the part along a side that was cut, and left as they are along the other.
    """
    shift = tf.cast(tf.gather(start, [1, 0, 1, 0]), tf.float32)
    last = tf.where(size > content, tf.cast(content, tf.float32) - 1.0, tf.float32.max)
    return tf.clip_by_value(boxes - shift, 0.0, tf.gather(last, [1, 0, 1, 0]))


STRETCH, SHORTER_SIDE, LETTERBOX = Stretch(), ShorterSide(), Letterbox()
TORCHVISION = TorchvisionShorterSide()
