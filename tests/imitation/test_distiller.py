"""Distiller, with a detector of one convolution so that everything can be followed."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.imitation.distiller import OBSERVED, Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.detector import Detector


class OneConv(Detector):
    """A 1 x 1 convolution of stride 16; its loss is the mean output."""

    feature_channels = (4,)

    def __init__(self, penalty=0.0):
        super().__init__()
        self.conv = keras.layers.Conv2D(4, 1, strides=16)
        self.penalty = penalty
        self(tf.zeros([1, 32, 32, 3]))

    def preprocess(self, images):
        return tf.cast(images, tf.float32) / 255.0

    def call(self, inputs, training=False, seed=None):
        return {"features": (self.conv(inputs),)}

    def detection_losses(self, outputs, batch):
        return {"mean": tf.reduce_mean(outputs["features"][0]), "seen": tf.cast(batch["seed"][1], tf.float32)}

    def regularization_losses(self):
        return {"penalty": self.penalty * tf.nn.l2_loss(self.conv.kernel)} if self.penalty else {}

    def imitation_anchors(self, height, width):
        ys, xs = np.meshgrid(np.arange(0, height, 16), np.arange(0, width, 16), indexing="ij")
        return (tf.constant(np.stack([xs, ys, xs + 16, ys + 16], -1)[:, :, None].astype(np.float32)),)


def batch_of(objects=True):
    return {
        "image": tf.random.stateless_uniform([2, 32, 48, 3], [1, 2], maxval=255.0),
        "boxes": tf.constant([[[0.0, 0.0, 15.0, 15.0]]] * 2),
        "classes": tf.zeros([2, 1], tf.int32),
        "valid": tf.fill([2, 1], objects),
    }


def distiller(optimizer=None, layer_options=None, **options):
    layer = ImitationLoss((4,), kernel_initializer="glorot_uniform", **(layer_options or {}))
    model = Distiller(OneConv(penalty=0.1), OneConv(), layer, **options)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.1))
    return model


def test_the_teacher_is_not_tracked_and_never_changes():
    model = distiller()
    teacher = [v.numpy() for v in model.teacher.variables]
    student = [v.numpy() for v in model.student.variables]
    adaptation = model.imitation.kernels[0].numpy()
    model.train_step(batch_of())
    for before, variable in zip(teacher, model.teacher.variables, strict=True):
        np.testing.assert_array_equal(before, variable)
    assert all(np.any(b != v.numpy()) for b, v in zip(student, model.student.variables, strict=True))
    assert np.any(adaptation != model.imitation.kernels[0].numpy())
    ids = {id(v) for v in model.teacher.variables}
    assert not ids & {id(v) for v in model.variables}


def test_a_checkpoint_holds_no_teacher_variable(tmp_path):
    model = distiller()
    model.train_step(batch_of())
    state = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    names = [name for name, _ in tf.train.list_variables(state.write(str(tmp_path / "c")))]
    assert names and not [name for name in names if "teacher" in name]
    saved = sum(1 for name in names if name.startswith("model/student"))
    assert saved == 2  # kernel and bias


def test_the_terms_add_up_to_the_loss(run_mode):
    model = distiller(imitation_weight=0.5, layer_options={"weight_decay": 0.2})
    terms = run_mode(lambda b: model.losses_of(b, tf.constant(3, tf.int64)))(batch_of())
    assert set(terms) == {"mean", "seen", "penalty", "imitation_loss", "adaptation_decay"}
    kernel = model.student.conv.kernel.numpy()
    assert float(terms["penalty"]) == pytest.approx(0.1 * (kernel**2).sum() / 2, rel=1e-5)
    assert float(terms["seen"]) == 3.0
    full = distiller(imitation_weight=1.0)
    full.student.set_weights(model.student.get_weights())
    full.imitation.set_weights(model.imitation.get_weights())
    full.teacher.set_weights(model.teacher.get_weights())
    one = full.losses_of(batch_of(), tf.constant(0, tf.int64))["imitation_loss"]
    assert float(terms["imitation_loss"]) == pytest.approx(0.5 * float(one), rel=1e-5)


@pytest.mark.parametrize(
    ("step", "active"), [(0, False), (1, False), (2, True), (4, True), (5, False), (9, False)]
)
def test_imitation_runs_from_warmup_to_end(step, active):
    model = distiller(warmup_steps=2, end_step=5)
    term = model.losses_of(batch_of(), tf.constant(step, tf.int64))["imitation_loss"]
    assert (float(term) > 0.0) == active


def test_without_objects_the_imitation_loss_is_zero_and_nothing_breaks():
    model = distiller()
    logs = model.train_step(batch_of(objects=False))
    assert float(logs["imitation_loss"]) == 0.0
    assert all(np.all(np.isfinite(v)) for v in model.get_weights())


def test_plain_training_without_a_teacher():
    model = Distiller(OneConv())
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    logs = model.train_step(batch_of())
    assert set(logs) == {"loss", "mean", "seen"}


def test_gradients_are_limited_to_the_given_norm():
    model = Distiller(OneConv(), clip_norm=0.01)
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    before = [v.numpy() for v in model.trained_variables]
    model.train_step(batch_of())
    moved = np.sqrt(
        sum(((b - v.numpy()) ** 2).sum() for b, v in zip(before, model.trained_variables, strict=True))
    )
    assert moved == pytest.approx(0.01, rel=1e-4)


class Unused(OneConv):
    """With a variable that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.spare = self.add_weight(name="kernel", shape=(3,), initializer="ones")

    def decay_rate(self, variable):
        return 0.5


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_variable_that_no_loss_reaches_stays(monkeypatch, parts, replicas):
    model = Distiller(Unused(), gradient_accumulation=parts, clip_norm=1.0)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    kernel = model.student.conv.kernel.numpy()
    monkeypatch.setattr("fgfi_tf.imitation.distiller.num_replicas", lambda: replicas)  # sums over the one
    tf.function(model.train_step)(batch_of())
    np.testing.assert_array_equal(model.student.spare, np.ones(3))
    assert (model.student.conv.kernel.numpy() != kernel).any()


def test_fit_shows_the_mean_of_every_term():
    model = distiller()
    data = tf.data.Dataset.from_tensors(batch_of()).repeat()
    history = model.fit(data, steps_per_epoch=4, epochs=1, verbose=0).history
    assert history["seen"] == [1.5]  # steps 0, 1, 2, 3
    assert set(history) == {"loss", "mean", "seen", "penalty", "imitation_loss", *OBSERVED}


def test_teacher_and_layer_belong_together():
    with pytest.raises(ValueError, match="imitation needs both a teacher and an ImitationLoss"):
        Distiller(OneConv(), OneConv(), None)


class Recipe(OneConv):
    """Kernels decay and biases learn twice as fast, as in the Faster R-CNN recipe."""

    def decay_rate(self, variable):
        return 0.5 if variable.shape.rank > 1 else 0.0

    def learning_rate_multiplier(self, variable):
        return 1.0 if variable.shape.rank > 1 else 2.0


def test_decay_is_added_after_clipping_and_biases_learn_faster():
    # w = w - 0.1 (c g + 0.5 w) for kernels and - 0.1 * 2 c g for biases, c = 0.01 / |g| over all variables
    layer = ImitationLoss((4,), kernel_initializer="glorot_uniform")
    model = Distiller(Recipe(), OneConv(), layer, clip_norm=0.01)
    model.compile(keras.optimizers.legacy.SGD(0.1))
    batch = batch_of()
    with tf.GradientTape() as tape:
        loss = tf.add_n(list(model.losses_of(batch, tf.constant(0, tf.int64)).values()))
    gradients = [g.numpy() for g in tape.gradient(loss, model.trained_variables)]
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
    assert norm > 0.01
    before = [v.numpy() for v in model.trained_variables]
    model.train_step(batch)
    for variable, old, gradient in zip(model.trained_variables, before, gradients, strict=True):
        clipped = gradient * 0.01 / norm
        update = clipped + 0.5 * old if old.ndim > 1 else 2.0 * clipped
        np.testing.assert_allclose(variable.numpy(), old - 0.1 * update, rtol=1e-5, atol=1e-7)


def test_decayed_weights_wait_for_their_gradient():
    """Else the products of all weights are held through the whole step."""
    layer = ImitationLoss((4,), kernel_initializer="glorot_uniform")
    model = Distiller(Recipe(), OneConv(), layer)
    model.compile(keras.optimizers.legacy.SGD(0.1))
    graph = tf.function(model.train_step).get_concrete_function(batch_of()).graph
    products = [
        op
        for op in graph.get_operations()
        if op.type == "Mul" and [i.op.type for i in op.inputs] == ["Const", "ReadVariableOp"]
        if tf.get_static_value(op.inputs[0]) == 0.5
    ]
    assert len(products) == 2  # the kernels of the student and of the adaptation
    for product in products:
        waited = {op.name.split("/")[0] for op in product.inputs[1].op.control_inputs}
        assert "gradient_tape" in waited


def test_losses_know_the_step():
    model, found = distiller(), []
    plain = model.student.detection_losses
    model.student.detection_losses = lambda outputs, batch: (
        found.append(int(batch["step"])) or plain(outputs, batch)
    )
    model.losses_of(batch_of(), tf.constant(7, tf.int64))
    assert found == [7]
