"""Depthwise convolution: SAME padding by hand, gradients against TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.models.cpu_forms import depthwise


@pytest.mark.parametrize(
    ("size", "strides", "expected"),
    [
        # a row of ones: how many of the kernel's taps see it. Even: more padding behind than before.
        (5, 2, {4: [4, 3], 5: [3, 5, 3], 7: [3, 5, 5, 3]}),
        (3, 2, {4: [3, 2], 5: [2, 3, 2], 8: [3, 3, 3, 2]}),
        (5, 1, {4: [3, 4, 4, 3]}),
    ],
)
def test_same_padding_by_hand(size, strides, expected):
    for length, row in expected.items():
        x = tf.ones([1, length, length, 2])
        y = depthwise.convolve(x, tf.ones([size, size, 2, 1]), strides)
        np.testing.assert_allclose(y[0, ..., 1], np.outer(row, row))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("shape", [(2, 8, 13), (1, 7, 10), (2, 3, 4)])
def test_gradients_are_tensorflows(run_mode, dtype, size, strides, shape):
    x, kernel = tf.random.normal([*shape, 4]), tf.random.normal([size, size, 4, 1])
    x, kernel = (tf.cast(tf.cast(value, dtype), tf.float32) for value in (x, kernel))
    weights = tf.cast(
        tf.cast(
            tf.random.normal(tf.nn.depthwise_conv2d(x, kernel, [1, strides, strides, 1], "SAME").shape), dtype
        ),
        tf.float32,
    )

    def gradients(function, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * weights)
        return [y, *tape.gradient(loss, inputs)]

    expected = gradients(
        lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, strides, strides, 1], "SAME"), x, kernel
    )
    step = run_mode(lambda x, k: gradients(lambda x, k: depthwise.convolve(x, k, strides), x, k))
    found = step(tf.cast(x, dtype), tf.cast(kernel, dtype))
    for value, other in zip(found, expected, strict=True):
        assert value.shape == other.shape and value.dtype == dtype
        tolerance = (1e-5 if dtype == "float32" else 1e-2) * float(tf.reduce_max(tf.abs(other)))
        np.testing.assert_allclose(tf.cast(value, tf.float32), other, rtol=0, atol=tolerance)


def test_sizes_that_the_graph_does_not_know():
    kernel = tf.random.normal([5, 5, 3, 1])

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum(tf.square(depthwise.convolve(x, kernel, 2)))
        return tape.gradient(loss, kernel)

    for shape in ((1, 6, 9, 3), (2, 11, 4, 3)):
        x = tf.random.normal(shape)
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum(tf.square(tf.nn.depthwise_conv2d(x, kernel, [1, 2, 2, 1], "SAME")))
        np.testing.assert_allclose(gradient(x), tape.gradient(loss, kernel), rtol=1e-4, atol=1e-3)
