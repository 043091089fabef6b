"""Batches for training and evaluation, all in the graph: one pipeline for every policy.

The training stream is a pure function of the seed: which images form the batch of step k is said by
``fgfi_tf.data.order``, and what is drawn for the example at position p of the stream (p = 0, 1, ... over all
epochs) by (seed, p). So step k can be computed without the steps before it: a resumed run goes on exactly
where it stopped, having read nothing of what it skips.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data import transforms
from fgfi_tf.data.augment import Augmentation
from fgfi_tf.data.order import Order
from fgfi_tf.data.records import PreparedDataset, Sample
from fgfi_tf.data.resize import NetworkInput, Resize
from fgfi_tf.errors import UserError
from fgfi_tf.processes import cores

Batch = dict[str, tf.Tensor]
PrepareBatch = Callable[[Batch], Batch]
# What an example's key is folded with for each of its draws; augmentation has the key itself.
CROP_DRAW, BOX_DRAW = range(2)
_AHEAD = 2  # batches that wait for the step


def training_batches(
    dataset: PreparedDataset,
    *,
    resize: Resize,
    input_size: tuple[int, int],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_classes: int | None = None,
    max_boxes: int | None = None,
    augmentation: Augmentation | None = None,
    prepare: PrepareBatch | None = None,
    num_parallel_calls: int = 0,
    shard: tuple[int, int] = (0, 1),
    uses: tuple[streams.Use, streams.Use] = (streams.Use.EPOCH, streams.Use.EXAMPLE),
) -> tf.data.Dataset:
    """Endless batches (``fgfi_tf.data.sample``) from step ``start_step`` on, always full.

    Args:
        dataset: what to read.
        resize, input_size: how images become network inputs, see ``fgfi_tf.data.resize``.
        batch_size: examples of the *global* batch.
        seed: the stream is a function of it alone.
        start_step: batches that a resumed run has already seen.
        num_classes: classes to train on, the dataset's learnt ones by default.
        max_boxes: rows that boxes are padded to; by default the most in any image of the dataset,
            rounded up to a multiple of 8, so that none is lost.
        augmentation: what is done before resizing, None for nothing.
        prepare: applied to every batch, e.g. ``Detector.prepare_batch``.
        num_parallel_calls: of the decoding and augmenting map (0: one a core); its order stays the same.
        shard: (i, n): worker i of n gets examples i*b .. (i+1)*b - 1 of every global batch,
            b = batch_size / n.
        uses: what its order and its examples draw from, of two streams of one run.

    Raises UserError: a dataset without an image to train on, or with too few for a batch of one aspect ratio;
    a global batch that n does not divide; a max_boxes below the dataset's, unless boxes are sampled.
    """
    worker, workers = shard
    _check_sizes(dataset, batch_size, workers)
    augmentation = augmentation or Augmentation()
    local = batch_size // workers
    rows = max_boxes or dataset.max_boxes
    if rows < dataset.max_boxes and not augmentation.samples_boxes:
        raise UserError(
            f"max_boxes is {rows}, but {dataset.name} needs {dataset.max_boxes} for its fullest image"
        )
    sizes = tf.constant(dataset.image_sizes(), tf.int32) if resize.by_batch else None  # N x 2
    content = resize.cropped(resize.resized(sizes, input_size)[0]) if resize.by_batch else None
    order = Order(dataset, augmentation, batch_size, content)

    @tf.autograph.experimental.do_not_convert
    def example_plans(step: tf.Tensor, chosen: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of this worker's examples of a step: position, entry, and sizes that only the whole batch tells."""
        size = resize.training_size(input_size, seed, step)
        plans = {"position": step * batch_size + tf.range(batch_size, dtype=tf.int64), "entry": chosen}
        if isinstance(size, tf.Tensor):
            plans["size"] = tf.repeat(size[None], batch_size, axis=0)
        if resize.by_batch and augmentation.keeps_size:
            resized, _ = resize.resized(tf.gather(sizes, order.images(chosen)), size)
            largest = tf.reduce_max(resize.cropped(resized), axis=0)
            plans["padded"] = tf.repeat(resize.padded(largest, size)[None], batch_size, axis=0)
        return {name: value[worker * local : (worker + 1) * local] for name, value in plans.items()}

    @tf.autograph.experimental.do_not_convert
    def load(plan: dict[str, tf.Tensor]) -> Batch:
        key = streams.key_of(seed, uses[1], plan["position"])
        example, image, boxes, classes = _read(dataset, order.images(plan["entry"]), num_classes)
        if augmentation.mirror_images:
            image, boxes = _mirrored(image, boxes, order.mirrored(plan["entry"]))
        image, boxes, classes = augmentation.augment(image, boxes, classes, key)
        made = resize(
            image,
            plan.get("size", input_size),
            boxes,
            crop_key=streams.fold(key, CROP_DRAW),
            padded=plan.get("padded"),
        )
        boxes, classes = tf.boolean_mask(made.boxes, made.kept), tf.boolean_mask(classes, made.kept)
        if augmentation.samples_boxes:
            boxes, classes = _sampled(boxes, classes, rows, streams.fold(key, BOX_DRAW))
        return _row(example, made, boxes, classes, rows)

    stream = order.steps(seed, start_step, uses[0]).map(example_plans).unbatch()
    stream = stream.map(load, num_parallel_calls=num_parallel_calls or cores(), deterministic=True)
    padding = resize.by_batch and not augmentation.keeps_size
    return prepared(_batched(stream, local, padding, drop_remainder=True), prepare)


def evaluation_batches(
    dataset: PreparedDataset,
    *,
    resize: Resize,
    input_size: tuple[int, int],
    batch_size: int,
    num_classes: int | None = None,
    prepare: PrepareBatch | None = None,
    num_parallel_calls: int = 0,
    remainder: str = "keep",
) -> tf.data.Dataset:
    """Every example once, without augmentation and crop.

    In the order of the split; larger batches of images whose size tells that of the network input are sorted
    by aspect ratio. ``remainder`` says what becomes of a last batch that is not full: ``"keep"`` leaves it
    smaller, ``"pad"`` repeats its last example under the ``image_id`` ``""`` (for static shapes and equal
    replicas), ``"drop"`` leaves it out. The other arguments are those of :func:`training_batches`.
    """
    if remainder not in ("keep", "pad", "drop"):
        raise ValueError(f"remainder is {remainder!r}, not keep, pad or drop")
    _check_sizes(dataset, batch_size)
    count = dataset.num_examples
    indices = np.arange(count)
    if resize.by_batch and batch_size > 1:
        sizes = dataset.image_sizes()
        indices = np.argsort(sizes[:, 1] / sizes[:, 0], kind="stable")
    if remainder == "pad":
        indices = np.concatenate([indices, np.repeat(indices[-1:], -count % batch_size)])

    @tf.autograph.experimental.do_not_convert
    def load(position: tf.Tensor, index: tf.Tensor) -> Batch:
        example, image, boxes, classes = _read(dataset, index, num_classes)
        made = resize(image, input_size, boxes)
        row = _row(example, made, made.boxes, classes, dataset.max_boxes)
        row["image_id"] = tf.where(position < count, row["image_id"], "")
        return row

    stream = tf.data.Dataset.from_tensor_slices(tf.constant(indices, tf.int64)).enumerate()
    stream = stream.map(load, num_parallel_calls=num_parallel_calls or cores(), deterministic=True)
    return prepared(_batched(stream, batch_size, resize.by_batch, remainder != "keep"), prepare)


def _check_sizes(dataset: PreparedDataset, batch_size: int, workers: int = 1) -> None:
    if batch_size < 1 or batch_size % workers:
        raise UserError(f"a batch size of {batch_size} cannot be shared equally by {workers} workers")
    if dataset.num_examples < 1:
        raise UserError(f"{dataset.name}: the split is empty")


def _read(
    dataset: PreparedDataset, index: tf.Tensor, num_classes: int | None
) -> tuple[Sample, tf.Tensor, tf.Tensor, tf.Tensor]:
    """A sample, its image uint8 [H,W,3], and boxes [N,4] and classes [N] of the objects to train on."""
    example = dataset.sample(index)
    boxes, classes = transforms.training_objects(
        example["boxes"], example["classes"], example["ignore"], num_classes or len(dataset.learnt_names)
    )
    return example, transforms.decode_image(example["image"]), boxes, classes


def _mirrored(image: tf.Tensor, boxes: tf.Tensor, mirrored: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Image and boxes, mirrored where the scalar ``mirrored`` is True."""
    width = tf.shape(image)[1]
    image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    return image, tf.where(mirrored, transforms.flip_boxes(boxes, width), boxes)


def _sampled(boxes: tf.Tensor, classes: tf.Tensor, most: int, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A random choice of ``most`` objects, in label order; all where there are no more."""
    chosen = tf.sort(tf.argsort(streams.uniform(tf.shape(classes), key))[:most])
    return tf.gather(boxes, chosen), tf.gather(classes, chosen)


def _row(example: Sample, made: NetworkInput, boxes: tf.Tensor, classes: tf.Tensor, max_boxes: int) -> Batch:
    """The batch's row of one example, its objects padded to ``max_boxes`` = M."""
    boxes, classes, valid = transforms.pad_objects(boxes, classes, max_boxes)
    return {
        "image": made.image,  # H x W x 3
        "boxes": boxes,  # M x 4
        "classes": classes,  # M
        "valid": valid,  # M
        "content_size": tf.cast(made.content, tf.float32),
        "scale": made.scale,
        "image_id": example["image_id"],
        "image_size": example["image_size"],
    }


def _batched(stream: tf.data.Dataset, size: int, padding: bool, drop_remainder: bool) -> tf.data.Dataset:
    """Batches of rows; with ``padding`` of images of different sizes, padded to the largest."""
    if padding:
        return stream.padded_batch(size, drop_remainder=drop_remainder)
    return stream.batch(size, drop_remainder=drop_remainder)


def interleaved(first: Batch, second: Batch, shares: int) -> Batch:
    """Two batches as one of ``shares`` equal parts, each with its part of the first, then of the second.

    Images are padded with zeros to the larger of the two sizes, at the right and below.
    """
    sizes = [tf.shape(batch["image"])[1:3] for batch in (first, second)]
    size = tf.maximum(*sizes)
    alike = (
        first["image"].shape[1:].is_fully_defined() and first["image"].shape[1:] == second["image"].shape[1:]
    )

    def padded(images: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        missing = size - own
        return tf.pad(images, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])

    def joined(name: str) -> tf.Tensor:
        parts = [first[name], second[name]]
        if name == "image" and not alike:
            parts = [padded(images, own) for images, own in zip(parts, sizes, strict=True)]
        rows = [int(part.shape[0]) // shares for part in parts]
        split = [
            tf.reshape(part, tf.concat([[shares, count], tf.shape(part)[1:]], 0))
            for part, count in zip(parts, rows, strict=True)
        ]
        whole = tf.concat(split, axis=1)  # shares x rows x ...
        whole = tf.reshape(whole, tf.concat([[-1], tf.shape(whole)[2:]], 0))
        return tf.ensure_shape(whole, [shares * sum(rows), *parts[0].shape[1:]])

    return {name: joined(name) for name in first}


def prepared(batches: tf.data.Dataset, prepare: PrepareBatch | None) -> tf.data.Dataset:
    """``prepare`` on each batch, the options, two batches ahead of the step.

    TensorFlow tunes nothing here: the thread that would do so sleeps for up to a minute at a time, and a
    training that ends waits for it.
    """
    if prepare is not None:
        prepare = tf.autograph.experimental.do_not_convert(prepare)
        batches = batches.map(prepare, num_parallel_calls=cores(), deterministic=True)
    options = tf.data.Options()
    options.autotune.enabled = False
    # the pipeline shares out examples itself, see shard
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options).prefetch(_AHEAD)
