"""ImitationLoss: the layer that every detector shares."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.imitation import losses, masks
from fgfi_tf.replica import global_sum

COMPUTE_MODES = ("auto", "gathered", "dense")


@keras.utils.register_keras_serializable("fgfi_tf")
class ImitationLoss(keras.layers.Layer):
    """Fine-grained feature imitation (Wang et al., CVPR 2019, section 3).

    The student's features are adapted by a k x k convolution with bias and ReLU to the teacher's
    channels and compared with the teacher's by a squared error, at mask positions only::

        sum over levels, images, positions in the mask, channels of (adapted - teacher)^2
        -------------------------------------------------------------------------------
                       normalization * number of mask positions

    The number of positions is counted over all levels and over the *global* batch of a distributed
    step, so the replicas' values add up to what one device computes. It is 0, never NaN, where no
    position is in the mask. No gradient reaches the teacher.

    Args:
        teacher_channels: channels of the teacher's feature map, for each level.
        psi: the mask's threshold factor (see ``masks.fine_grained_masks``).
        normalization: the divisor's factor; 2 in the paper, 4 for the reference's 0.25x student.
        region: where to imitate: ``fine_grained``, ``gt_box`` or ``full``.
        compute: ``gathered`` adapts mask positions only, ``dense`` everywhere; the results are
            equal. ``auto`` is ``gathered``, save for the region ``full``.
        kernel_size: k, odd.
        kernel_initializer, bias_initializer: of the adaptation.
        weight_decay: of the adaptation kernels, see :meth:`regularization_loss`.

    Raises:
        ValueError: for an unknown region or compute mode, psi outside [0, 1], a normalization
            not above 0.
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
        kernel_initializer=None,
        bias_initializer="zeros",
        weight_decay: float = 0.0,
        name: str = "imitation",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if region not in masks.REGIONS:
            raise ValueError(f"imitation region must be one of {', '.join(masks.REGIONS)}; got {region!r}")
        if compute not in COMPUTE_MODES:
            raise ValueError(f"imitation compute must be one of {', '.join(COMPUTE_MODES)}; got {compute!r}")
        if not 0.0 <= psi <= 1.0:
            raise ValueError(f"psi must lie in [0, 1]; got {psi}")
        if normalization <= 0.0:
            raise ValueError(f"the imitation normalization must be above 0; got {normalization}")
        self.teacher_channels = tuple(int(c) for c in teacher_channels)
        self.psi = float(psi)
        self.normalization = float(normalization)
        self.region = region
        self.compute = compute
        self.kernel_size = int(kernel_size)
        self.kernel_initializer = keras.initializers.get(
            kernel_initializer or keras.initializers.TruncatedNormal(stddev=1e-4)
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.weight_decay = float(weight_decay)
        self.kernels: list[tf.Variable] = []
        self.biases: list[tf.Variable] = []

    def build(self, input_shape) -> None:
        """``input_shape``: the shapes of the student's features, one for each level."""
        if self.kernels:
            return
        if len(input_shape) != len(self.teacher_channels):
            raise ValueError(
                f"the student has {len(input_shape)} feature maps and the teacher "
                f"{len(self.teacher_channels)}"
            )
        for level, (shape, channels) in enumerate(zip(input_shape, self.teacher_channels, strict=True)):
            kernel_shape = (self.kernel_size, self.kernel_size, int(shape[-1]), channels)
            self.kernels.append(
                self.add_weight(
                    name=f"kernel_{level}",
                    shape=kernel_shape,
                    dtype=tf.float32,
                    initializer=_fresh(self.kernel_initializer),
                )
            )
            self.biases.append(
                self.add_weight(
                    name=f"bias_{level}",
                    shape=(channels,),
                    dtype=tf.float32,
                    initializer=_fresh(self.bias_initializer),
                )
            )
        super().build(input_shape)

    def masks(
        self,
        anchors: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        valid: tf.Tensor,
        area: Sequence[tf.Tensor] | None = None,
    ) -> list[tf.Tensor]:
        """The positions imitated: for each level bool [B, h, w]. Arguments as for :meth:`call`."""
        return masks.imitation_masks(anchors, boxes, valid, area, region=self.region, psi=self.psi)

    def call(
        self,
        student_features: Sequence[tf.Tensor],
        teacher_features: Sequence[tf.Tensor],
        anchors: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        valid: tf.Tensor,
        area: Sequence[tf.Tensor] | None = None,
        global_positions: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The imitation loss of this replica's share of the batch.

        Args:
            student_features: for each level [B, h, w, Cs].
            teacher_features: for each level [B, H, W, Ct]; resized bilinearly to h x w where
                the teacher's map has another size.
            anchors: for each level float32 [h, w, K, 4], continuous corners in pixels of the
                network input, on a grid (see ``masks``).
            boxes: float32 [B, M, 4], continuous corners, the same pixels.
            valid: bool [B, M], False for padding.
            area: for each level bool [B, h, w], False for the padding of images; None: there is none.
                What lies there is never in the mask.
            global_positions: mask positions of the global batch, where they are known already
                (float32 scalar, see :meth:`count_positions`).

        Returns:
            float32 scalar.
        """
        # In a graph the operations become part of it, without a function around them. XLA needs shapes as
        # constants, the gradient of a nested function takes shapes out of its forward part, and so XLA
        # makes constants of all that goes into that: the features and, behind them, every weight.
        sums = self._traced_sums if tf.executing_eagerly() else self.sums
        squared_error, positions = sums(
            tuple(student_features),
            tuple(teacher_features),
            tuple(anchors),
            boxes,
            valid,
            None if area is None else tuple(area),
        )
        # Outside the tf.function: replicas cannot meet inside a nested one. With no position the
        # squared error is 0 (and so is its gradient), whatever it is divided by.
        if global_positions is None:
            global_positions = global_sum(positions)
        return squared_error / (self.normalization * tf.maximum(global_positions, 1.0))

    def count_positions(
        self,
        anchors: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        valid: tf.Tensor,
        area: Sequence[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Mask positions of the global batch (float32 scalar). Arguments as for :meth:`call`."""
        return global_sum(_count(self.masks(anchors, boxes, valid, area)))

    @tf.autograph.experimental.do_not_convert
    def sums(
        self, student_features, teacher_features, anchors, boxes, valid, area=None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Squared error and number of mask positions of this replica's images (float32 scalars)."""
        region = self.masks(anchors, boxes, valid, area)
        squared_error = losses.dense_squared_error if self._dense() else losses.gathered_squared_error
        total = tf.constant(0.0)
        for student, teacher, mask, kernel, bias in zip(
            student_features, teacher_features, region, self.kernels, self.biases, strict=True
        ):
            student = tf.cast(student, tf.float32)
            teacher = _match_size(tf.stop_gradient(tf.cast(teacher, tf.float32)), student)
            total += squared_error(
                student, teacher, mask, tf.cast(kernel, tf.float32), tf.cast(bias, tf.float32)
            )
        return total, _count(region)

    _traced_sums = tf.function(sums, reduce_retracing=True, autograph=False)

    def _dense(self) -> bool:
        if self.compute == "auto":
            return self.region == "full"
        return self.compute == "dense"

    def regularization_loss(self) -> tf.Tensor:
        """``weight_decay`` / 2 * the kernels' squared L2 norm (for the whole batch)."""
        norms = [tf.nn.l2_loss(tf.cast(kernel, tf.float32)) for kernel in self.kernels]
        return self.weight_decay * tf.add_n(norms)

    def get_config(self) -> dict:
        """Every constructor argument."""
        return {
            **super().get_config(),
            "teacher_channels": self.teacher_channels,
            "psi": self.psi,
            "normalization": self.normalization,
            "region": self.region,
            "compute": self.compute,
            "kernel_size": self.kernel_size,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "weight_decay": self.weight_decay,
        }


def _count(region: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(tf.cast(mask, tf.float32)) for mask in region])


def _fresh(initializer: keras.initializers.Initializer) -> keras.initializers.Initializer:
    """A copy, for an initializer without seed that serves twice gives equal values."""
    return type(initializer).from_config(initializer.get_config())


def _match_size(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """The teacher's map [B,H,W,C] at the student's [B,h,w,...] height and width."""
    if teacher.shape[1:3].is_fully_defined() and student.shape[1:3].is_fully_defined():
        same = teacher.shape[1:3] == student.shape[1:3]
        return teacher if same else tf.image.resize(teacher, student.shape[1:3])
    size = tf.shape(student)[1:3]  # images whose size changes from step to step
    same = tf.reduce_all(tf.shape(teacher)[1:3] == size)
    return tf.cond(same, lambda: teacher, lambda: tf.image.resize(teacher, size))
