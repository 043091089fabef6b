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


class Entries:
    """The entries of an epoch.

    Args:
        dataset: what to read.
        augmentation: says which images count, and whether their mirror images do.

    Raises:
        UserError: there are none.
    """

    def __init__(self, dataset: PreparedDataset, augmentation: Augmentation):
        if dataset.num_examples < 1:
            raise UserError(f"{dataset.name}: the split is empty")
        self._images: tf.Tensor | None = None
        self.num_images, self._what = dataset.num_examples, "images"
        if augmentation.only_with_objects:
            found = np.flatnonzero([not np.all(frame["ignore"]) for frame in dataset.labels()])
            self._images, self.num_images = tf.constant(found, tf.int64), len(found)
            self._what = "images with objects"
        self.count = self.num_images * (2 if augmentation.mirror_images else 1)
        self._name = dataset.name
        self.check_fill(1)

    def check_fill(self, batch_size: int) -> None:
        """Raises UserError where an epoch does not fill a batch."""
        if self.count < batch_size:
            mirrored = f" ({self.count} with their mirror images)" if self.count > self.num_images else ""
            raise UserError(
                f"{self._name}: {self.num_images} {self._what}{mirrored} do not fill a batch of {batch_size}"
            )

    def images(self, entries: tf.Tensor) -> tf.Tensor:
        """Index into the dataset of entries, int64 like them."""
        index = entries % self.num_images
        return index if self._images is None else tf.gather(self._images, index)

    def mirrored(self, entries: tf.Tensor) -> tf.Tensor:
        """Whether entries are mirror images, bool."""
        return entries >= self.num_images


def random_batches(entries: Entries, batch_size: int, seed: int, start_step: int) -> tf.data.Dataset:
    """Endless entries int64 [batch_size] of each step from ``start_step`` on."""
    first_epoch, skipped = divmod(start_step * batch_size, entries.count)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(streams.permutation(entries.count, _key(seed, number)))

    stream = tf.data.Dataset.counter(first_epoch).flat_map(epoch).skip(skipped)
    return stream.batch(batch_size, drop_remainder=True)


def grouped_batches(
    entries: Entries, sizes: tf.Tensor, batch_size: int, seed: int, start_step: int
) -> tf.data.Dataset:
    """The same with images of similar aspect ratio in a batch.

    Args:
        entries, batch_size, seed, start_step: as in :func:`random_batches`.
        sizes: (h, w) of every image of the dataset in the network input, int32 [N, 2].

    Raises:
        UserError: an epoch does not fill a batch.
    """
    entries.check_fill(batch_size)
    groups = entries.count // batch_size
    ratios = sizes[:, 1] / sizes[:, 0]
    first_epoch, skipped = divmod(start_step, groups)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        key = _key(seed, number)
        # a permutation short of the entries that would not fill a batch
        chosen = streams.permutation(entries.count, streams.fold(key, 0))[: groups * batch_size]
        by_ratio = tf.argsort(tf.gather(ratios, entries.images(chosen)), stable=True)
        order = tf.reshape(tf.gather(chosen, by_ratio), [groups, batch_size])
        shuffled = streams.permutation(groups, streams.fold(key, 1))
        return tf.data.Dataset.from_tensor_slices(tf.gather(order, shuffled))

    return tf.data.Dataset.counter(first_epoch).flat_map(epoch).skip(skipped)


def _key(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    return streams.key_of(seed, streams.Use.EPOCH, epoch)
