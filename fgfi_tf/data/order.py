"""Which images form the batch of a step: a pure function of the seed.

An *entry* is an image of the split, or its mirror image. Epoch e is a permutation of all entries, drawn from
(seed, e). Either the permutations follow each other and are cut into batches wherever these end, or, where
images of one aspect ratio are to share a batch, each epoch is sorted by it (equal ones stay in random order),
cut into batches without those that do not fill one, and these are put in random order. Step k is computed
without the steps before it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fgfi_tf import streams
from fgfi_tf.data.augment import Augmentation
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.errors import UserError


class Order:
    """The entries of every step.

    ``augmentation`` says which images count, and whether their mirror images do; ``sizes`` are (h, w) of
    every image in the network input, int32 [N, 2], to group them by aspect ratio. Raises UserError where an
    epoch does not fill a batch and has to.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        augmentation: Augmentation,
        batch_size: int,
        sizes: tf.Tensor | None = None,
    ):
        counts = np.arange(dataset.num_examples)
        if augmentation.only_with_objects:
            counts = np.flatnonzero([not np.all(frame["ignore"]) for frame in dataset.labels()])
        self._images = tf.constant(counts, tf.int64)
        self._num_images = len(counts)
        self._count = self._num_images * (2 if augmentation.mirror_images else 1)
        self._batch_size = batch_size
        self._ratios = None if sizes is None else sizes[:, 1] / sizes[:, 0]
        if self._count < (1 if sizes is None else batch_size):
            what = "images with objects" if augmentation.only_with_objects else "images"
            mirrored = f" ({self._count} with their mirror images)" if augmentation.mirror_images else ""
            raise UserError(
                f"{dataset.name}: {self._num_images} {what}{mirrored} do not fill a batch of {batch_size}"
            )

    def images(self, entries: tf.Tensor) -> tf.Tensor:
        """Index into the dataset of entries, int64 like them."""
        return tf.gather(self._images, entries % self._num_images)

    def mirrored(self, entries: tf.Tensor) -> tf.Tensor:
        """Whether entries are mirror images, bool."""
        return entries >= self._num_images

    def steps(self, seed: int, start_step: int, use: streams.Use = streams.Use.EPOCH) -> tf.data.Dataset:
        """Endless (step, entries [batch_size]), int64, from ``start_step`` on; ``use`` parts streams."""
        if self._ratios is None:
            first, skipped = divmod(start_step * self._batch_size, self._count)
        else:
            first, skipped = divmod(start_step, self._count // self._batch_size)

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            key = streams.key_of(seed, use, number)
            chosen = streams.permutation(self._count, key) if self._ratios is None else self._grouped(key)
            return tf.data.Dataset.from_tensor_slices(chosen)

        stream = tf.data.Dataset.counter(first).flat_map(epoch).skip(skipped)
        if self._ratios is None:
            stream = stream.batch(self._batch_size, drop_remainder=True)
        return stream.enumerate(start_step)

    def _grouped(self, key: tf.Tensor) -> tf.Tensor:
        """The batches of an epoch, [groups, batch_size]."""
        groups = self._count // self._batch_size
        # a permutation short of the entries that would not fill a batch
        chosen = streams.permutation(self._count, streams.fold(key, 0))[: groups * self._batch_size]
        by_ratio = tf.argsort(tf.gather(self._ratios, self.images(chosen)), stable=True)
        order = tf.reshape(tf.gather(chosen, by_ratio), [groups, self._batch_size])
        return tf.gather(order, streams.permutation(groups, streams.fold(key, 1)))
