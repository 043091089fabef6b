"""Batches for training and evaluation, all in the graph.

The training stream is a pure function of the seed: example p of it (p = 0, 1, ... over all epochs)
is position p mod N of epoch p div N, whose order is a permutation drawn from (seed, epoch), and its
augmentation is drawn from (seed, p). So step k can be computed without the steps before it: a
resumed run goes on exactly where it stopped, having read nothing of what it skips.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data import transforms
from fgfi_tf.data.augment import AugmentConfig, augment
from fgfi_tf.data.records import PreparedDataset, Sample
from fgfi_tf.errors import UserError

Batch = dict[str, tf.Tensor]
PrepareBatch = Callable[[Batch], Batch]


def training_batches(
    dataset: PreparedDataset,
    *,
    input_size: tuple[int, int],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_classes: int | None = None,
    max_boxes: int | None = None,
    augmentation: AugmentConfig | None = None,
    box_resize: str = "edges",
    prepare: PrepareBatch | None = None,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Endless batches (``fgfi_tf.data.sample``) from step ``start_step`` on, always full.

    Args:
        dataset: what to read.
        input_size: (H, W) of the network input; images are resized without keeping their shape.
        batch_size: examples of the *global* batch.
        seed: the stream is a function of it alone.
        start_step: batches that a resumed run has already seen.
        num_classes: classes to train on, the dataset's learnt ones by default.
        max_boxes: rows that boxes are padded to; by default the most in any image of the dataset,
            rounded up to a multiple of 8, so that none is lost.
        augmentation: the ranges, or None for none.
        box_resize: how boxes follow the resizing, see ``fgfi_tf.data.sample``.
        prepare: applied to every batch, e.g. ``Detector.prepare_batch``.
        num_parallel_calls: of the decoding and augmenting map; its order stays the same.
        shard: (i, n): worker i of n gets examples i*b .. (i+1)*b - 1 of every global batch,
            b = batch_size / n.

    Raises:
        UserError: an empty dataset, a global batch that n does not divide, a max_boxes below the
            dataset's.
    """
    worker, workers = shard
    _check(dataset, batch_size, workers)
    classes, rows = _limits(dataset, num_classes, max_boxes)
    local = batch_size // workers

    @tf.autograph.experimental.do_not_convert
    def load(position: tf.Tensor, index: tf.Tensor) -> Batch:
        example = dataset.sample(index)
        image = transforms.decode_image(example["image"])
        boxes, labels = transforms.training_objects(
            example["boxes"], example["classes"], example["ignore"], classes
        )
        if augmentation is not None:
            key = streams.key_of(seed, streams.Use.EXAMPLE, position)
            image, boxes = augment(image, boxes, key, augmentation)
        return _row(example, image, boxes, labels, input_size, rows, box_resize)

    stream = example_positions(dataset.num_examples, seed, start_step * batch_size)
    if workers > 1:
        stream = stream.filter(lambda position, _: position % batch_size // local == worker)
    batches = stream.map(load, num_parallel_calls=num_parallel_calls, deterministic=True)
    batches = batches.batch(local, drop_remainder=True)
    return prepared_batches(batches, prepare)


def evaluation_batches(
    dataset: PreparedDataset,
    *,
    input_size: tuple[int, int],
    batch_size: int,
    num_classes: int | None = None,
    max_boxes: int | None = None,
    box_resize: str = "edges",
    prepare: PrepareBatch | None = None,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    remainder: str = "keep",
) -> tf.data.Dataset:
    """Every example once, in the order of the split, without augmentation.

    ``remainder`` says what becomes of a last batch that is not full: ``"keep"`` leaves it smaller,
    ``"pad"`` repeats its last example under the ``image_id`` ``""`` (for static shapes and equal
    replicas), ``"drop"`` leaves it out. The other arguments are those of :func:`training_batches`.
    """
    if remainder not in ("keep", "pad", "drop"):
        raise ValueError(f"remainder is {remainder!r}, not keep, pad or drop")
    _check(dataset, batch_size, 1)
    classes, rows = _limits(dataset, num_classes, max_boxes)
    count = dataset.num_examples

    @tf.autograph.experimental.do_not_convert
    def load(position: tf.Tensor) -> Batch:
        example = dataset.sample(tf.minimum(position, count - 1))
        boxes, labels = transforms.training_objects(
            example["boxes"], example["classes"], example["ignore"], classes
        )
        image = transforms.decode_image(example["image"])
        batch = _row(example, image, boxes, labels, input_size, rows, box_resize)
        batch["image_id"] = tf.where(position < count, batch["image_id"], "")
        return batch

    total = -(-count // batch_size) * batch_size if remainder == "pad" else count
    batches = tf.data.Dataset.range(total).map(
        load, num_parallel_calls=num_parallel_calls, deterministic=True
    )
    batches = batches.batch(batch_size, drop_remainder=remainder != "keep")
    return prepared_batches(batches, prepare)


def example_positions(num_examples: int, seed: int, start: int) -> tf.data.Dataset:
    """Endless (position in the stream, index into the dataset), int64 scalars, from ``start`` on."""
    first_epoch, skipped = divmod(start, num_examples)

    def epoch_order(epoch: tf.Tensor) -> tf.data.Dataset:
        key = streams.key_of(seed, streams.Use.EPOCH, epoch)
        return tf.data.Dataset.from_tensor_slices(streams.permutation(num_examples, key))

    indices = tf.data.Dataset.counter(first_epoch).flat_map(epoch_order).skip(skipped)
    return indices.enumerate(start)


def _row(
    example: Sample,
    image: tf.Tensor,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    input_size: tuple[int, int],
    max_boxes: int,
    box_resize: str,
) -> Batch:
    """The batch's row of one example: image and boxes resized, objects padded."""
    size = tf.constant(input_size, tf.float32)
    scale = size / tf.cast(tf.shape(image)[:2], tf.float32)
    boxes = transforms.resize_boxes(boxes, scale, box_resize)
    boxes, classes, valid = transforms.pad_objects(boxes, classes, max_boxes)
    return {
        "image": transforms.resize_image(image, input_size),  # H x W x 3
        "boxes": boxes,  # M x 4
        "classes": classes,  # M
        "valid": valid,  # M
        "content_size": size,
        "scale": scale,
        "image_id": example["image_id"],
        "image_size": example["image_size"],
    }


def _limits(dataset: PreparedDataset, num_classes: int | None, max_boxes: int | None) -> tuple[int, int]:
    most = dataset.max_boxes
    if max_boxes is not None and max_boxes < most:
        raise UserError(f"max_boxes is {max_boxes}, but {dataset.name} needs {most} for its fullest image")
    return num_classes or dataset.num_training_classes, max_boxes or most


def _check(dataset: PreparedDataset, batch_size: int, workers: int) -> None:
    if dataset.num_examples < 1:
        raise UserError(f"{dataset.name}: the split is empty")
    if batch_size < 1 or batch_size % workers:
        raise UserError(f"a batch size of {batch_size} cannot be shared equally by {workers} workers")


def prepared_batches(batches: tf.data.Dataset, prepare: PrepareBatch | None) -> tf.data.Dataset:
    """The end of both pipelines: ``prepare`` on each batch, the options, a batch ahead of the step."""
    if prepare is not None:
        batches = batches.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    # the pipeline shares out examples itself, see shard
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
