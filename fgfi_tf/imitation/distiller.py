"""Distiller: a student, its frozen teacher and the imitation layer as one trainable model."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf import devices, streams
from fgfi_tf.imitation.accumulation import accumulated
from fgfi_tf.imitation.contract import Batch, Network, image_size
from fgfi_tf.imitation.core import Measured
from fgfi_tf.imitation.labelled import labelled_only, labelled_rows
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.imitation.metrics import GlobalMean
from fgfi_tf.imitation.soft_labels import soft_label_loss
from fgfi_tf.imitation.weight import RunningWeight
from fgfi_tf.replica import global_counts, global_total, num_replicas, num_shares

# What is shown beside the terms of the loss. Shares of replicas and micro-batches add up, like the terms'.
OBSERVED = ("imitation_loss_unweighted", "imitation_weight", "imitation_mask_share", "imitation_active_share")
DETECTION = "detection_loss"  # the sum of the student's detection losses: what a running weight follows


class Distiller(keras.Model):
    """Trains a student detector, imitating a teacher's features where there is one.

    The loss is the student's detection losses and weight penalties, plus ``imitation_weight``
    times the imitation loss in the steps from ``warmup_steps`` on and before ``end_step``. Only
    the student and the adaptation are trained, tracked and checkpointed; the teacher is not.

    Beside the terms of the loss (``imitation_loss`` is the weighted one) the metrics are ``OBSERVED``; see
    ``Measured``. Steps without a mask position do not count in ``imitation_active_share``, and the weight is
    that of the schedule: 0 in the steps without imitation.

    Args:
        student: what is trained.
        teacher: what is imitated, frozen and in inference mode; None: plain training.
        imitation: the layer; needed with a teacher.
        imitation_weight: lambda of the paper, a number or what sets it anew at every step.
        warmup_steps: steps without imitation at the start.
        end_step: the first step without imitation at the end; 0: never.
        soft_label_weight: of :func:`soft_label_loss`, divided by the objects of the global batch; 0: without.
        seed: of dropout and sampling, which depend on it and on the step alone.
        clip_norm: largest global L2 norm of the gradients; 0: no limit.
        gradient_accumulation: micro-batches that each replica's batch is computed in, one after the other,
            to save memory. Objects, images and mask positions are counted over the whole batch, so the
            update is that of the unsplit batch, but for what each micro-batch has to itself: the statistics
            of batch norm, and counts that only the outputs tell. Needs the detector's ``loss_names``.
        labelled_share: (k, n): the first k of every n images of a micro-batch have labels. In the others the
            teacher is imitated near their boxes and nothing else is learnt; the detection losses are divided
            by what the global batch has of labelled images and their objects.

    Raises:
        ValueError: for a teacher without layer or a layer without teacher.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network | None = None,
        imitation: ImitationLoss | None = None,
        *,
        imitation_weight: float | RunningWeight = 1.0,
        warmup_steps: int = 0,
        end_step: int = 0,
        soft_label_weight: float = 0.0,
        seed: int = 0,
        clip_norm: float = 0.0,
        gradient_accumulation: int = 1,
        labelled_share: tuple[int, int] = (1, 1),
        name: str = "distiller",
    ):
        super().__init__(name=name)
        if (teacher is None) != (imitation is None):
            raise ValueError("imitation needs both a teacher and an ImitationLoss")
        self.student, self.imitation = student, imitation
        # Past Keras' own __setattr__, which would track the teacher's variables.
        object.__setattr__(self, "teacher", teacher)
        running = isinstance(imitation_weight, RunningWeight)
        self.imitation_weight = imitation_weight if running else float(imitation_weight)
        self.clip_norm, self.soft_label_weight = float(clip_norm), float(soft_label_weight)
        self.labelled_share = labelled_share
        self.gradient_accumulation = int(gradient_accumulation)
        self.warmup_steps, self.end_step, self.seed = int(warmup_steps), int(end_step), int(seed)
        if imitation is not None:
            imitation.build([(None, None, None, channels) for channels in student.feature_channels])
        # The replicas' logs are equal; Keras's default would add up those of several machines.
        self.distribute_reduction_method = "first"
        names = ["loss", *student.loss_names]
        if imitation is not None:
            names += ["imitation_loss", *(["adaptation_decay"] if imitation.weight_decay else [])]
            names += [*(["soft_label_loss"] if self.soft_label_weight else []), *OBSERVED]
        self._means = {name: GlobalMean(name=name) for name in names}

    def compile(self, optimizer="rmsprop", **kwargs) -> None:
        """As Keras's, and creates the optimizer's slots.

        So the first step is traced once, and a checkpoint restored at once and not bit by bit.
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
        adaptation = [] if self.imitation is None else self.imitation.trainable_variables
        return [*self.student.trainable_variables, *adaptation]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The mean of each loss, and of what is observed; Keras resets them at each epoch."""
        return list(self._means.values())

    def seed_of(self, step: tf.Tensor | int, micro_batch: tf.Tensor | int = 0) -> tf.Tensor:
        """The seed of the student's random numbers in a micro-batch of a step: int32 [2].

        The second number counts the micro-batches of all steps; without accumulation it is the step.
        """
        draw = tf.cast(step, tf.int64) * self.gradient_accumulation + tf.cast(micro_batch, tf.int64)
        return tf.cast(streams.key_of(self.seed, streams.Use.TRAINING_STEP, draw), tf.int32)

    def losses_of(
        self, batch: Batch, step: tf.Tensor, micro_batch: tf.Tensor | int = 0
    ) -> dict[str, tf.Tensor]:
        """This replica's share of every term of the loss, by name; they add up to the loss.

        Args:
            batch: see ``fgfi_tf.data.sample``.
            step: int64 scalar, steps taken before this one.
            micro_batch: which one of the step this is (int32).
        """
        return self._terms(batch, step, micro_batch)[0]

    def _terms(self, batch: Batch, step: tf.Tensor, micro_batch: tf.Tensor | int):
        """The terms of the loss, and this replica's share of what else is observed (``OBSERVED``)."""
        batch = {**batch, "seed": self.seed_of(step, micro_batch), "step": step}
        inputs = self.student.preprocess(batch["image"])
        outputs = self.student(inputs, training=True, seed=batch["seed"])
        labelled = labelled_rows(outputs, batch, self.labelled_share)
        terms, observed = dict(self.student.detection_losses(*labelled)), {}
        detection = list(terms.values())
        # A penalty is of the whole batch; each replica, and each micro-batch, adds its share.
        shares = float(num_shares())
        terms.update({name: value / shares for name, value in self.student.regularization_losses().items()})
        if self.imitation is not None:
            taught = self._taught(inputs, batch)
            measured, weight = self._measured(outputs, taught, batch), self._weight(step)
            # where, not a product: a loss that is not finite must not reach the sum while its weight is 0.
            terms["imitation_loss"] = tf.where(weight > 0.0, weight * measured.loss, 0.0)
            if self.imitation.weight_decay:
                terms["adaptation_decay"] = self.imitation.regularization_loss() / shares
            if self.soft_label_weight:
                of_labelled = labelled_rows(taught, batch, self.labelled_share)[0]
                pair = (
                    net.log_probabilities(out)
                    for net, out in ((self.student, labelled[0]), (self.teacher, of_labelled))
                )
                objects = tf.maximum(global_counts(labelled[1])[0], 1.0)
                terms["soft_label_loss"] = self.soft_label_weight * soft_label_loss(*pair) / objects
            values = (measured.loss, weight / shares, measured.mask_share, measured.active_share)
            values = map(tf.stop_gradient, (*values, tf.add_n(detection)))
            observed = dict(zip((*OBSERVED, DETECTION), values, strict=True))
        return terms, observed

    def _taught(self, inputs: tf.Tensor, batch: Batch) -> dict:
        """The teacher's outputs, of which only those in use are computed."""
        if self.teacher.preprocessing != self.student.preprocessing:
            inputs = self.teacher.preprocess(batch["image"])
        if self.soft_label_weight:
            return self.teacher(inputs, training=False)
        return {"features": self.teacher.imitation_features(inputs)}

    def _measured(self, outputs, taught: dict, batch: Batch) -> Measured:
        return self.imitation.measure(
            outputs["features"],
            taught["features"],
            *self._mask_arguments(batch),
            global_positions=batch.get("global_positions"),
        )

    def _weight(self, step: tf.Tensor) -> tf.Tensor:
        """The weight of the imitation loss at a step, 0 outside the steps that imitate."""
        given = self.imitation_weight
        weight = given() if isinstance(given, RunningWeight) else tf.constant(given)
        active = step >= self.warmup_steps
        if self.end_step:
            active &= step < self.end_step
        return tf.where(active, weight, 0.0)

    def _mask_arguments(self, batch: Batch) -> tuple:
        height, width = image_size(batch["image"])
        return (
            self.student.imitation_anchors(height, width),
            *self.student.imitation_boxes(batch),
            self.student.imitation_valid_mask(batch, height, width),
        )

    @tf.autograph.experimental.do_not_convert  # nothing here needs it, and it is a sixth of a run's start
    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One update; returns the running means of the losses, and the loss scale of float16.

        Where loss scaling skips an update, because a scaled gradient is not finite, the weights,
        the slots and the moving averages stay, the scale is halved, and the step counts as any other:
        data, schedules and the imitation's warm-up follow the batches seen.
        """
        step = tf.cast(self.optimizer.iterations, tf.int64)
        variables = self.trained_variables
        with devices.compiled(bool(self.jit_compile)):
            if self.gradient_accumulation > 1:
                gradients, terms = self._accumulated(batch, step, variables)
            else:
                gradients, terms = self._gradients(batch, step, variables)
        if self._scales_loss:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.apply_gradients(gradients, variables)
        logs = self.record(terms)
        if self._scales_loss:
            logs["loss_scale"] = self.optimizer.loss_scale
        return logs

    def _gradients(
        self, batch: Batch, step: tf.Tensor, variables: list[tf.Variable], micro_batch: tf.Tensor | int = 0
    ):
        """Gradients (scaled where loss scaling is on); the loss, its terms, and what is observed."""
        with tf.GradientTape() as tape:
            terms, observed = self._terms(batch, step, micro_batch)
            loss = tf.add_n(list(terms.values()))
            scaled = self.optimizer.get_scaled_loss(loss) if self._scales_loss else loss
        return tape.gradient(scaled, variables), {"loss": loss, **terms, **observed}

    def _accumulated(self, batch: Batch, step: tf.Tensor, variables: list[tf.Variable]):
        """Sums of gradients and terms over the micro-batches, with the activations of one at a time."""
        valid = labelled_only(batch["valid"], self.labelled_share, self.gradient_accumulation)
        counts = {"global_counts": tf.stack(global_counts({"valid": valid}))}
        if self.imitation is not None:
            counts["global_positions"] = self.imitation.count_positions(*self._mask_arguments(batch))
        for name in self.student.counted:
            labelled = labelled_only(batch[name][:, None], self.labelled_share, self.gradient_accumulation)
            counts[f"global_{name}"] = global_total({name: labelled}, name)
        return accumulated(
            lambda micro_batch, i: self._gradients({**micro_batch, **counts}, step, variables, i),
            batch,
            self.gradient_accumulation,
            variables,
            [*self._means, *([DETECTION] if self.imitation is not None else [])],
        )

    @property
    def _scales_loss(self) -> bool:
        return isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)

    def apply_gradients(self, gradients: list[tf.Tensor], variables: list[tf.Variable]) -> None:
        """Sums the gradients over the replicas, limits their global norm, adds decay and updates.

        Decay and the multiple of the learning rate are the student's, see ``Detector.decay_rate``.
        """
        if num_replicas() > 1:
            there = [gradient for gradient in gradients if gradient is not None]
            sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, there)
            sums = iter(sums)
            gradients = [gradient if gradient is None else next(sums) for gradient in gradients]
        if self.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        pairs = [(self._update(g, v), v) for g, v in zip(gradients, variables, strict=True)]
        if isinstance(self.optimizer, keras.optimizers.legacy.Optimizer):
            self.optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
        else:
            self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

    def _update(self, gradient: tf.Tensor | None, variable: tf.Variable) -> tf.Tensor | None:
        if gradient is None:  # no term of the loss depends on the variable
            return gradient
        decay, multiplier = self.student.decay_rate(variable), self.student.learning_rate_multiplier(variable)
        if decay:
            # Not at once: the products of all weights would be held until their gradients are there.
            with tf.control_dependencies([gradient]):
                gradient += decay * tf.cast(variable, gradient.dtype)
        return gradient if multiplier == 1.0 else multiplier * gradient

    def record(self, terms: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds each term, summed over the replicas, to its mean and returns the means."""
        values = tf.stack(list(terms.values()))
        if num_replicas() > 1:
            values = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)
        values = dict(zip(terms, tf.unstack(values), strict=True))
        detection = values.pop(DETECTION, None)
        if isinstance(self.imitation_weight, RunningWeight) and detection is not None:
            self.imitation_weight.update(detection, values["imitation_loss_unweighted"])
        for name, value in values.items():
            if name not in self._means:
                self._means[name] = GlobalMean(name=name)
            # A share of nothing is no share.
            counts = values["imitation_mask_share"] > 0.0 if name == "imitation_active_share" else True
            self._means[name].update_state(value, counts)
        return {name: self._means[name].result() for name in values}
