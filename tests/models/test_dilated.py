"""A dilated convolution is Keras's, with gradients everywhere."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf import devices
from fgfi_tf.models.convolutions import DilatedConv


def make(cls=DilatedConv):
    layer = cls(3, 3, padding="same", dilation_rate=2, activation="relu", name="dilated")
    layer.build([None, None, None, 2])
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=weight.shape).astype(np.float32) for weight in layer.weights])
    return layer


def run(layer, x, *, in_graph):
    def outputs_and_gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x)
            loss = tf.reduce_sum(outputs**2)
        return outputs, *tape.gradient(loss, [x, *layer.trainable_variables])

    function = tf.function(outputs_and_gradients) if in_graph else outputs_and_gradients
    return [value.numpy() for value in function(tf.constant(x))]


def test_by_hand():
    """A kernel of nine ones adds the nine positions two apart."""
    layer = DilatedConv(1, 3, padding="same", dilation_rate=2, use_bias=False)
    layer.build([None, None, None, 1])
    layer.set_weights([np.ones((3, 3, 1, 1), np.float32)])
    x = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    found = layer(x).numpy()[0, :, :, 0]
    assert found[0, 0] == 0 + 2 + 10 + 12
    assert found[2, 2] == 0 + 2 + 4 + 10 + 12 + 14 + 20 + 22 + 24
    assert found[1, 2] == 5 + 7 + 9 + 15 + 17 + 19


@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shape", [(1, 5, 5, 2), (3, 7, 4, 2)])
def test_outputs_and_gradients_are_those_of_keras(native, shape, in_graph, monkeypatch):
    if native and not devices.differentiates_dilated(tf.float32):
        pytest.skip("this TensorFlow has no gradient of a dilated convolution")
    monkeypatch.setattr("fgfi_tf.models.convolutions.differentiates_dilated", lambda dtype: native)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    wanted = run(make(keras.layers.Conv2D), x, in_graph=in_graph)
    for value, want in zip(run(make(), x, in_graph=in_graph), wanted, strict=True):
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5)


def test_without_kernels_that_have_gradients_keras_form_is_taken(monkeypatch):
    """As where oneDNN is switched off."""
    monkeypatch.setattr(devices, "_differentiates_dilated", lambda device, dtype: False)
    function = tf.function(make().call).get_concrete_function(tf.TensorSpec([1, 5, 5, 2]))
    assert "SpaceToBatchND" in {op.type for op in function.graph.get_operations()}


def test_trial_is_of_the_dtype(monkeypatch):
    """float16, which CPUs may lack kernels of, says nothing of float32."""
    seen = []
    monkeypatch.setattr(devices, "_differentiates_dilated", lambda device, dtype: seen.append(dtype) or True)
    devices.differentiates_dilated("float16")
    assert seen == [tf.float16]
