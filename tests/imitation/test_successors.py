"""CWD, PKD and soft labels: values by hand and by scipy, masks, gradients, the layer, the distiller."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.geometry.anchors import anchor_grid
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.imitation.soft_labels import soft_label_loss
from fgfi_tf.imitation.successors import DISTANCES, channel_wise_distance, pearson_distance
from fgfi_tf.models import registry
from fgfi_tf.training import build, config, validation

pytestmark = pytest.mark.usefixtures("short_shuffledet")

ALL = tf.ones([1, 1, 2], tf.bool)


def maps(seed=0, shape=(3, 4, 5, 6)):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.normal(size=shape), tf.float32), tf.constant(rng.normal(size=shape), tf.float32)


def test_channel_wise_by_hand(run_mode):
    """At temperature 1 the teacher looks (1/4, 3/4), the student (1/2, 1/2)."""
    teacher = tf.reshape(tf.math.log([1.0, 3.0]), [1, 1, 2, 1])
    student = tf.zeros([1, 1, 2, 1])
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    found = run_mode(lambda s, t: channel_wise_distance(s, t, ALL, temperature=1.0))(student, teacher)
    np.testing.assert_allclose(found, [expected], rtol=1e-5)
    # Twice the maps at twice the temperature look the same, and count temperature^2.
    hotter = channel_wise_distance(2.0 * student, 2.0 * teacher, ALL, temperature=2.0)
    np.testing.assert_allclose(hotter, [4.0 * expected], rtol=1e-5)


def test_channel_wise_is_the_mean_over_channels_of_scipys_divergence():
    stats = pytest.importorskip("scipy.stats")
    special = pytest.importorskip("scipy.special")
    student, teacher = maps()
    found = channel_wise_distance(student, teacher, tf.ones([3, 4, 5], tf.bool))
    for image in range(3):
        p, q = (special.softmax(x[image].numpy().reshape(20, 6) / 4.0, axis=0) for x in (teacher, student))
        assert float(found[image]) == pytest.approx(16.0 * stats.entropy(p, q).mean(), rel=1e-4)


def test_pearson_is_one_minus_the_correlation(run_mode):
    student, teacher = maps(1)
    found = run_mode(lambda s, t: pearson_distance(s, t, tf.ones([3, 4, 5], tf.bool)))(student, teacher)
    for image in range(3):
        s, t = (x[image].numpy().reshape(20, 6) for x in (student, teacher))
        r = [np.corrcoef(s[:, c], t[:, c])[0, 1] for c in range(6)]
        assert float(found[image]) == pytest.approx(1.0 - np.mean(r), rel=1e-4)


@pytest.mark.parametrize("name", DISTANCES)
def test_what_each_does_not_see(name):
    """CWD does not see what is added to a channel, PKD neither that nor a positive factor."""
    student, _ = maps(2)
    inside = tf.ones([3, 4, 5], tf.bool)
    shift = tf.constant([1.0, -2.0, 0.0, 5.0, 3.0, 0.5])
    np.testing.assert_allclose(DISTANCES[name](student, student + shift, inside), 0.0, atol=1e-5)
    scaled = DISTANCES[name](student, 3.0 * student + shift, inside).numpy()
    assert (scaled < 1e-5).all() if name == "pkd" else (scaled > 1e-2).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_padding_takes_no_part(name):
    student, teacher = maps(3)
    inside = np.zeros([3, 4, 5], bool)
    inside[:, :3, :4] = True
    cut = DISTANCES[name](student[:, :3, :4], teacher[:, :3, :4], tf.ones([3, 3, 4], tf.bool))
    poisoned = tf.where(inside[..., None], student, 1e6)
    np.testing.assert_allclose(DISTANCES[name](poisoned, teacher, tf.constant(inside)), cut, rtol=1e-4)
    nothing = DISTANCES[name](student, teacher, tf.zeros([3, 4, 5], tf.bool))
    np.testing.assert_array_equal(nothing, [0.0, 0.0, 0.0])


@pytest.mark.parametrize("name", DISTANCES)
def test_a_constant_channel_has_a_finite_gradient(name):
    student, teacher = tf.Variable(tf.zeros([1, 2, 3, 2])), maps(4, (1, 2, 3, 2))[0]
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(DISTANCES[name](student, teacher, tf.ones([1, 2, 3], tf.bool)))
    assert np.isfinite(tape.gradient(value, student)).all() and np.isfinite(value)


class Identity(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None, **kwargs):
        return tf.reshape(tf.eye(shape[-2], shape[-1]), shape)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_layer_is_the_mean_over_images_and_levels_by_positions(name, run_mode):
    """Image 0 has 12 positions at the first level and 4 at the second, image 1 has 4 and 2."""
    (s0, t0), (s1, t1) = maps(5, (2, 3, 4, 6)), maps(6, (2, 2, 2, 6))
    made = ImitationLoss((6, 6), kernel_size=1, kernel_initializer=Identity(), comparison=name)
    grids = [anchor_grid(h, w, 8, [8.0], [1.0]) for h, w in ((3, 4), (2, 2))]
    inside = [np.ones([2, 3, 4], bool), np.ones([2, 2, 2], bool)]
    inside[0][1, 1:], inside[1][1, 1:] = False, False
    masks = tuple(tf.constant(part) for part in inside)
    boxes, valid = tf.zeros([2, 1, 4]), tf.zeros([2, 1], tf.bool)  # objects do not matter
    call = run_mode(lambda *features: made(features[:2], features[2:], grids, boxes, valid, masks))
    values = [DISTANCES[name](s, t, m).numpy() for s, t, m in ((s0, t0, masks[0]), (s1, t1, masks[1]))]
    expected = (12 * values[0][0] + 4 * values[0][1] + 4 * values[1][0] + 2 * values[1][1]) / 22
    assert float(call(s0, s1, t0, t1)) == pytest.approx(expected, rel=1e-5)
    again = ImitationLoss.from_config({**made.get_config(), "kernel_initializer": "zeros"})
    assert again.comparison == name


def test_an_unknown_comparison_is_refused():
    with pytest.raises(ValueError, match="imitation comparison must be one of squared_error, cwd, pkd"):
        ImitationLoss((6,), comparison="l1")


def test_soft_labels_by_hand(run_mode):
    """Two anchors: the teacher's (1/4, 3/4) against (1/2, 1/2), and one where both agree."""
    teacher = tf.math.log([[[0.25, 0.75], [0.1, 0.9]]])
    student = tf.Variable(tf.math.log([[[0.5, 0.5], [0.1, 0.9]]]))
    expected = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert float(run_mode(soft_label_loss)(student, teacher)) == pytest.approx(expected, rel=1e-5)
    with tf.GradientTape() as tape:
        logits = tf.Variable([[[0.0, 0.0], [np.log(0.1), np.log(0.9)]]])
        value = soft_label_loss(tf.nn.log_softmax(logits), teacher)
    # The gradient of a cross entropy with soft targets: probabilities minus the teacher's.
    np.testing.assert_allclose(tape.gradient(value, logits), [[[0.25, -0.25], [0, 0]]], atol=1e-6)


def test_shuffledets_outcomes_exclude_each_other_and_are_its_scores():
    net = registry.build("shuffledet_0.25x", input_size=(32, 64), class_names=("a", "b"))
    outputs = {
        "predictions": tf.constant(np.random.default_rng(0).normal(size=[2, 2, 4, 9 * 7]) * 3, tf.float32)
    }
    probabilities = tf.exp(net.log_probabilities(outputs))
    assert probabilities.shape == (2, 72, 3)
    np.testing.assert_allclose(tf.reduce_sum(probabilities, -1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(tf.reduce_max(probabilities[..., :2], -1), net.decode(outputs)[1], rtol=1e-5)


def batch_of():
    return {
        "image": tf.random.stateless_uniform([2, 32, 64, 3], [1, 2], maxval=255.0),
        "boxes": tf.constant([[[0.0, 0.0, 15.0, 15.0], [8.0, 4.0, 60.0, 30.0]]] * 2),
        "classes": tf.zeros([2, 2], tf.int32),
        "valid": tf.constant([[True, True], [True, False]]),
    }


def test_pictures_without_labels_have_no_soft_labels():
    """The second picture has none: the term is that of the first alone, by its objects."""
    student, teacher = (
        registry.build("shuffledet_0.25x", input_size=(32, 64), class_names=("a", "b"), dropout=0.0)
        for _ in range(2)
    )
    found = []
    for share, images in (((1, 1), 1), ((1, 2), 2)):
        model = Distiller(
            student,
            teacher,
            ImitationLoss(teacher.feature_channels),
            soft_label_weight=2.0,
            labelled_share=share,
        )
        batch = {name: value[:images] for name, value in batch_of().items()}
        batch["image"] = tf.repeat(batch["image"][:1], images, axis=0)  # batch norm sees the same statistics
        found.append(float(model.losses_of(batch, tf.constant(0, tf.int64))["soft_label_loss"]))
    assert found[0] > 0 and found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_distiller_adds_soft_labels_over_the_objects_of_the_batch(accumulation):
    def shuffledet():
        return registry.build("shuffledet_0.25x", input_size=(32, 64), class_names=("a", "b"), dropout=0.0)

    student, teacher = shuffledet(), shuffledet()
    teacher.head.kernel.assign(tf.random.stateless_normal(teacher.head.kernel.shape, [3, 4], stddev=0.5))
    teacher.trainable = False
    model = Distiller(
        student,
        teacher,
        ImitationLoss(teacher.feature_channels),
        soft_label_weight=2.0,
        imitation_weight=0.0,
        gradient_accumulation=accumulation,
    )
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    batch = batch_of()
    inputs = student.preprocess(batch["image"])
    expected = 0.0
    for micro_batch in tf.split(inputs, accumulation):  # batch norm sees each on its own
        learnt, taught = student(micro_batch, training=True), teacher(micro_batch, training=False)
        pair = (student.log_probabilities(learnt), teacher.log_probabilities(taught))
        expected += 2.0 * float(soft_label_loss(*pair)) / 3.0
    logs = model.train_step(batch)
    assert float(logs["soft_label_loss"]) == pytest.approx(expected, rel=1e-4)
    assert float(logs["imitation_loss"]) == 0.0


def experiment(**given):
    given = {"imitation": True, "teacher_checkpoint": "t", "output_dir": "o", **given}
    return config.ExperimentConfig.of(model="shuffledet_0.25x", input_size="32x64", **given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"soft_label_weight": -1.0}, "--soft_label_weight=-1.0: must be at least 0"),
        ({"soft_label_weight": 1.0, "imitation": False}, "--soft_label_weight needs --imitation"),
        (
            {"imitation_comparison": "cwd", "imitation_region": "full"},
            "--imitation_region=full has no effect with --imitation_comparison=cwd",
        ),
    ],
)
def test_what_cannot_work_is_told(given, text):
    with pytest.raises(UserError, match=text):
        validation.validate(experiment(**given))


def test_soft_labels_want_the_same_classes_and_anchors():
    student = registry.build("shuffledet_0.25x", input_size=(32, 64), class_names=("a", "b"))
    teacher = registry.build("shuffledet_0.25x", input_size=(32, 64), class_names=("a", "c"))
    with pytest.raises(UserError, match="the same classes at as many anchors"):
        build._check_soft_labels(experiment(soft_label_weight=1.0), student, teacher)
    frcnn = registry.build("faster_rcnn_vgg11", input_size=(32, 64), class_names=("a", "b"), width=0.05)
    with pytest.raises(UserError, match="has no predictions that soft labels can compare"):
        build._check_soft_labels(experiment(soft_label_weight=1.0), student, frcnn)
