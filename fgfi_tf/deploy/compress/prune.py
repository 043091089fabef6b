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


def layer_shares(kernels: Sequence[np.ndarray], sparsity: float) -> list[float]:
    """How much of each kernel becomes 0, so that ``sparsity`` of all their values does.

    By the layer-adaptive magnitude of Lee et al. (ICLR 2021): a value's score is its square, divided by the
    sum of the squares of those in its kernel that are not smaller. The lowest scores of all kernels go; the
    largest value of each has 1, the highest score. Half of every kernel instead costs a ShuffleDet 0.25x,
    whose grouped convolutions see 5 to 80 channels, 10 AP on drawn scenes; its predicting layer has most of
    the weights, and can spare them.
    """
    scores = []
    for kernel in kernels:
        squares = np.sort(np.square(kernel.astype(np.float64)).ravel())
        left = np.cumsum(squares[::-1])[::-1]  # of itself and all larger ones
        scores.append(np.divide(squares, left, out=np.zeros_like(squares), where=left > 0))
    every = np.sort(np.concatenate(scores))
    count = round(sparsity * len(every))
    limit = every[count - 1] if count else -1.0
    return [float(np.mean(own <= limit)) for own in scores]


class MagnitudePruning(keras.callbacks.Callback):
    """Prunes a model while it is trained, by the library's wrappers beside the layers and not around them.

    The library's own way, wrappers as layers, is for models of Keras' functional kind. Here they keep masks
    and schedule alone, so that the model and its checkpoints stay what they are.

    Args:
        model: to prune.
        sparsity: share of all kernels' values that is 0 in the end; see :func:`layer_shares`.
        steps: of the training.

    Raises:
        UserError: the library is not installed.
    """

    def __init__(self, model: keras.Model, sparsity: float, steps: int):
        super().__init__()
        library = tfmot().sparsity.keras
        self.layers = list(prunable(model))
        self._wrappers = []
        shares = layer_shares([layer.kernel.numpy() for layer in self.layers], sparsity)
        for layer, share in zip(self.layers, shares, strict=True):
            schedule = library.PolynomialDecay(
                initial_sparsity=0.0,
                final_sparsity=share,
                begin_step=1,
                end_step=max(int(PRUNED_BY * steps), 2),
                frequency=max(int(PRUNED_BY * steps) // 20, 1),
            )
            # past Keras' own __setattr__: what the library asks of a layer that it does not know
            object.__setattr__(layer, "get_prunable_weights", lambda layer=layer: [layer.kernel])
            wrapper = library.prune_low_magnitude(layer, pruning_schedule=schedule)
            wrapper.build(None)
            wrapper.pruning_step.assign(0)
            self._wrappers.append(wrapper)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """After each update: the masks, where the schedule has them changed, and what they make 0."""
        for wrapper in self._wrappers:
            wrapper.pruning_step.assign_add(1)
            wrapper.pruning_obj.conditional_mask_update()
            wrapper.pruning_obj.weight_mask_op()


def sparsity(model: keras.Model) -> float:
    """Share of the prunable kernels' values that is 0."""
    kernels = [layer.kernel.numpy() for layer in prunable(model)]
    return float(sum(np.sum(kernel == 0) for kernel in kernels) / sum(kernel.size for kernel in kernels))
