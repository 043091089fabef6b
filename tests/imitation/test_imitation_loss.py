"""ImitationLoss: value, gradient, normalisation, empty masks, levels, serialisation."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.imitation import losses
from fgfi_tf.imitation.layer import ImitationLoss


def anchors_one_per_cell(height, width, stride=16):
    ys, xs = np.meshgrid(np.arange(height) * stride, np.arange(width) * stride, indexing="ij")
    corners = np.stack([xs, ys, xs + stride, ys + stride], axis=-1).astype(np.float32)
    return (tf.constant(corners[:, :, None]),)


def random_case(batch=2, height=4, width=6, student=5, teacher=7, seed=0):
    rng = np.random.default_rng(seed)
    s = tf.constant(rng.normal(size=[batch, height, width, student]).astype(np.float32))
    t = tf.constant(rng.normal(size=[batch, height, width, teacher]).astype(np.float32))
    boxes = tf.constant([[[0.0, 0.0, 16.0, 16.0], [70.0, 30.0, 95.0, 63.0]]] * batch)
    valid = tf.constant([[True, True]] + [[False, True]] * (batch - 1))
    return s, t, boxes, valid


def built(compute="auto", **options):
    layer = ImitationLoss(
        (7,),
        compute=compute,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.3, seed=1),
        **options,
    )
    layer.build([(None, None, None, 5)])
    layer.biases[0].assign(tf.linspace(-0.5, 0.5, 7))
    return layer


def test_value_by_hand(run_mode):
    """One channel, a 1 x 1 adaptation of weight 2 and bias -1: adapted = ReLU(2 s - 1)."""
    layer = ImitationLoss((1,), kernel_size=1, activation="relu")
    layer.build([(None, None, None, 1)])
    layer.kernels[0].assign([[[[2.0]]]])
    layer.biases[0].assign([-1.0])
    student = tf.reshape(tf.constant([1.0, 2.0, 0.0, 9.0]), [1, 2, 2, 1])
    teacher = tf.reshape(tf.constant([3.0, 1.0, 0.5, 0.0]), [1, 2, 2, 1])
    anchors = anchors_one_per_cell(2, 2)
    boxes = tf.constant([[[0.0, 0.0, 32.0, 16.0]]])  # the upper row
    valid = tf.constant([[True]])
    # Upper row: adapted 1 and 3, teacher 3 and 1: 4 + 4 = 8 over 2 positions and the factor 2.
    call = run_mode(lambda s, t: layer((s,), (t,), anchors, boxes, valid))
    assert float(call(student, teacher)) == pytest.approx(2.0)


def test_normalization_factor_divides():
    s, t, boxes, valid = random_case()
    anchors = anchors_one_per_cell(4, 6)
    two = built(normalization=2.0)((s,), (t,), anchors, boxes, valid)
    four = built(normalization=4.0)((s,), (t,), anchors, boxes, valid)
    assert float(two) == pytest.approx(2.0 * float(four), rel=1e-6)


@pytest.mark.parametrize("region", ["fine_grained", "gt_box", "full"])
def test_gathered_and_dense_have_the_same_value_and_gradients(region, run_mode):
    s, t, boxes, valid = random_case()
    anchors = anchors_one_per_cell(4, 6)
    results = []
    for compute in ("gathered", "dense"):
        layer = built(compute, region=region)

        def step(student, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(student)
                loss = layer((student,), (t,), anchors, boxes, valid)
            return (loss, *tape.gradient(loss, [student, *layer.trainable_variables]))

        results.append([value.numpy() for value in run_mode(step)(s)])
    for gathered, dense in zip(*results, strict=True):
        assert np.abs(dense).max() > 0
        np.testing.assert_allclose(gathered, dense, rtol=1e-4, atol=1e-5)


def test_a_batch_pools_its_positions():
    """One normaliser for the whole batch: not the mean of the images' losses."""
    s, t, boxes, valid = random_case()
    anchors = anchors_one_per_cell(4, 6)
    layer = built()
    counts = tf.reduce_sum(tf.cast(layer.masks(anchors, boxes, valid)[0], tf.float32), axis=(1, 2)).numpy()
    assert counts[0] != counts[1]
    single = [
        float(layer((s[i : i + 1],), (t[i : i + 1],), anchors, boxes[i : i + 1], valid[i : i + 1]))
        for i in (0, 1)
    ]
    expected = (single[0] * counts[0] + single[1] * counts[1]) / counts.sum()
    assert float(layer((s,), (t,), anchors, boxes, valid)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("compute", ["gathered", "dense"])
def test_empty_mask_gives_zero_loss_and_zero_gradient(compute, run_mode):
    s, t, boxes, _ = random_case()
    layer = built(compute)
    nothing = tf.zeros([2, 2], tf.bool)

    def step(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = layer((student,), (t,), anchors_one_per_cell(4, 6), boxes, nothing)
        return (loss, *tape.gradient(loss, [student, *layer.trainable_variables]))

    for value in run_mode(step)(s):
        assert np.all(value.numpy() == 0.0)


@pytest.mark.parametrize("compute", ["gathered", "dense"])
def test_a_non_finite_feature_outside_the_mask_does_no_harm(compute, run_mode):
    s, t, boxes, valid = random_case(batch=1)
    spoilt = tf.tensor_scatter_nd_update(t, [[0, 3, 0]], [[np.inf] * 7])
    layer = built(compute)

    def step(student, teacher):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = layer((student,), (teacher,), anchors_one_per_cell(4, 6), boxes, valid)
        return (loss, *tape.gradient(loss, [student, *layer.trainable_variables]))

    for value, clean in zip(run_mode(step)(s, spoilt), run_mode(step)(s, t), strict=True):
        assert np.any(clean != 0.0)
        np.testing.assert_allclose(value, clean, rtol=1e-5)


def test_no_gradient_reaches_the_teacher():
    s, t, boxes, valid = random_case()
    layer = built()
    with tf.GradientTape() as tape:
        tape.watch(t)
        loss = layer((s,), (t,), anchors_one_per_cell(4, 6), boxes, valid)
    assert tape.gradient(loss, t) is None


def test_levels_share_one_normaliser():
    layer = ImitationLoss((2, 2), kernel_size=1)
    layer.build([(None, None, None, 2), (None, None, None, 2)])
    fine, coarse = anchors_one_per_cell(4, 4, 8), anchors_one_per_cell(2, 2, 16)
    boxes = tf.constant([[[0.0, 0.0, 8.0, 8.0], [16.0, 16.0, 32.0, 32.0]]])
    zeros = [tf.zeros([1, 4, 4, 2]), tf.zeros([1, 2, 2, 2])]
    teacher = [tf.ones([1, 4, 4, 2]), 2.0 * tf.ones([1, 2, 2, 2])]
    # Adapted features are 0. One position on each level: (2 * 1 + 2 * 4) / (2 * 2).
    loss = layer(zeros, teacher, (*fine, *coarse), boxes, tf.constant([[True, True]]))
    assert float(loss) == pytest.approx(2.5)


def test_a_teacher_map_of_another_size_is_resized():
    s, t, boxes, valid = random_case()
    large = tf.image.resize(t, [8, 12], method="nearest")
    layer = built()
    anchors = anchors_one_per_cell(4, 6)
    same = layer((s,), (tf.image.resize(large, [4, 6]),), anchors, boxes, valid)
    assert float(layer((s,), (large,), anchors, boxes, valid)) == pytest.approx(float(same), rel=1e-5)


def test_patches_are_those_a_convolution_sees():
    features = tf.reshape(tf.range(12.0), [1, 3, 4, 1])
    patch = losses.gather_patches(features, tf.constant([[0, 0, 0], [0, 1, 2]]), 3)
    assert patch.numpy().tolist() == [[0, 0, 0, 0, 0, 1, 0, 4, 5], [1, 2, 3, 5, 6, 7, 9, 10, 11]]


def test_one_trace_serves_batches_of_the_same_shape():
    s, t, boxes, valid = random_case()
    layer = built()
    for shift in range(3):
        layer((s + float(shift),), (t,), anchors_one_per_cell(4, 6), boxes, valid)
    assert layer._traced_sums.experimental_get_tracing_count() == 1


def test_in_a_graph_the_layer_is_no_function_of_its_own():
    # XLA would take everything that its gradient depends on for constants, and compile each step anew.
    s, t, boxes, valid = random_case()
    layer = built()

    @tf.function
    def step(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = layer((student,), (t,), anchors_one_per_cell(4, 6), boxes, valid)
        return tape.gradient(loss, student)

    operations = {op.type for op in step.get_concrete_function(s).graph.get_operations()}
    assert "GatherNd" in operations
    assert not {name for name in operations if name.endswith("PartitionedCall")}


@pytest.mark.parametrize("compute", ["gathered", "dense"])
@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_shares_by_hand(run_mode, compute, activation):
    """Two images of 2 x 2 cells; in the mask are the upper row of the first and cell (1, 1) of the second."""
    layer = ImitationLoss((4,), kernel_size=1, compute=compute, activation=activation)
    layer.build([(None, None, None, 1)])
    layer.kernels[0].assign([[[[1.0, 1.0, -1.0, 0.0]]]])
    student = tf.reshape(tf.constant([1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.0]), [2, 2, 2, 1])
    boxes = tf.constant([[[0.0, 0.0, 32.0, 16.0]], [[16.0, 16.0, 32.0, 32.0]]])
    arguments = (tf.zeros([2, 2, 2, 4]),), anchors_one_per_cell(2, 2), boxes, tf.constant([[True], [True]])
    found = run_mode(lambda s: tuple(layer.measure((s,), *arguments)))(student)
    # Of 3 * 4 outputs, those of the two upper cells are (+, +, -, 0), that of the feature 0 is all 0.
    active = {"linear": 6 / 12, "relu": 4 / 12}[activation]
    assert [float(v) for v in found[1:]] == pytest.approx([3 / 8, active])
    assert float(found[0]) == float(layer((student,), *arguments))


def test_the_padding_of_images_is_no_part_of_the_map():
    layer = built()
    s, t, boxes, valid = random_case()
    picture = tf.constant([[[True] * 3 + [False] * 3] * 4] * 2)  # the left half
    found = layer.measure((s,), (t,), anchors_one_per_cell(4, 6), boxes, valid, (picture,))
    # The first box is the upper left cell, the second image does not hold it; the second lies in padding.
    assert float(found.mask_share) == pytest.approx(1 / 24)
    assert float(found.active_share) == 1.0


def test_shares_of_several_levels_weigh_positions():
    layer = ImitationLoss((2, 4), kernel_size=1)
    layer.build([(None, None, None, 1), (None, None, None, 1)])
    layer.kernels[0].assign([[[[1.0, 0.0]]]])
    layer.kernels[1].assign([[[[1.0, 1.0, 1.0, 0.0]]]])
    fine, coarse = anchors_one_per_cell(4, 4, 8), anchors_one_per_cell(2, 2, 16)
    boxes = tf.constant([[[0.0, 0.0, 8.0, 8.0], [16.0, 16.0, 32.0, 32.0]]])
    student = [tf.ones([1, 4, 4, 1]), tf.ones([1, 2, 2, 1])]
    teacher = [tf.zeros([1, 4, 4, 2]), tf.zeros([1, 2, 2, 4])]
    found = layer.measure(student, teacher, (*fine, *coarse), boxes, tf.constant([[True, True]]))
    # One position on each level, with half and three quarters of its channels.
    assert [float(v) for v in found] == pytest.approx([(1 + 3) / (2 * 2), 2 / 20, (0.5 + 0.75) / 2])


@pytest.mark.parametrize("region", ["fine_grained", "full"])
def test_shares_of_an_empty_mask_are_zero_and_of_a_full_one_all(region):
    s, t, boxes, _ = random_case()
    found = built(region=region).measure(
        (s,), (t,), anchors_one_per_cell(4, 6), boxes, tf.zeros([2, 2], tf.bool)
    )
    shares = [0.0, 0.0] if region == "fine_grained" else [1.0, 1.0]
    assert [float(found.mask_share), float(found.active_share)] == pytest.approx(shares)


@pytest.mark.parametrize("teacher", ["signed", "sparse"])
def test_a_linear_adaptation_lives_where_the_published_one_dies(teacher):
    """Adam at 1e-3, as in a loop of one's own: the student's features are positive and move together."""
    random = np.random.default_rng(0)
    student = tf.constant(np.maximum(random.normal(size=[1, 8, 12, 64]), 0.0).astype(np.float32))
    target = random.normal(-1.5, 1.0, size=[1, 8, 12, 32]).astype(np.float32)
    target = tf.constant(target if teacher == "signed" else np.maximum(target, 0.0))
    arguments = anchors_one_per_cell(8, 12), tf.constant([[[0.0, 0, 80, 64]]]), tf.constant([[True]])

    def train(activation):
        layer = ImitationLoss([32], region="gt_box", activation=activation)
        layer.build([student.shape])
        optimizer = keras.optimizers.legacy.Adam(1e-3)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                found = layer.measure([student], [target], *arguments)
            variables = layer.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(found.loss, variables), variables, strict=True))
            return found.loss, found.active_share

        return np.array([[float(v) for v in step()] for _ in range(150)])

    published, linear = train("relu"), train("linear")
    assert published[0, 1] > 0.4
    assert published[-1, 1] < {"signed": 0.01, "sparse": 0.1}[teacher]
    # And so it learns no more. Twelve seeds: at least 0.998 (signed), 0.13 to 0.48 (sparse).
    assert published[-1, 0] > {"signed": 0.9, "sparse": 0.05}[teacher] * published[0, 0]
    assert linear[:, 1].min() > 0.999
    assert linear[-1, 0] < 0.005 * linear[0, 0]


def test_regularization_is_half_the_squared_norm_times_the_decay():
    layer = ImitationLoss((1,), kernel_size=1, weight_decay=0.5)
    layer.build([(None, None, None, 2)])
    layer.kernels[0].assign([[[[3.0], [4.0]]]])
    assert float(layer.regularization_loss()) == pytest.approx(0.5 * 25 / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "box"}, "imitation region must be one of fine_grained, gt_box, full; got 'box'"),
        ({"compute": "fast"}, "imitation compute must be one of auto, gathered, dense; got 'fast'"),
        ({"psi": 1.5}, r"psi must lie in \[0, 1\]; got 1.5"),
        ({"normalization": 0.0}, "the imitation normalization must be above 0; got 0.0"),
        ({"normalization": float("nan")}, "the imitation normalization must be above 0; got nan"),
        ({"activation": "tanh"}, "imitation activation must be one of linear, relu; got 'tanh'"),
        ({"kernel_size": 2}, "the imitation kernel_size must be odd; got 2"),
        ({"levels": "all"}, "imitation levels must be one of best, assigned, each; got 'all'"),
        ({"levels": "assigned"}, "imitation levels 'assigned' needs level_sizes, the smallest side of each"),
        ({"level_sizes": (8, 4)}, r"imitation level_sizes must ascend; got \(8, 4\)"),
        ({"pairs": ((0, 1),)}, r"imitation pairs name maps of a teacher of 1 maps; got \(\(0, 1\),\)"),
        ({"pairs": ()}, r"imitation pairs must name each map of the student at most once; got \(\)"),
        ({"pairs": ((1, 0), (1, 0))}, "imitation pairs must name each map of the student at most once"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImitationLoss((4,), **options)


def test_levels_of_student_and_teacher_must_agree():
    with pytest.raises(ValueError, match="the student has 2 feature maps and the teacher 1"):
        ImitationLoss((4,)).build([(None, None, None, 3), (None, None, None, 3)])
