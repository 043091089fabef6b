"""What ``ImitationLoss`` computes, whichever Keras the layer belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from fgfi_tf.imitation import checks, losses, masks
from fgfi_tf.imitation.levels import LEVELS
from fgfi_tf.replica import global_sum

COMPUTE_MODES = ("auto", "gathered", "dense")
KERNEL_STDDEV = 1e-4


class Measured(NamedTuple):
    """This replica's part of what the layer measures; the parts add up over the replicas. float32 scalars.

    Attributes:
        loss: the imitation loss.
        mask_share: mask positions over positions of the map (those of padding left out).
        active_share: the share of the adapted outputs at mask positions that are not 0; 0 where the mask
            is empty.
    """

    loss: tf.Tensor
    mask_share: tf.Tensor
    active_share: tf.Tensor


class ImitationCore:
    """The arguments of ``ImitationLoss`` and its arithmetic; the layer adds variables and Keras.

    A layer that derives from it keeps ``kernels`` and ``biases``, one of each for a pair of maps.
    """

    def configure(
        self,
        teacher_channels: Sequence[int],
        *,
        psi: float,
        normalization: float,
        region: str,
        compute: str,
        kernel_size: int,
        activation: str,
        weight_decay: float,
        comparison: str,
        levels: str,
        level_sizes: Sequence[float] | None,
        pairs: Sequence[Sequence[int]] | None,
    ) -> None:
        """Checks and keeps the constructor's arguments. Raises ValueError."""
        for name, value, known in (
            ("region", region, masks.REGIONS),
            ("compute", compute, COMPUTE_MODES),
            ("activation", activation, losses.ACTIVATIONS),
            ("comparison", comparison, losses.COMPARISONS),
            ("levels", levels, LEVELS),
        ):
            if value not in known:
                raise ValueError(f"imitation {name} must be one of {', '.join(known)}; got {value!r}")
        if not 0.0 <= psi <= 1.0:
            raise ValueError(f"psi must lie in [0, 1]; got {psi}")
        if not normalization > 0.0:
            raise ValueError(f"the imitation normalization must be above 0; got {normalization}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"the imitation kernel_size must be odd; got {kernel_size}")
        self.teacher_channels = tuple(int(c) for c in teacher_channels)
        self.psi, self.normalization = float(psi), float(normalization)
        self.region, self.compute, self.activation = region, compute, activation
        self.kernel_size, self.weight_decay = int(kernel_size), float(weight_decay)
        self.comparison = comparison
        self.levels, self.level_sizes = levels, checks.checked_sizes(level_sizes, levels)
        self.pairs = checks.checked_pairs(pairs, len(self.teacher_channels))

    def arguments(self) -> dict:
        """What :meth:`configure` was given."""
        names = (
            "teacher_channels psi normalization region compute kernel_size activation weight_decay levels "
            "level_sizes pairs comparison"
        )
        return {name: getattr(self, name) for name in names.split()}

    def paired(self) -> tuple[tuple[int, int], ...]:
        """(student's map, teacher's map) of each comparison."""
        if self.pairs is not None:
            return self.pairs
        return tuple((level, level) for level in range(len(self.teacher_channels)))

    def kernel_shapes(self, input_shape) -> list[tuple[int, int, int, int]]:
        """The kernels' shapes for the student's maps: a shape for each level, or that of the one map."""
        if isinstance(input_shape, tf.TensorShape) or not hasattr(input_shape[0], "__len__"):
            input_shape = [input_shape]
        if self.pairs is None and len(input_shape) != len(self.teacher_channels):
            raise ValueError(
                f"the student has {len(input_shape)} feature maps and the teacher "
                f"{len(self.teacher_channels)}"
            )
        checks.check_paired(self.paired(), len(input_shape))
        size = self.kernel_size
        return [
            (size, size, int(input_shape[own][-1]), self.teacher_channels[theirs])
            for own, theirs in self.paired()
        ]

    def masks(
        self,
        anchors: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        valid: tf.Tensor,
        valid_mask: Sequence[tf.Tensor] | None = None,
    ) -> list[tf.Tensor]:
        """The positions imitated: for each pair of maps bool [B, h, w]. Arguments as for ``call``.

        Boxes mark the student's maps by the anchors of all of them, whether they have a partner or not.
        """
        found = masks.imitation_masks(
            anchors,
            boxes,
            valid,
            valid_mask,
            region=self.region if self.comparison == "squared_error" else "full",
            psi=self.psi,
            levels=self.levels,
            level_sizes=self.level_sizes,
        )
        return [found[own] for own, _ in self.paired()]

    def measure(
        self,
        student_features: Sequence[tf.Tensor],
        teacher_features: Sequence[tf.Tensor],
        anchors: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        valid: tf.Tensor,
        valid_mask: Sequence[tf.Tensor] | None = None,
        global_positions: tf.Tensor | None = None,
    ) -> Measured:
        """The imitation loss, and two shares that tell whether there is anything to imitate.

        Arguments as for ``call``.
        """
        inputs = checks.checked_inputs(
            student_features,
            teacher_features,
            anchors,
            boxes,
            valid,
            valid_mask,
            self.teacher_channels,
            [kernel.shape[-2] for kernel in self.kernels] or None,
            self.pairs,
        )
        if not self.kernels:
            self.build([features.shape for features in inputs.student])
        # No tf.function within a graph. The gradient of a nested function reads shapes from its forward pass;
        # XLA, which needs shapes as constants, would then make constants of all inputs of that pass: of the
        # features, and so of every weight.
        sums = self._traced_sums if tf.executing_eagerly() else self.sums
        squared_error, active, counts = sums(*inputs)
        # Outside the tf.function: replicas cannot meet inside a nested one. With no position the
        # squared error is 0 (and so is its gradient), whatever it is divided by.
        total = global_sum(counts) if global_positions is None else global_positions
        positions, everywhere = tf.unstack(tf.maximum(total, 1.0))
        normalization = self.normalization if self.comparison == "squared_error" else 1.0
        loss = squared_error / (normalization * positions)
        return Measured(loss, counts[0] / everywhere, active / positions)

    def count_positions(
        self,
        anchors: Sequence[tf.Tensor],
        boxes: tf.Tensor,
        valid: tf.Tensor,
        valid_mask: Sequence[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Positions of the global batch in the mask and in the maps, float32 [2]. Arguments: see ``call``."""
        return global_sum(self._count(self.masks(anchors, boxes, valid, valid_mask), valid_mask))

    @tf.autograph.experimental.do_not_convert
    def sums(
        self, student_features, teacher_features, anchors, boxes, valid, valid_mask=None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Of this replica's images: squared error, active positions, positions in mask and maps [2]."""
        region = self.masks(anchors, boxes, valid, valid_mask)
        distance = self._distance()
        errors, active = [], []
        for (own, theirs), mask, kernel, bias in zip(
            self.paired(), region, self.kernels, self.biases, strict=True
        ):
            student = student_features[own]
            teacher = _match_size(tf.stop_gradient(teacher_features[theirs]), student)
            found = distance(
                student,
                teacher,
                mask,
                tf.convert_to_tensor(kernel),
                tf.convert_to_tensor(bias),
                self.activation,
            )
            errors.append(found[0])
            active.append(found[1])
        return tf.add_n(errors), tf.add_n(active), self._count(region, valid_mask)

    _traced_sums = tf.function(sums, reduce_retracing=True, autograph=False)

    def _count(self, region: Sequence[tf.Tensor], valid_mask: Sequence[tf.Tensor] | None) -> tf.Tensor:
        """Positions in the masks of the pairs, and in their maps without padding: float32 [2]."""
        positions = tf.add_n([tf.reduce_sum(tf.cast(mask, tf.float32)) for mask in region])
        if valid_mask is None:
            everywhere = tf.add_n([tf.cast(tf.size(mask), tf.float32) for mask in region])
        else:
            parts = [valid_mask[own] for own, _ in self.paired()]
            everywhere = tf.add_n([tf.reduce_sum(tf.cast(part, tf.float32)) for part in parts])
        return tf.stack([positions, everywhere])

    def _distance(self):
        """The function of ``losses`` that compares the maps."""
        if self.comparison != "squared_error":
            return losses.whole_map_distance(self.comparison)
        dense = self.region == "full" if self.compute == "auto" else self.compute == "dense"
        return losses.dense_squared_error if dense else losses.gathered_squared_error

    def regularization_loss(self) -> tf.Tensor:
        """``weight_decay`` / 2 * the kernels' squared L2 norm (for the whole batch)."""
        return self.weight_decay * tf.add_n([tf.nn.l2_loss(tf.convert_to_tensor(k)) for k in self.kernels])


def _match_size(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """The teacher's map [B,H,W,C] at the student's [B,h,w,...] height and width."""
    if teacher.shape[1:3].is_fully_defined() and student.shape[1:3].is_fully_defined():
        same = teacher.shape[1:3] == student.shape[1:3]
        return teacher if same else tf.image.resize(teacher, student.shape[1:3])
    size = tf.shape(student)[1:3]  # images whose size changes from step to step
    same = tf.reduce_all(tf.shape(teacher)[1:3] == size)
    return tf.cond(same, lambda: teacher, lambda: tf.image.resize(teacher, size))
