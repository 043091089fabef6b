"""Batch norm over the global batch, with the same statistics on one device and on many; L2 normalisation."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.devices import FLOAT32_SCOPE

INITIAL_NORM = 20.0  # of L2Normalization, SSD's
# Below this squared norm, the published code's, a vector has no direction.
_EPSILON = 1e-10


@keras.utils.register_keras_serializable("fgfi_tf")
class BatchNorm(keras.layers.Layer):
    """Batch normalisation over [B, h, w], synchronised between the replicas of a step.

    Both paths normalise with the biased (population) variance of the *global* batch and move
    their statistics towards it, so one device and N replicas with the batch split keep the same
    weights. (The fused kernel reports the unbiased variance; it is scaled back.)

    Args:
        momentum: share of the old moving statistics kept at each training step.
        epsilon: added to the variance.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape) -> None:
        """One gamma, beta, moving mean and moving variance for each channel, float32."""
        shape = (int(input_shape[-1]),)
        # Statistics stay float32 under mixed precision: the kernels take them so.
        exact = {"shape": shape, "dtype": tf.float32, "experimental_autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **exact)
        self.beta = self.add_weight(name="beta", initializer="zeros", **exact)
        statistic = {
            **exact,
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.MEAN,
        }
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **statistic)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **statistic)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises [B, h, w, C]; with ``training`` by the batch, else by the moving statistics.

        ``inputs`` may have more channels than the layer was built for: zeros that stay zeros.
        """
        channels = self.gamma.shape[0]
        extra = inputs.shape[-1] - channels

        def padded(vector: tf.Variable) -> tf.Tensor:
            return tf.pad(vector, [[0, extra]]) if extra else vector

        gamma, beta = padded(self.gamma), padded(self.beta)
        if not training:
            moving = padded(self.moving_mean), padded(self.moving_variance)
            return self._normalised(inputs, gamma, beta, *moving)
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync if context else 1
        if replicas > 1:
            outputs, mean, variance = self._synchronised(inputs, gamma, beta, context)
        else:
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs, gamma, beta, epsilon=self.epsilon, is_training=True
            )
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            variance *= (count - 1.0) / count
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign_sub((moving - tf.stop_gradient(value[:channels])) * (1.0 - self.momentum))
        return outputs

    def _normalised(self, x, gamma, beta, mean, variance) -> tf.Tensor:
        return tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, mean, variance, epsilon=self.epsilon, is_training=False
        )[0]

    def _synchronised(self, inputs, gamma, beta, context):
        """Normalised inputs, mean and variance of the global batch: the fused kernels and one exchange.

        The gradient takes a second one. The replicas may hold shares of different size.
        """
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        _, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.stop_gradient(inputs), gamma, beta, epsilon=self.epsilon, is_training=True
        )
        # A replica without images has no statistics; the kernel's variance is unbiased.
        mean = tf.where(count > 0.0, mean, 0.0)
        squares = tf.where(count > 0.0, variance * (count - 1.0), 0.0)
        # Sums of squares that are not centred would cancel, so every replica gets all centred ones.
        each = _of_every_replica(tf.stack([tf.fill(tf.shape(mean), count), mean, squares]), context)
        counts, means, squares = tf.unstack(each, axis=1)  # [replicas, C] each
        total = tf.reduce_sum(counts[:, 0])
        global_mean = tf.reduce_sum(counts * means, axis=0) / total
        global_variance = tf.reduce_sum(squares + counts * tf.square(means - global_mean), axis=0) / total

        @tf.custom_gradient
        def normalise(x, gamma, beta):
            outputs = self._normalised(x, gamma, beta, global_mean, global_variance)

            def gradient(upstream):
                of_x, of_gamma, of_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                    y_backprop=upstream,
                    x=x,
                    scale=gamma,
                    reserve_space_1=global_mean,
                    reserve_space_2=global_variance,
                    reserve_space_3=tf.zeros([0]),
                    epsilon=self.epsilon,
                    is_training=False,
                )  # as if the statistics were constants
                of_gamma, of_beta = (tf.where(count > 0.0, value, 0.0) for value in (of_gamma, of_beta))
                all_gamma, all_beta = context.all_reduce(tf.distribute.ReduceOp.SUM, [of_gamma, of_beta])
                # What flows through mean and variance: slope * x + constant for each channel.
                inverse = tf.math.rsqrt(global_variance + self.epsilon)
                slope = gamma * tf.square(inverse) * all_gamma / total
                constant = gamma * inverse * all_beta / total - slope * global_mean
                through = tf.cast(x, tf.float32) * slope + constant
                return of_x - tf.cast(through, of_x.dtype), of_gamma, of_beta

            return outputs, gradient

        outputs = normalise(inputs, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta))
        return outputs, global_mean, global_variance

    def get_config(self) -> dict:
        """Every constructor argument."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}


def _of_every_replica(value: tf.Tensor, context: tf.distribute.ReplicaContext) -> tf.Tensor:
    """[replicas, ...]: ``value`` of each, by a sum, which every kind of strategy packs and orders well."""
    own = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=value.dtype)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.tensordot(own, value, axes=0))


class L2Normalization(keras.layers.Layer):
    """Each position's vector to unit length, then each channel times a learnt factor (float32 inside)."""

    def build(self, input_shape) -> None:
        """One factor a channel."""
        self.scale = self.add_weight(
            name="scale",
            shape=[int(input_shape[-1])],
            dtype=tf.float32,
            experimental_autocast=False,  # float32 inside, under mixed precision too
            initializer=keras.initializers.Constant(INITIAL_NORM),
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B,h,w,C] to the same shape; a vector of zeros stays so, and has no gradient."""
        with tf.name_scope(FLOAT32_SCOPE):  # sums of squares differ by far more than 256 times
            values = tf.cast(inputs, tf.float32)
            squared = tf.reduce_sum(tf.square(values), axis=-1, keepdims=True)  # B x h x w x 1
            factor = tf.where(squared > _EPSILON, tf.math.rsqrt(tf.maximum(squared, _EPSILON)), 0.0)
            return tf.cast(values * factor * self.scale, inputs.dtype)
