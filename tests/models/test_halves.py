import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.models.convolutions import Conv3x3
from fgfi_tf.models.cpu_forms import halves
from fgfi_tf.models.cpu_forms.halves import halved_if_alone


def _literal(image, kernel):
    """3 x 3, zeros outside, of [h,w,C]: a sum over the nine neighbours, in numpy."""
    height, width, _ = image.shape
    padded = np.pad(image.astype(np.float64), [(1, 1), (1, 1), (0, 0)])
    return sum(
        padded[row : row + height, column : column + width] @ kernel[row, column].astype(np.float64)
        for row in range(3)
        for column in range(3)
    )


@pytest.mark.parametrize("height", [1, 2, 5, 8])
def test_halves_are_the_whole(height, run_mode):
    random = np.random.default_rng(height)
    image, kernel = random.normal(size=(height, 4, 3)), random.normal(size=(3, 3, 3, 2))
    image, kernel = image.astype(np.float32), kernel.astype(np.float32)
    found = run_mode(halved_if_alone)(tf.constant(image[None]), tf.constant(kernel))
    np.testing.assert_allclose(found[0], _literal(image, kernel), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", [4, 7])
def test_gradients_are_those_of_the_whole(height):
    random = np.random.default_rng(height)
    images = tf.constant(random.normal(size=(1, height, 5, 3)).astype(np.float32))
    kernel = tf.Variable(random.normal(size=(3, 3, 3, 4)).astype(np.float32))
    upstream = tf.constant(random.normal(size=(1, height, 5, 4)).astype(np.float32))

    def gradients(convolve):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = convolve(images, kernel)
        return tape.gradient(outputs, [images, kernel], upstream)

    expected = gradients(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"))
    for value, wanted in zip(gradients(halved_if_alone), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("known", [True, False])
def test_layer_takes_any_batch(batch, known, monkeypatch):
    monkeypatch.setattr(halves, "HALVED_CHANNELS", 3)
    random = np.random.default_rng(0)
    images = random.normal(size=(batch, 6, 5, 3)).astype(np.float32)
    layer = Conv3x3(2, activation="relu", name="conv")
    layer.build((None, None, None, 3))
    run = tf.function(layer, [tf.TensorSpec([batch if known else None, None, None, 3])])
    found = run(tf.constant(images))
    expected = np.stack([np.maximum(_literal(image, layer.kernel.numpy()), 0.0) for image in images])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(run(tf.constant(images)))
    assert np.isfinite(tape.gradient(loss, layer.kernel).numpy()).all()


def test_config_makes_the_same_layer():
    layer = Conv3x3(4, activation="relu", name="conv3_1", trainable=False)
    copy = Conv3x3.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.kernel_size == (3, 3) and copy.padding == "same" and not copy.trainable
