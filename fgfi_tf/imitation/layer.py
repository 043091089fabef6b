"""ImitationLoss for Keras 2 (tf_keras): the layer that every detector of the package shares.

``fgfi_tf.imitation.keras3`` has the same layer for Keras 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.imitation import checks
from fgfi_tf.imitation.core import KERNEL_STDDEV, ImitationCore


@keras.utils.register_keras_serializable("fgfi_tf")
class ImitationLoss(ImitationCore, keras.layers.Layer):
    """Fine-grained feature imitation (Wang et al., CVPR 2019, section 3).

    The student's features are adapted by a k x k convolution with bias to the teacher's channels and
    compared with the teacher's by a squared error, at mask positions only::

        sum over levels, images, positions in the mask, channels of (adapted - teacher)^2
        -------------------------------------------------------------------------------
                       normalization * number of mask positions

    The number of positions is counted over all levels and over the *global* batch of a distributed
    step, so the replicas' values add up to what one device computes. It is 0, never NaN, where no
    position is in the mask. No gradient reaches the teacher. All of it is float32, whatever Keras's
    dtype policy is.

    Args:
        teacher_channels: channels of the teacher's feature map, for each level.
        psi: the mask's threshold factor (see ``masks.fine_grained_masks``).
        normalization: the divisor's factor; 2 in the paper, 4 for the reference's 0.25x student.
        region: where to imitate: ``fine_grained``, ``gt_box`` or ``full``.
        compute: ``gathered`` adapts mask positions only, ``dense`` everywhere; the results are
            equal. ``auto`` is ``gathered``, save for the region ``full``.
        kernel_size: k, odd.
        activation: of the adaptation. ``relu`` is the published one. With it a channel whose input has
            become negative at all mask positions is 0 and gets no gradient any more: a fast optimizer kills
            it in a few steps, a teacher with negative features at once. ``linear`` cannot die.
        kernel_initializer, bias_initializer: of the adaptation. None: the published one, a truncated
            normal of deviation 1e-4.
        weight_decay: of the adaptation kernels, see :meth:`regularization_loss`.
        comparison: ``squared_error`` is the paper's; ``cwd`` and ``pkd`` compare whole maps as later papers
            do (see ``successors``): psi, region, levels, normalization and compute have no effect then, and
            the value is the mean over images.
        levels: which of several maps a box marks, one of ``levels.LEVELS``: those whose anchors fit it
            (``best``), the one that it belongs to by its size (``assigned``), every map (``each``).
        level_sizes: for ``assigned``: the side from which on a box belongs to each of the student's maps,
            ascending, pixels of the network input; see ``levels.level_of_boxes``.
        pairs: (student's map, teacher's map) of each comparison, where they do not have the same place; see
            ``levels.pair_by_stride``. Boxes mark the student's maps whether these have a partner or not.

    Raises:
        ValueError: for an unknown region, compute mode, activation, comparison or ``levels``, psi outside
            [0, 1], a normalization not above 0, an even kernel size, pairs of maps that there are not.
    """

    def __init__(
        self,
        teacher_channels: Sequence[int],
        *,
        psi: float = 0.5,
        normalization: float = 2.0,
        region: str = "fine_grained",
        compute: str = "auto",
        kernel_size: int = 3,
        activation: str = "linear",
        kernel_initializer=None,
        bias_initializer="zeros",
        weight_decay: float = 0.0,
        comparison: str = "squared_error",
        levels: str = "best",
        level_sizes: Sequence[float] | None = None,
        pairs: Sequence[Sequence[int]] | None = None,
        name: str = "imitation",
        **kwargs,
    ):
        # Under a policy of half precision, Keras would round the features and the kernels.
        super().__init__(name=name, **{**kwargs, "dtype": tf.float32, "autocast": False})
        self.configure(
            teacher_channels,
            psi=psi,
            normalization=normalization,
            region=region,
            compute=compute,
            kernel_size=kernel_size,
            activation=activation,
            weight_decay=weight_decay,
            comparison=comparison,
            levels=levels,
            level_sizes=level_sizes,
            pairs=pairs,
        )
        self.kernel_initializer = keras.initializers.get(
            kernel_initializer or keras.initializers.TruncatedNormal(stddev=KERNEL_STDDEV)
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernels: list[tf.Variable] = []
        self.biases: list[tf.Variable] = []
        self._holder_known = False

    def build(self, input_shape) -> None:
        """``input_shape``: the shapes of the student's features, one for each level."""
        if self.kernels:
            return
        for level, shape in enumerate(self.kernel_shapes(input_shape)):
            kernel, bias = _fresh(self.kernel_initializer), _fresh(self.bias_initializer)
            self.kernels.append(self.add_weight(name=f"kernel_{level}", shape=shape, initializer=kernel))
            self.biases.append(self.add_weight(name=f"bias_{level}", shape=shape[-1:], initializer=bias))
        super().build(input_shape)

    def call(
        self,
        student_features: Sequence[tf.Tensor],
        teacher_features: Sequence[tf.Tensor],
        anchors: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        valid: tf.Tensor,
        valid_mask: Sequence[tf.Tensor] | None = None,
        global_positions: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The imitation loss of this replica's share of the batch.

        Args:
            student_features: for each level [B, h, w, Cs], any float dtype.
            teacher_features: for each level [B, H, W, Ct]; resized bilinearly to h x w where
                the teacher's map has another size.
            anchors: for each level float32 [h, w, K, 4], continuous corners in pixels of the
                network input, on a grid (see ``masks``; ``fgfi_tf.geometry.anchors.anchor_grid`` makes one).
            boxes: float32 [B, M, 4], continuous corners, the same pixels.
            valid: bool [B, M], False for padding.
            valid_mask: for each level bool [B, h, w], False for the padding of images; None: there is none.
                What lies there is never in the mask.
            global_positions: positions of the global batch, where they are known already
                (see :meth:`count_positions`).

        Returns:
            float32 scalar.

        Raises:
            ValueError, TypeError: inputs that are not as described; shapes wherever they are known, values
                where they are (not while a graph is traced).
        """
        if not self._holder_known:
            checks.refuse_keras_3_holder(self)
            self._holder_known = True
        return self.measure(
            student_features, teacher_features, anchors, boxes, valid, valid_mask, global_positions
        ).loss

    def get_config(self) -> dict:
        """Every constructor argument."""
        return {
            **super().get_config(),
            **self.arguments(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


def _fresh(initializer: keras.initializers.Initializer) -> keras.initializers.Initializer:
    """A copy, for an initializer without seed that serves twice gives equal values."""
    return type(initializer).from_config(initializer.get_config())
