"""A weight of the imitation loss that follows the detection loss."""

from __future__ import annotations

import tensorflow as tf

# Of the running averages: what is 50 steps old counts by about a third.
DECAY = 0.98


class RunningWeight(tf.Module):
    """Keeps the weighted imitation loss at ``share`` times the detection loss.

    weight = share * average of the detection loss / average of the unweighted imitation loss. Both averages
    are exponential, of the losses of the global batch, and of the steps *before*: the micro-batches of an
    accumulated batch need the weight before the losses of the whole are known. The first step, before which
    nothing is known, has the weight 0. A step without a position to imitate leaves the averages alone.

    Its two variables, the same on every replica, belong into the checkpoint: a resumed run then repeats an
    uninterrupted one.

    Args:
        share: the weighted imitation loss over the detection loss, above 0: 0.5 is half of it, 8 eight times.
        decay: of the averages, a step; at least 0 and below 1.

    Raises:
        ValueError: for a share or a decay outside these bounds.
    """

    def __init__(self, share: float, decay: float = DECAY, name: str = "imitation_weight"):
        super().__init__(name=name)
        if not 0.0 < share < float("inf"):
            raise ValueError(f"the share of the imitation loss must be above 0; got {share}")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the decay of a running average must be at least 0 and below 1; got {decay}")
        self.share, self.decay = float(share), float(decay)
        # Sums that start at 0 and fade alike: what they lack at the start cancels out in their ratio.
        self.detection, self.imitation = (
            tf.Variable(
                0.0,
                trainable=False,
                name=kind,
                synchronization=tf.VariableSynchronization.ON_WRITE,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for kind in ("detection", "imitation")
        )

    def __call__(self) -> tf.Tensor:
        """The weight of the step to come, a float32 scalar."""
        return self.share * tf.math.divide_no_nan(tf.identity(self.detection), tf.identity(self.imitation))

    def update(self, detection: tf.Tensor, imitation: tf.Tensor) -> None:
        """Takes in a step: the detection and the unweighted imitation loss of its global batch (scalars)."""
        for average, value in ((self.detection, detection), (self.imitation, imitation)):
            new = self.decay * average + (1.0 - self.decay) * value
            average.assign(tf.where(imitation > 0.0, new, average))
