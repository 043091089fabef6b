"""What a gradient computes anew has the same values, and only the arguments are held for it."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.models.backbones.norm_conv import NormConv
from fgfi_tf.models.recomputed import recomputed


def padded_product(x, kernel, scale):
    return tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel * scale, 2, "VALID")


def values():
    rng = np.random.default_rng(0)
    return [tf.constant(rng.normal(size=s), tf.float32) for s in ([2, 6, 8, 3], [3, 3, 3, 4], [4])]


@tf.function
def in_graph(function, *arguments):
    return outputs_and_gradients(function, *arguments)


def outputs_and_gradients(function, *arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        outputs = function(*arguments)
        loss = tf.reduce_sum(tf.sin(outputs))
    return outputs, *tape.gradient(loss, arguments)


@pytest.mark.parametrize("run", [outputs_and_gradients, in_graph], ids=["eager", "graph"])
def test_values_and_gradients_are_those_of_the_function(run):
    arguments = values()
    found = run(lambda *a: recomputed(padded_product, *a), *arguments)
    for value, wanted in zip(found, outputs_and_gradients(padded_product, *arguments), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6)


def test_by_hand():
    """f = (2 x) y with its gradients 2 y u and 2 x u."""
    x, y, upstream = (tf.constant(v) for v in (3.0, 5.0, 7.0))
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        outputs = recomputed(lambda x, y: 2.0 * x * y, x, y)
    assert float(outputs) == 30.0
    assert [float(g) for g in tape.gradient(outputs, [x, y], upstream)] == [70.0, 42.0]


def operations(graph, kind):
    return [op for op in graph.get_operations() if op.type == kind]


def test_the_gradient_prepares_again_when_it_is_due():
    """The convolution's gradients read a map padded and a kernel scaled after the outputs' gradient."""
    graph = in_graph.get_concrete_function(
        lambda *a: recomputed(padded_product, *a), *(tf.TensorSpec(v.shape) for v in values())
    ).graph
    kernel_gradient = operations(graph, "Conv2DBackpropFilter")[0].inputs[0].op
    input_gradient = operations(graph, "Conv2DBackpropInput")[0].inputs[1].op
    assert (kernel_gradient.type, input_gradient.type) == ("Pad", "Mul")
    for prepared in (kernel_gradient, input_gradient):
        again = prepared.inputs[0].op
        assert again.type == "Identity" and again.control_inputs


@pytest.mark.parametrize("norm", ["frozen", "synchronised"])
@pytest.mark.parametrize("size, strides", [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_a_convolution_with_batch_norm(norm, size, strides, dtype):
    """As of the same operations, written one after another."""
    layer = NormConv(3, 4, size, strides, norm=norm)
    x = tf.cast(values()[0], dtype)
    layer.build(x.shape)
    rng = np.random.default_rng(1)
    layer.norm.set_weights([rng.uniform(0.5, 1.5, 4).astype(np.float32) for _ in range(4)])

    def plain(x):
        margin = size // 2
        padded = tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
        kernel = tf.convert_to_tensor(layer.kernel)
        if norm == "synchronised":
            outputs = tf.nn.conv2d(padded, tf.cast(kernel, dtype), strides, "VALID")
            return tf.nn.relu(layer.norm(outputs, training=True))
        scale, shift = layer.affine()
        outputs = tf.nn.conv2d(padded, tf.cast(kernel * scale, dtype), strides, "VALID")
        return tf.nn.relu(tf.nn.bias_add(outputs, tf.cast(shift, dtype)))

    found = {}
    for name, function in {"layer": lambda x: layer(x, training=True), "plain": plain}.items():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(tf.cast(function(x), tf.float32)))
        found[name] = [tf.cast(g, tf.float32) for g in tape.gradient(loss, [x, layer.kernel])]
    for value, wanted in zip(found["layer"], found["plain"], strict=True):
        bound = (1e-5 if dtype == "float32" else 0.02) * float(tf.reduce_max(tf.abs(wanted)))
        np.testing.assert_allclose(value, wanted, atol=bound, rtol=0)
