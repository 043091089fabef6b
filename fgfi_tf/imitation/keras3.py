"""ImitationLoss for Keras 3 with TensorFlow's backend: ``import keras`` instead of ``import tf_keras``.

A Keras 3 model neither sees nor trains the variables of a Keras 2 layer, so each Keras has a layer of its own
around the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from fgfi_tf.imitation import checks
from fgfi_tf.imitation.core import KERNEL_STDDEV, ImitationCore

if keras.backend.backend() != "tensorflow":
    raise TypeError(
        f"the imitation loss is TensorFlow, and Keras runs on {keras.backend.backend()}: "
        "set KERAS_BACKEND=tensorflow"
    )


@keras.saving.register_keras_serializable("fgfi_tf")
class ImitationLoss(ImitationCore, keras.layers.Layer):
    """As ``fgfi_tf.imitation.layer.ImitationLoss``: the same arguments, the same values, for Keras 3.

    A model that holds it trains it. In a loop of one's own, its ``trainable_variables`` belong to those that
    the optimizer updates.

    Raises:
        ValueError: as the other does.
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
        super().__init__(name=name, **{**kwargs, "dtype": "float32", "autocast": False})
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
        self.kernels: list[keras.Variable] = []
        self.biases: list[keras.Variable] = []
        self._holder_known = False

    def build(self, input_shape) -> None:
        """``input_shape``: the shapes of the student's features, one for each level."""
        if self.kernels:
            return
        for level, shape in enumerate(self.kernel_shapes(input_shape)):
            kernel, bias = self.kernel_initializer.clone(), self.bias_initializer.clone()
            self.kernels.append(self.add_weight(name=f"kernel_{level}", shape=shape, initializer=kernel))
            self.biases.append(self.add_weight(name=f"bias_{level}", shape=shape[-1:], initializer=bias))
        self.built = True

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
        """The imitation loss of this replica's share of the batch; see the Keras 2 layer's ``call``."""
        if not self._holder_known:
            checks.refuse_keras_2_holder(self)
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
