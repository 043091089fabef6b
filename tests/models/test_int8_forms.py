"""Forms for int8 files: their values by hand, and what they are made of."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.devices import portable
from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.cpu_forms import int8

WINDOWS = {  # of 3 positions in steps of 2, SAME: first and last position that lie in a row of so many
    1: [(0, 0)],
    2: [(0, 1)],
    3: [(0, 1), (1, 2)],
    4: [(0, 2), (2, 3)],
    5: [(0, 1), (1, 3), (3, 4)],
    6: [(0, 2), (2, 4), (4, 5)],
    7: [(0, 1), (1, 3), (3, 5), (5, 6)],
    8: [(0, 2), (2, 4), (4, 6), (6, 7)],
}


def _kernels(function, *inputs):
    """Operations of the traced function by kind, with the shapes of what they are given second."""
    with portable(plain=True, int8=True):
        graph = tf.function(function).get_concrete_function(*inputs).graph
    return [
        (op.type, tuple(op.inputs[1].shape))
        for op in graph.get_operations()
        if "Conv" in op.type or "Pool" in op.type
    ]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("height", [1, 2, 5, 6])
@pytest.mark.parametrize("width", [3, 4, 7, 8])
@pytest.mark.parametrize("for_int8", [True, False])
def test_means_by_hand(batch, height, width, for_int8, run_mode):
    x = np.random.default_rng(0).normal(size=(batch, height, width, 3)).astype(np.float32)
    expected = [
        [x[:, top : bottom + 1, left : right + 1].mean((1, 2)) for left, right in WINDOWS[width]]
        for top, bottom in WINDOWS[height]
    ]  # h x w x B x C
    with portable(plain=True, int8=for_int8):
        found = run_mode(lambda x: int8.average_pool(x))(tf.constant(x))
    np.testing.assert_allclose(found, np.transpose(expected, [2, 0, 1, 3]), rtol=1e-5, atol=1e-6)


def test_means_are_convolutions():
    kinds = _kernels(int8.average_pool, tf.zeros([1, 6, 8, 5]))
    windows = [(3, 3, 5, 1), (3, 2, 5, 1), (2, 3, 5, 1), (2, 2, 5, 1)]
    assert kinds == [("DepthwiseConv2dNative", window) for window in windows]


@pytest.mark.parametrize(
    ("size", "width", "channels", "wide"),
    [
        (3, 6, 3, (3, 3, 6, 10)),  # two columns of 3 channels fill 8
        (3, 8, 2, (3, 3, 8, 20)),  # four of 2
        (3, 5, 3, (3, 3, 3, 5)),  # an odd width stays as it is
        (3, 6, 5, (3, 3, 5, 5)),  # and so do wide taps
        (1, 8, 3, (1, 1, 12, 20)),  # a single tap: four columns fill 16
        (1, 6, 3, (1, 1, 6, 10)),
        (5, 6, 4, (5, 5, 8, 10)),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_columns_at_once_are_the_convolution(size, width, channels, wide, batch, run_mode):
    random = np.random.default_rng(width)
    x = random.normal(size=(batch, 4, width, channels)).astype(np.float32)
    kernel = random.normal(size=(size, size, channels, 5)).astype(np.float32)
    bias = random.normal(size=5).astype(np.float32)
    reach = size // 2
    padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    products = sum(
        padded[:, row : row + 4, column : column + width] @ kernel[row, column]
        for row in range(size)
        for column in range(size)
    )

    def convolve(x, kernel, bias):
        return int8.convolve(x, kernel, bias, tf.nn.relu)

    with portable(plain=True, int8=True):
        found = run_mode(convolve)(tf.constant(x), tf.constant(kernel), tf.constant(bias))
    np.testing.assert_allclose(found, np.maximum(products + bias, 0.0), rtol=1e-4, atol=1e-5)
    assert _kernels(convolve, x, kernel, bias) == [("Conv2D", wide)]


@pytest.mark.parametrize("for_int8", [True, False])
def test_a_folded_convolution_is_its_source(for_int8):
    source = ConvBN(3, 4, 3, name="conv")
    folded = ConvBN(3, 4, 3, folded=True, name="conv")
    x = tf.random.stateless_normal([2, 4, 6, 3], [1, 2])
    expected = source(x)[..., :4]
    folded.build(x.shape)
    folded.fold_from(source)
    with portable(plain=True, int8=for_int8):
        np.testing.assert_allclose(folded(x), expected, rtol=1e-4, atol=1e-5)
