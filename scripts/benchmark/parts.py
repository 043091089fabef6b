"""Cases: mask and imitation loss alone, and the forms of a grouped 1 x 1 convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from benchmark import workload
from benchmark.options import Options
from benchmark.timing import Result, alternate
from fgfi_tf.imitation import losses
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models import convolutions
from fgfi_tf.models.cpu_forms import channels
from fgfi_tf.training.parsing import parse_numbers

STEP, WITHOUT, MASK = "imitation step", "mask and loss, without the adaptation", "mask alone"


def imitation_loss(options: Options) -> Iterator[Result]:
    """Against the objects of an image: mask, mask and loss (with gradients), and the whole step."""
    for batch_size in options.batches:
        for objects in parse_numbers("objects", options.objects, int):
            yield _imitation_loss(options, batch_size, objects)


def _imitation_loss(options: Options, batch_size: int, objects: int) -> Result:
    size = options.input_size
    student, teacher = workload.seeded_pair(options.students[0], size)
    batch = workload.prepared(student, workload.make_batch(batch_size, size, objects))
    distiller = workload.make_distiller(student, teacher)
    anchors = student.imitation_anchors(*size)
    boxes, valid = (tf.convert_to_tensor(x) for x in student.imitation_boxes(batch))
    maps = loss_inputs(batch_size, size, student.feature_channels[0], teacher.feature_channels[0])
    functions = loss_functions(distiller.imitation, anchors)
    seen = check_losses(distiller.imitation, functions, anchors[0].numpy(), boxes, valid, maps)

    def caller(name: str) -> Callable[[], list]:
        arguments = [boxes, valid, *(maps[key] for key in functions[name][1])]
        return lambda: [x.numpy() for x in functions[name][0](*arguments)]

    contenders = {
        STEP: workload.training_step(distiller, batch),
        **{name: caller(name) for name in functions},
    }
    title = f"{options.students[0]}, {options.size}, batch {batch_size}, {objects} objects an image"
    result = Result("imitation_loss", title, alternate(contenders, units=batch_size, **options.rounds))
    shares = ", ".join(f"{name} {share_of(result, name):.2%}" for name in functions)
    result.note = (
        f"{seen} Of the step's median: {shares}. Aims up to 100 objects: without the adaptation below 1 %, "
        "gathered (the default) below 6 %."
    )
    return result


def share_of(result: Result, name: str) -> float:
    """A contender's median over the step's."""
    return result[name].median / result[STEP].median


def loss_inputs(batch_size: int, size: tuple[int, int], mine: int, theirs: int) -> dict[str, tf.Tensor]:
    """Feature maps of made-up numbers, all different: the student's, adapted ones, the teacher's."""
    shape = [batch_size, size[0] // 16, size[1] // 16]
    random = np.random.default_rng(0)
    draw = {"student": mine, "adapted": theirs, "teacher": theirs}
    return {
        name: tf.constant(random.normal(size=[*shape, channels]).astype(np.float32))
        for name, channels in draw.items()
    }


def loss_functions(imitation: ImitationLoss, anchors: tuple) -> dict[str, tuple[Callable, tuple[str, ...]]]:
    """By name: a function of (boxes, valid, maps), and which maps it takes.

    Every input is an argument, so that nothing can be computed once and for all; the anchors are
    constants, as in the step. Each returns the loss and its gradients, the first function the mask.
    """

    def normalized(total: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        positions = tf.reduce_sum(tf.cast(mask, tf.float32))
        return total / (imitation.normalization * tf.maximum(positions, 1.0))

    @tf.function
    def mask_alone(boxes, valid):
        return [imitation.masks(anchors, boxes, valid)[0]]

    @tf.function
    def without_adaptation(boxes, valid, adapted, teacher):
        mask = imitation.masks(anchors, boxes, valid)[0]
        with tf.GradientTape() as tape:
            tape.watch(adapted)
            positions = tf.where(mask)
            difference = tf.gather_nd(adapted, positions) - tf.gather_nd(teacher, positions)
            loss = normalized(tf.reduce_sum(tf.square(difference)), mask)
        return [loss, tape.gradient(loss, adapted)]

    def with_adaptation(squared_error):
        @tf.function
        def run(boxes, valid, student, teacher):
            mask = imitation.masks(anchors, boxes, valid)[0]
            kernel, bias = imitation.kernels[0], imitation.biases[0]
            with tf.GradientTape() as tape:
                tape.watch(student)
                total, _ = squared_error(student, teacher, mask, tf.convert_to_tensor(kernel), bias)
                loss = normalized(total, mask)
            return [loss, *tape.gradient(loss, [student, kernel, bias])]

        return run

    both = ("student", "teacher")
    return {
        MASK: (mask_alone, ()),
        WITHOUT: (without_adaptation, ("adapted", "teacher")),
        "mask, gathered adaptation and loss": (with_adaptation(losses.gathered_squared_error), both),
        "mask, dense adaptation and loss": (with_adaptation(losses.dense_squared_error), both),
    }


def check_losses(imitation, functions, anchors: np.ndarray, boxes, valid, maps) -> str:
    """Compares every function with the formula in numpy; returns what was seen.

    Raises:
        AssertionError: a mask, loss or gradient is not the formula's.
    """
    mask = numpy_mask(anchors, boxes.numpy(), valid.numpy(), imitation.psi)
    divisor = imitation.normalization * max(mask.sum(), 1)
    mine, adapted, teacher = (
        maps[key].numpy().astype(np.float64) for key in ("student", "adapted", "teacher")
    )
    kernel, bias = (v.numpy().astype(np.float64) for v in (imitation.kernels[0], imitation.biases[0]))
    padded = np.pad(mine, [(0, 0), (1, 1), (1, 1), (0, 0)])
    image, row, column = np.nonzero(mask)
    patches = np.stack([padded[image, row + i, column + j] for i in range(3) for j in range(3)], axis=1)
    patches = patches.reshape(len(image), -1)  # P x 9 C
    linear = patches @ kernel.reshape(-1, kernel.shape[-1]) + bias
    error = np.maximum(linear, 0.0) - teacher[mask]  # P x Ct
    slope = 2.0 / divisor * error * (linear > 0)
    plain = adapted[mask] - teacher[mask]
    plain_gradient = np.zeros_like(adapted)
    plain_gradient[mask] = 2.0 / divisor * plain
    for name, (function, keys) in functions.items():
        found = [x.numpy() for x in function(boxes, valid, *(maps[key] for key in keys))]
        if not keys:
            np.testing.assert_array_equal(found[0], mask, err_msg=name)
        elif "adapted" in keys:
            np.testing.assert_allclose(found[0], (plain**2).sum() / divisor, rtol=1e-4, err_msg=name)
            np.testing.assert_allclose(found[1], plain_gradient, rtol=1e-3, atol=1e-7, err_msg=name)
        else:
            np.testing.assert_allclose(found[0], (error**2).sum() / divisor, rtol=1e-4, err_msg=name)
            expected = (patches.T @ slope).reshape(kernel.shape)
            scale = np.abs(expected).max() + 1e-12
            np.testing.assert_allclose(found[2] / scale, expected / scale, atol=1e-3, err_msg=name)
            np.testing.assert_allclose(found[3], slope.sum(axis=0), rtol=1e-2, atol=1e-4, err_msg=name)
    return f"{mask.mean():.0%} of the positions are in the mask; values and gradients as numpy computes them."


def numpy_mask(anchors: np.ndarray, boxes: np.ndarray, valid: np.ndarray, psi: float) -> np.ndarray:
    """The paper's mask, box by box: bool [B,h,w] of anchors [h,w,K,4] and boxes [B,M,4] (continuous)."""
    mask = np.zeros((len(boxes), *anchors.shape[:2]), bool)
    areas = np.prod(anchors[..., 2:] - anchors[..., :2], axis=-1)
    for index, row in np.argwhere(valid):
        box = boxes[index, row]
        inside = np.minimum(anchors[..., 2:], box[2:]) - np.maximum(anchors[..., :2], box[:2])
        shared = np.prod(np.maximum(inside, 0), axis=-1)
        iou = shared / (areas + np.prod(box[2:] - box[:2]) - shared)
        mask[index] |= (iou > psi * iou.max()).any(axis=-1)
    return mask


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
        yield Result("group_conv", title, alternate(contenders, **options.rounds))


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
    return convolutions.shuffle_channels(convolutions.block_diagonal(kernel, 3), 3)


def _split(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    pairs = zip(tf.split(x, 3, axis=-1), tf.split(kernel, 3, axis=-1), strict=True)
    return convolutions.shuffle_channels(tf.concat([tf.nn.conv2d(a, k, 1, "SAME") for a, k in pairs], -1), 3)


def _batched(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    shape, filters = x.shape, kernel.shape[3]
    groups = tf.transpose(tf.reshape(x, [-1, 3, shape[3] // 3]), [1, 0, 2])  # g x N x in
    blocks = tf.transpose(tf.reshape(kernel, [-1, 3, filters // 3]), [1, 0, 2])  # g x in x out
    product = tf.matmul(groups, blocks)  # g x N x out; N x out x g is the shuffled order
    return tf.reshape(tf.transpose(product, [1, 2, 0]), [*shape[:3], filters])


_GROUP_FORMS = {
    "dense block-diagonal, matrix product": lambda x, kernel: channels.pointwise(x, _dense(kernel)),
    "dense block-diagonal, conv2d": lambda x, kernel: tf.nn.conv2d(x, _dense(kernel), 1, "SAME"),
    "split and concat, transposed": _split,
    "batched matrix product": _batched,
}
