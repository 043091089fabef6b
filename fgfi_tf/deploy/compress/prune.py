"""Magnitude pruning: the weights that matter least become 0, more of them as training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tf_keras as keras

from fgfi_tf.deploy.compress.library import tfmot

#: The schedule ends at this share of the steps; what is left of them, the others recover.
PRUNED_BY = 0.6


def prunable(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Layers whose kernels are pruned: convolutions of many channels, and dense layers.

    Depthwise kernels and those of the picture's three colours hold few of the weights, and need them all.
    """
    for layer in model._flatten_layers(include_self=False):
        kernel = getattr(layer, "kernel", None)
        if kernel is None or getattr(layer, "depthwise", False):
            continue
        if len(kernel.shape) == 2 or (len(kernel.shape) == 4 and kernel.shape[2] > 3):
            yield layer


def masks(kernels: Sequence[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """Which values stay: float32 of each kernel's shape, 0 for ``sparsity`` of all values together, else 1.

    By the layer-adaptive magnitude of Lee et al. (ICLR 2021), taken for each filter (last axis) alone: a
    value's score is its square, divided by the sum of the squares of those in its filter that are not
    smaller. The lowest scores of all kernels go; the largest value of a filter has 1, the highest score.

    So narrow filters keep what they have, and wide ones give what they can spare: half of every kernel
    instead costs a ShuffleDet 0.25x, whose grouped convolutions see 5 to 80 channels, 10 AP on drawn scenes.
    And filters are judged by their own size, which batch norm may undo, or which is that of a prediction's
    unit: with one measure for the predicting kernel box deltas lose most of theirs to logits, and 13 AP.
    """
    scores = [_scores(kernel) for kernel in kernels]
    every = np.concatenate([own.ravel() for own in scores])
    count = round(sparsity * len(every))
    limit = np.partition(every, count - 1)[count - 1] if count else -1.0
    return [(own > limit).astype(np.float32) for own in scores]


def _scores(kernel: np.ndarray) -> np.ndarray:
    squares = np.square(kernel.astype(np.float64)).reshape(-1, kernel.shape[-1])  # values x filters
    order = np.argsort(squares, axis=0)
    ascending = np.take_along_axis(squares, order, axis=0)
    left = np.cumsum(ascending[::-1], axis=0)[::-1]  # of itself and all larger ones
    scores = np.empty_like(squares)
    found = np.divide(ascending, left, out=np.zeros_like(left), where=left > 0)
    np.put_along_axis(scores, order, found, axis=0)
    return scores.reshape(kernel.shape)


class MagnitudePruning(keras.callbacks.Callback):
    """Prunes a model while it is trained, on the library's schedule.

    The library's own masks, of wrappers around the layers of a functional model, judge each kernel as a
    whole. Here the model and its checkpoints stay what they are.

    Args:
        model: to prune.
        sparsity: share of all kernels' values that is 0 in the end; see :func:`masks`.
        steps: of the training.

    Raises:
        UserError: the library is not installed.
    """

    def __init__(self, model: keras.Model, sparsity: float, steps: int):
        super().__init__()
        self.layers = list(prunable(model))
        end = max(int(PRUNED_BY * steps), 2)
        self._schedule = tfmot().sparsity.keras.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=sparsity,
            begin_step=1,
            end_step=end,
            frequency=max(end // 20, 1),
        )
        self._end, self._step, self._masks = end, 0, []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """After each update: new masks, where the schedule has them changed, and what they make 0."""
        self._step += 1
        due, share = self._schedule(self._step)
        if bool(due) or self._step == self._end:  # the last of the schedule's own steps may be before its end
            self._masks = masks([layer.kernel.numpy() for layer in self.layers], float(share))
        for layer, mask in zip(self.layers, self._masks, strict=True):
            layer.kernel.assign(layer.kernel * mask)


def sparsity(model: keras.Model) -> float:
    """Share of the prunable kernels' values that is 0."""
    kernels = [layer.kernel.numpy() for layer in prunable(model)]
    return float(sum(np.sum(kernel == 0) for kernel in kernels) / sum(kernel.size for kernel in kernels))
