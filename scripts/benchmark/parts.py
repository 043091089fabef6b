"""Cases: mask and imitation loss alone, and the forms of a grouped 1 x 1 convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from benchmark import workload
from benchmark.options import Options
from benchmark.timing import Result, alternate
from fgfi_tf.imitation import losses
from fgfi_tf.models.shuffledet import layers

OBJECTS = (1, 10, 100)


def imitation_loss(options: Options) -> Iterator[Result]:
    """Against the objects of an image: the mask; mask and error without, and with the adaptation."""
    size = options.input_size
    student = workload.seeded_detector(options.students[0], size)
    teacher = workload.seeded_detector(workload.TEACHER, size, seed=1)
    imitation = workload.make_imitation(student, teacher)
    for batch_size in options.batches:
        for objects in OBJECTS:
            batch = workload.prepared(student, workload.make_batch(batch_size, size, objects))
            anchors = student.imitation_anchors(*size)
            boxes, valid = student.imitation_boxes(batch)
            mask = imitation.masks(anchors, boxes, valid)[0]
            shape = [batch_size, size[0] // 16, size[1] // 16]
            mine = tf.random.normal([*shape, *student.feature_channels])
            theirs = tf.random.normal([*shape, *teacher.feature_channels])
            contenders = _loss_contenders(imitation, mine, theirs, anchors, tf.constant(boxes), valid)
            title = f"{options.students[0]}, batch {batch_size}, {objects} objects an image"
            note = f"{np.mean(mask):.0%} of the positions are in the mask; all but the mask with gradients."
            measurements = alternate(contenders, options.repeats, units=batch_size)
            yield Result("imitation_loss", title, measurements, note)


def _loss_contenders(imitation, mine, theirs, anchors, boxes, valid) -> dict[str, Callable[[], object]]:
    @tf.function
    def mask_only():
        return imitation.masks(anchors, boxes, valid)[0]

    @tf.function
    def without_adaptation():
        mask = imitation.masks(anchors, boxes, valid)[0]
        with tf.GradientTape() as tape:
            tape.watch(theirs)  # stands for features that are adapted already
            positions = tf.where(mask)
            difference = tf.gather_nd(theirs, positions) - tf.gather_nd(tf.stop_gradient(theirs), positions)
            loss = tf.reduce_sum(tf.square(difference))
        return tape.gradient(loss, theirs)

    def step(squared_error):
        @tf.function
        def run():
            mask = imitation.masks(anchors, boxes, valid)[0]
            with tf.GradientTape() as tape:
                tape.watch(mine)
                kernel, bias = imitation.kernels[0], imitation.biases[0]
                loss = squared_error(mine, theirs, mask, tf.convert_to_tensor(kernel), bias)
            return tape.gradient(loss, [mine, kernel, bias])[0]

        return run

    functions = {
        "gathered": step(losses.gathered_squared_error),
        "dense": step(losses.dense_squared_error),
        "without the adaptation": without_adaptation,
        "mask alone": mask_only,
    }
    return {name: lambda f=f: f().numpy() for name, f in functions.items()}


def group_conv(options: Options) -> Iterator[Result]:
    """A grouped 1 x 1 convolution, shuffled, forward and backward, four ways; the 0.5x student's widths."""
    height, width = (value // 16 for value in options.input_size)
    for scale, fan_in, filters in ((4, 120, 30), (2, 240, 60), (1, 480, 120), (1, 120, 480)):
        x = tf.random.normal([options.batches[0], height * scale, width * scale, fan_in])
        kernel = tf.Variable(tf.random.normal([1, 1, fan_in // 3, filters]))
        contenders = {name: _gradients(form, x, kernel) for name, form in _GROUP_FORMS.items()}
        reference = contenders["dense block-diagonal, matrix product"]()
        for call in contenders.values():
            np.testing.assert_allclose(call(), reference, rtol=1e-2, atol=1e-2 * np.abs(reference).max())
        title = f"{x.shape} to {filters} channels, 3 groups, forward and backward"
        yield Result("group_conv", title, alternate(contenders, options.repeats))


def _gradients(form: Callable, x: tf.Tensor, kernel: tf.Variable) -> Callable[[], np.ndarray]:
    weights = tf.random.stateless_normal([*x.shape[:3], kernel.shape[3]], seed=[0, 1])

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = form(x, tf.convert_to_tensor(kernel))
        return tape.gradient(y, [kernel, x], output_gradients=weights)

    return lambda: [g.numpy() for g in run()][0]


def _dense(kernel: tf.Tensor) -> tf.Tensor:
    return layers.shuffle_channels(layers.block_diagonal(kernel, 3), 3)


def _split(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    pairs = zip(tf.split(x, 3, axis=-1), tf.split(kernel, 3, axis=-1), strict=True)
    return layers.shuffle_channels(tf.concat([tf.nn.conv2d(a, k, 1, "SAME") for a, k in pairs], -1), 3)


def _batched(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    shape, filters = x.shape, kernel.shape[3]
    groups = tf.transpose(tf.reshape(x, [-1, 3, shape[3] // 3]), [1, 0, 2])  # g x N x in
    blocks = tf.transpose(tf.reshape(kernel, [-1, 3, filters // 3]), [1, 0, 2])  # g x in x out
    product = tf.matmul(groups, blocks)  # g x N x out; N x out x g is the shuffled order
    return tf.reshape(tf.transpose(product, [1, 2, 0]), [*shape[:3], filters])


_GROUP_FORMS = {
    "dense block-diagonal, matrix product": lambda x, kernel: layers.pointwise(x, _dense(kernel)),
    "dense block-diagonal, conv2d": lambda x, kernel: tf.nn.conv2d(x, _dense(kernel), 1, "SAME"),
    "split and concat, transposed": _split,
    "batched matrix product": _batched,
}
