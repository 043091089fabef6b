"""Distiller: a student, its frozen teacher and the imitation layer as one trainable model."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.detector import Batch, Detector


class Distiller(keras.Model):
    """Trains a student detector, imitating a teacher's features where there is one.

    The loss is the student's detection losses and weight penalties, plus ``imitation_weight``
    times the imitation loss in the steps from ``warmup_steps`` on and before ``end_step``. Only
    the student and the adaptation are trained, tracked and checkpointed; the teacher is not.

    Args:
        student: what is trained.
        teacher: what is imitated, frozen and in inference mode. None: plain training.
        imitation: the layer; needed with a teacher.
        imitation_weight: lambda of the paper.
        warmup_steps: steps without imitation at the start.
        end_step: the first step without imitation at the end; 0: never.
        seed: of dropout and sampling, which depend on it and on the step alone.
        clip_norm: largest global L2 norm of the gradients; 0: no limit.

    Raises:
        ValueError: for a teacher without layer or a layer without teacher.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector | None = None,
        imitation: ImitationLoss | None = None,
        *,
        imitation_weight: float = 1.0,
        warmup_steps: int = 0,
        end_step: int = 0,
        seed: int = 0,
        clip_norm: float = 0.0,
        name: str = "distiller",
    ):
        super().__init__(name=name)
        if (teacher is None) != (imitation is None):
            raise ValueError("imitation needs both a teacher and an ImitationLoss")
        self.student = student
        self.imitation = imitation
        # Past Keras' own __setattr__, which would track the teacher's variables.
        object.__setattr__(self, "teacher", teacher)
        self.imitation_weight, self.clip_norm = float(imitation_weight), float(clip_norm)
        self.warmup_steps, self.end_step, self.seed = int(warmup_steps), int(end_step), int(seed)
        if imitation is not None:
            imitation.build([(None, None, None, channels) for channels in student.feature_channels])
        names = ["loss", *student.loss_names]
        names += ["imitation_loss", "adaptation_decay"] if imitation is not None else []
        self._means = {name: keras.metrics.Mean(name=name) for name in names}

    def compile(self, optimizer="rmsprop", **kwargs) -> None:
        """As Keras's, and creates the optimizer's slots.

        With every variable there before the first step, that is traced once, and a checkpoint is
        restored at once and not bit by bit.
        """
        super().compile(optimizer=optimizer, **kwargs)
        create = getattr(self.optimizer, "_create_all_weights", None) or self.optimizer.build
        with self.distribute_strategy.scope():
            create(self.trained_variables)

    def call(self, inputs: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """The student's outputs for preprocessed images."""
        return self.student(inputs, training=training)

    @property
    def trained_variables(self) -> list[tf.Variable]:
        """The student's variables and the adaptation's."""
        variables = list(self.student.trainable_variables)
        if self.imitation is not None:
            variables += self.imitation.trainable_variables
        return variables

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The mean of each loss; Keras resets them at each epoch."""
        return list(self._means.values())

    def losses_of(self, batch: Batch, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """This replica's share of every term of the loss, by name; they add up to the loss.

        Args:
            batch: see ``fgfi_tf.data.sample``.
            step: int64 scalar, steps taken before this one.
        """
        batch = {**batch, "seed": tf.stack([tf.constant(self.seed, tf.int32), tf.cast(step, tf.int32)])}
        inputs = self.student.preprocess(batch["image"])
        outputs = self.student(inputs, training=True, seed=batch["seed"])
        terms = dict(self.student.detection_losses(outputs, batch))
        # A penalty is of the whole batch; each replica contributes its part.
        replicas = float(_replicas())
        terms.update({name: value / replicas for name, value in self.student.regularization_losses().items()})
        if self.imitation is not None:
            terms["imitation_loss"] = self._imitation_term(inputs, outputs, batch, step)
            if self.imitation.weight_decay:
                terms["adaptation_decay"] = self.imitation.regularization_loss() / replicas
        return terms

    def _imitation_term(self, inputs, outputs, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        if type(self.teacher) is not type(self.student):
            inputs = self.teacher.preprocess(batch["image"])
        height, width = batch["image"].shape[1:3]
        loss = self.imitation(
            outputs["features"],
            self.teacher.imitation_features(inputs),
            self.student.imitation_anchors(height, width),
            *self.student.imitation_boxes(batch),
        )
        active = step >= self.warmup_steps
        if self.end_step:
            active &= step < self.end_step
        return tf.where(active, self.imitation_weight * loss, 0.0)

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One update; returns the running means of the losses."""
        step = tf.cast(self.optimizer.iterations, tf.int64)
        with tf.GradientTape() as tape:
            terms = self.losses_of(batch, step)
            loss = tf.add_n(list(terms.values()))
            scaled = self.optimizer.get_scaled_loss(loss) if self._scales_loss else loss
        variables = self.trained_variables
        gradients = tape.gradient(scaled, variables)
        if self._scales_loss:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.apply_gradients(gradients, variables)
        return self.record({"loss": loss, **terms})

    @property
    def _scales_loss(self) -> bool:
        return isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)

    def apply_gradients(self, gradients: list[tf.Tensor], variables: list[tf.Variable]) -> None:
        """Sums the gradients over the replicas, limits their global norm and updates."""
        if _replicas() > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        pairs = list(zip(gradients, variables, strict=True))
        if isinstance(self.optimizer, keras.optimizers.legacy.Optimizer):
            self.optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
        else:
            self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

    def record(self, terms: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the replicas' shares of each term to its mean and returns the means."""
        for name, value in terms.items():
            if name not in self._means:
                self._means[name] = keras.metrics.Mean(name=name)
            # A mean is taken over replicas; the loss is their sum.
            self._means[name].update_state(value * float(_replicas()))
        return {name: self._means[name].result() for name in terms}


def _replicas() -> int:
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context is not None else 1
