"""Batches of images of different shape: resized by the short side, grouped, padded; all in the graph.

Images of similar aspect ratio go into one batch, so that little is padded. As in ``fgfi_tf.data.pipeline``
the stream is a pure function of the seed. An epoch is a permutation of the images and, with ``flip``, of
their mirror images; it is sorted by aspect ratio (images of the same ratio stay in random order), cut into
batches, and these are put in random order. Step k is computed without the steps before it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data import shapes, transforms
from fgfi_tf.data.pipeline import Batch, PrepareBatch, prepared_batches
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.data.shapes import ShapeRule
from fgfi_tf.errors import UserError


def training_batches(
    dataset: PreparedDataset,
    *,
    batch_size: int,
    seed: int,
    shape: ShapeRule | None = None,
    start_step: int = 0,
    max_boxes: int | None = 20,
    flip: bool = True,
    prepare: PrepareBatch | None = None,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Endless batches (``fgfi_tf.data.sample``) from step ``start_step`` on, always full.

    Images without an object to train on are left out. Boxes follow by their corners.

    Args:
        dataset: what to read.
        batch_size: examples of the *global* batch.
        seed: the stream is a function of it alone.
        shape: how images become network inputs.
        start_step: batches that a resumed run has already seen.
        max_boxes: rows that boxes are padded to; a random choice of an image's boxes where it has more (20 in
            the published runs). None: as many as the fullest image has.
        flip: an epoch holds every image mirrored as well.
        prepare: applied to every batch, e.g. ``Detector.prepare_batch``.
        num_parallel_calls: of the decoding map; its order stays the same.
        shard: (i, n): worker i of n gets its n-th part of every global batch.

    Raises:
        UserError: no image has objects, a batch of more images than an epoch, or one that n does not divide.
    """
    shape = shape or ShapeRule()
    worker, workers = shard
    if batch_size < 1 or batch_size % workers:
        raise UserError(f"a batch size of {batch_size} cannot be shared equally by {workers} workers")
    plan = _EpochPlan(dataset, shape, batch_size, flip)
    rows = max_boxes or dataset.max_boxes
    local = batch_size // workers

    @tf.autograph.experimental.do_not_convert
    def load(position: tf.Tensor, entry: tf.Tensor, padded_size: tf.Tensor) -> Batch:
        key = streams.key_of(seed, streams.Use.EXAMPLE, position)
        index, mirrored = plan.image_of(entry)
        return _training_row(dataset, index, mirrored, plan.table(index), padded_size, key, rows)

    stream = plan.entries(seed, start_step)
    if workers > 1:
        stream = stream.filter(lambda position, *_: position % batch_size // local == worker)
    batches = stream.map(load, num_parallel_calls=num_parallel_calls, deterministic=True)
    return prepared_batches(batches.batch(local, drop_remainder=True), prepare)


def evaluation_batches(
    dataset: PreparedDataset,
    *,
    batch_size: int = 1,
    shape: ShapeRule | None = None,
    prepare: PrepareBatch | None = None,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    remainder: str = "keep",
) -> tf.data.Dataset:
    """Every example once, resized only: not cropped, padded within its batch.

    With one image a batch, as published results were made, in the order of the split; else sorted by aspect
    ratio. ``remainder`` is as in ``pipeline.evaluation_batches``: ``"keep"``, ``"drop"``, or ``"pad"`` to
    repeat the last example under the ``image_id`` ``""``.
    """
    if remainder not in ("keep", "pad", "drop"):
        raise ValueError(f"remainder is {remainder!r}, not keep, pad or drop")
    shape = shape or ShapeRule()
    sizes = _image_sizes(dataset)
    resized = shape.resized(sizes)
    order = np.arange(len(sizes))
    if batch_size > 1:
        order = np.argsort(sizes[:, 1] / sizes[:, 0], kind="stable")
    count = len(order)
    if remainder == "drop":
        order = order[: count // batch_size * batch_size]
    elif remainder == "pad":
        order = np.concatenate([order, np.repeat(order[-1:], -count % batch_size)])
    groups = np.arange(len(order)) // batch_size
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    largest = np.maximum.reduceat(resized[order], starts, axis=0) if len(order) else resized[:0]
    padded = tf.constant(shape.padded(largest)[groups], tf.int32)  # N x 2
    order = tf.constant(order, tf.int64)
    table = _Table(resized, resized, shape.scales(sizes))

    @tf.autograph.experimental.do_not_convert
    def load(position: tf.Tensor) -> Batch:
        index = tf.gather(order, position)
        example = dataset.sample(index)
        image = _resized(transforms.decode_image(example["image"]), table(index))
        boxes, classes = transforms.training_objects(
            example["boxes"], example["classes"], example["ignore"], dataset.num_training_classes
        )
        boxes = transforms.resize_boxes(boxes, table(index)["scale"], "corners")
        row = _row(
            example, image, boxes, classes, table(index), tf.gather(padded, position), dataset.max_boxes
        )
        row["image_id"] = tf.where(position < count, row["image_id"], "")
        return row

    batches = tf.data.Dataset.range(int(order.shape[0]))
    batches = batches.map(load, num_parallel_calls=num_parallel_calls, deterministic=True)
    return prepared_batches(batches.batch(batch_size), prepare)


class _Table:
    """Per image: ``resized`` and ``content`` (cropped) size int32 [2], ``scale`` float32 [2]."""

    def __init__(self, resized: np.ndarray, content: np.ndarray, scales: np.ndarray):
        self._columns = {
            "resized": tf.constant(resized, tf.int32),
            "content": tf.constant(content, tf.int32),
            "scale": tf.constant(np.repeat(scales[:, None], 2, axis=1), tf.float32),
        }

    def __call__(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """The row of an image."""
        return {name: tf.gather(column, index) for name, column in self._columns.items()}


class _EpochPlan:
    """Which images form the batches of an epoch, and how large these are."""

    def __init__(self, dataset: PreparedDataset, shape: ShapeRule, batch_size: int, flip: bool):
        has_objects = [not np.all(frame["ignore"]) for frame in dataset.labels()]
        self._images = tf.constant(np.flatnonzero(has_objects), tf.int64)
        self._count = int(np.sum(has_objects))
        self._num_entries = self._count * (2 if flip else 1)
        self._batch_size, self._groups = batch_size, self._num_entries // batch_size
        if not self._groups:
            raise UserError(
                f"{dataset.name}: {self._count} images with objects ({self._num_entries} with their mirror "
                f"images) do not fill a batch of {batch_size}"
            )
        sizes = _image_sizes(dataset)
        resized = shape.resized(sizes)
        self.table = _Table(resized, shape.cropped(resized), shape.scales(sizes))
        self._shape = shape

    def image_of(self, entry: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Index into the dataset of entries of the epoch, and whether they are mirrored."""
        return tf.gather(self._images, entry % self._count), entry >= self._count

    def entries(self, seed: int, start_step: int) -> tf.data.Dataset:
        """Endless (position, entry, padded size int32 [2]) from a step on."""
        per_epoch = self._groups * self._batch_size
        first_epoch, skipped = divmod(start_step * self._batch_size, per_epoch)
        epochs = tf.data.Dataset.counter(first_epoch)
        entries = epochs.flat_map(lambda epoch: self._epoch(seed, epoch)).skip(skipped)
        return entries.enumerate(start_step * self._batch_size).map(lambda position, row: (position, *row))

    def _epoch(self, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        key = streams.key_of(seed, streams.Use.EPOCH, epoch)
        # a permutation short of the entries that would not fill a batch
        chosen = streams.permutation(self._num_entries, streams.fold(key, 0))
        chosen = chosen[: self._groups * self._batch_size]
        content = self.table(self.image_of(chosen)[0])["content"]  # E x 2
        ratios = content[:, 1] / content[:, 0]
        by_ratio = tf.argsort(ratios, stable=True)
        order = tf.reshape(tf.gather(chosen, by_ratio), [self._groups, self._batch_size])
        largest = tf.reduce_max(
            tf.reshape(tf.gather(content, by_ratio), [self._groups, self._batch_size, 2]), axis=1
        )  # G x 2
        shuffled = streams.permutation(self._groups, streams.fold(key, 1))
        order, largest = tf.gather(order, shuffled), tf.gather(self._shape.padded(largest), shuffled)
        padded = tf.repeat(largest, self._batch_size, axis=0)
        return tf.data.Dataset.from_tensor_slices((tf.reshape(order, [-1]), padded))


def _training_row(dataset, index, mirrored, table, padded_size, key, max_boxes) -> Batch:
    """One example: mirrored, resized, cropped, its boxes reduced to ``max_boxes``, padded."""
    crop_key, box_key = streams.fold(key, 0), streams.fold(key, 1)
    example = dataset.sample(index)
    image = transforms.decode_image(example["image"])
    boxes, classes = transforms.training_objects(
        example["boxes"], example["classes"], example["ignore"], dataset.num_training_classes
    )
    width = tf.shape(image)[1]
    image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    boxes = tf.where(mirrored, transforms.flip_boxes(boxes, width), boxes)
    image = _resized(image, table)
    boxes = transforms.resize_boxes(boxes, table["scale"], "corners")
    start = shapes.crop_start(boxes, table["resized"], table["content"], crop_key)  # (y, x)
    image = tf.slice(image, tf.concat([start, [0]], 0), tf.concat([table["content"], [3]], 0))
    boxes = shapes.cut_boxes(boxes, start, table["resized"], table["content"])
    has_area = tf.reduce_all(boxes[:, :2] != boxes[:, 2:], axis=-1)
    boxes, classes = tf.boolean_mask(boxes, has_area), tf.boolean_mask(classes, has_area)
    order = tf.argsort(streams.uniform(tf.shape(classes), box_key))[:max_boxes]
    order = tf.sort(order)  # a random choice, in label order
    return _row(
        example, image, tf.gather(boxes, order), tf.gather(classes, order), table, padded_size, max_boxes
    )


def _resized(image: tf.Tensor, table: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.image.resize(image, table["resized"], method="bilinear", antialias=False)


def _row(example, image, boxes, classes, table, padded_size, max_boxes) -> Batch:
    boxes, classes, valid = transforms.pad_objects(boxes, classes, max_boxes)
    rest = padded_size - table["content"]
    return {
        "image": tf.pad(image, [[0, rest[0]], [0, rest[1]], [0, 0]]),  # H x W x 3
        "boxes": boxes,  # M x 4
        "classes": classes,  # M
        "valid": valid,  # M
        "content_size": tf.cast(table["content"], tf.float32),
        "scale": table["scale"],
        "image_id": example["image_id"],
        "image_size": example["image_size"],
    }


def _image_sizes(dataset: PreparedDataset) -> np.ndarray:
    """(H, W) of every image, int64 [N,2]."""
    sizes = dataset.image_sizes()
    if not len(sizes):
        raise UserError(f"{dataset.name}: the split is empty")
    return sizes
