"""The layers of Keras 2 and 3: equal values, float32 under any policy, trained by models of their Keras."""

import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras_2

from fgfi_tf.geometry.anchors import anchor_grid
from fgfi_tf.imitation import keras3, layer

ANCHORS = anchor_grid(2, 3, 16, [16], [1.0])  # one for each cell of 16 pixels
BOXES = np.float32([[[0, 0, 32, 16]]])  # cells (0, 0) and (0, 1)
VALID = np.array([[True]])


@pytest.fixture(name="kind", params=[(keras_2, layer), (keras_3, keras3)], ids=["keras_2", "keras_3"])
def kind_fixture(request):
    """(Keras, its ImitationLoss)."""
    keras, module = request.param
    return keras, module.ImitationLoss


@pytest.fixture(name="half_precision", params=["mixed_float16", "mixed_bfloat16"])
def half_precision_fixture(kind, request):
    keras, _ = kind
    before = keras.mixed_precision.global_policy() if keras is keras_2 else keras.config.dtype_policy()
    change = keras.mixed_precision.set_global_policy if keras is keras_2 else keras.config.set_dtype_policy
    change(request.param)
    yield tf.as_dtype(request.param.removeprefix("mixed_"))
    change(before)


def case(dtype=tf.float32, seed=0):
    random = np.random.default_rng(seed)
    student, teacher = (random.normal(size=[1, 2, 3, c]).astype(np.float32) for c in (2, 4))
    return tf.cast(student, dtype), tf.cast(teacher, dtype)


def test_half_precision_rounds_neither_kernel_nor_features_nor_gradient(kind, half_precision, run_mode):
    """Feature 100, kernel 30.01, bias 0.5: adapted 3001.5, squared 9009002.25, over 2 positions and 2."""
    _, loss_class = kind
    imitation = loss_class([1], kernel_size=1)
    imitation.build([(None, None, None, 1)])
    imitation.kernels[0].assign([[[[30.01]]]])
    imitation.biases[0].assign([0.5])
    student = tf.cast(tf.fill([1, 2, 3, 1], 100.0), half_precision)

    def step(features):
        with tf.GradientTape() as tape:
            loss = imitation([features], [tf.zeros_like(features)], [ANCHORS], BOXES, VALID)
        return loss, tape.gradient(loss, imitation.trainable_variables)

    loss, (by_kernel, by_bias) = run_mode(step)(student)
    assert loss.dtype == by_kernel.dtype == tf.float32
    assert float(loss) == pytest.approx(2 * 3001.5**2 / 4, rel=1e-6)
    # d/dkernel = 2 positions * 2 * adapted * feature / 4
    assert float(by_kernel[0, 0, 0, 0]) == pytest.approx(3001.5 * 100, rel=1e-6)
    assert float(by_bias[0]) == pytest.approx(3001.5, rel=1e-6)
    assert all(tf.as_dtype(v.dtype) == tf.float32 for v in imitation.trainable_variables)


def test_both_give_the_same_loss_and_have_the_same_weights(run_mode):
    student, teacher = case()
    found = []
    for module in (layer, keras3):
        imitation = module.ImitationLoss([4], weight_decay=0.1)
        imitation.build([student.shape])
        random = np.random.default_rng(1)
        imitation.set_weights([random.normal(size=v.shape) for v in imitation.weights])
        loss = run_mode(lambda s, t, f=imitation: f([s], [t], [ANCHORS], BOXES, VALID))(student, teacher)
        found.append((float(loss), float(imitation.regularization_loss())))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0][0] > 0


def imitating_model(keras, loss_class, nested=False):
    """A model that holds the layer, and trains whatever Keras calls its variables by ``fit``."""

    class Student(keras.Model):
        def __init__(self):
            super().__init__()
            self.features = keras.layers.Conv2D(2, 16, strides=16, name="features")
            imitation = loss_class([4], name="imitation")
            if nested:
                self.kept = [imitation]
            else:
                self.imitation = imitation

        def call(self, images):
            return self.features(images)

        def train_step(self, batch):
            images, teacher = batch
            imitation = self.kept[0] if nested else self.imitation
            with tf.GradientTape() as tape:
                loss = imitation([self(images)], [teacher], [ANCHORS], BOXES, VALID)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": loss}

    return Student()


def fit(model, keras):
    images = np.random.default_rng(0).uniform(size=[1, 32, 48, 3]).astype(np.float32)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    batches = tf.data.Dataset.from_tensors((images, case()[1])).repeat(40)
    return model.fit(batches, verbose=0, epochs=1), batches


def test_a_model_that_holds_the_layer_trains_it(kind):
    keras, loss_class = kind
    model = imitating_model(keras, loss_class)
    images = np.random.default_rng(0).uniform(size=[1, 32, 48, 3]).astype(np.float32)

    def loss():
        return float(model.imitation([model(images)], [case()[1]], [ANCHORS], BOXES, VALID))

    first, before = loss(), [v.numpy() for v in model.imitation.trainable_variables]
    fit(model, keras)
    held = {id(v) for v in model.imitation.trainable_variables}
    assert len(held) == 2 and held <= {id(v) for v in model.trainable_variables}
    for old, variable in zip(before, model.imitation.trainable_variables, strict=True):
        assert np.abs(old - variable.numpy()).max() > 0.01
    assert loss() < 0.3 * first


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("keras", "module", "message"),
    [
        (
            keras_3,
            layer,
            "Student is a Keras 3 model and holds a Keras 2 ImitationLoss, which it would never train: "
            "take ImitationLoss from fgfi_tf.imitation.keras3",
        ),
        (
            keras_2,
            keras3,
            "Student is a Keras 2 model and holds a Keras 3 ImitationLoss, which it would never train: "
            "take ImitationLoss from fgfi_tf.imitation.layer",
        ),
    ],
    ids=["keras_3_holds_2", "keras_2_holds_3"],
)
def test_a_model_of_the_other_keras_is_refused(keras, module, message, nested):
    with pytest.raises(TypeError, match=message):
        fit(imitating_model(keras, module.ImitationLoss, nested), keras)


@pytest.mark.parametrize(("keras", "module"), [(keras_3, layer), (keras_2, keras3)])
def test_symbolic_tensors_of_the_other_keras_are_refused(keras, module):
    features, teacher = keras.Input([2, 3, 2], batch_size=1), keras.Input([2, 3, 4], batch_size=1)
    imitation = module.ImitationLoss([4])
    imitation.build([(None, None, None, 2)])
    with pytest.raises(TypeError, match="student_features.* is a symbolic tensor of another Keras"):
        imitation.measure([features], [teacher], [ANCHORS], BOXES, VALID)


def test_the_layer_in_a_functional_model(kind):
    keras, loss_class = kind
    features, teacher = keras.Input([2, 3, 2], batch_size=1), keras.Input([2, 3, 4], batch_size=1)
    imitation = loss_class([4])
    model = keras.Model([features, teacher], imitation([features], [teacher], [ANCHORS], BOXES, VALID))
    student, taught = case()
    expected = float(imitation([student], [taught], [ANCHORS], BOXES, VALID))
    assert float(model([student, taught])) == pytest.approx(expected, rel=1e-6)
    assert len(model.trainable_variables) == 2


def test_serialisation_keeps_every_argument(kind):
    keras, loss_class = kind
    given = {
        "teacher_channels": (7, 9),
        "psi": 0.3,
        "normalization": 4.0,
        "region": "gt_box",
        "compute": "dense",
        "kernel_size": 1,
        "activation": "relu",
        "weight_decay": 0.1,
        "levels": "assigned",
        "level_sizes": (0.0, 16.0, 32.0),
        "pairs": ((1, 0), (2, 1)),
    }
    first = loss_class(**given, kernel_initializer="he_normal", bias_initializer="ones")
    copy = loss_class.from_config(first.get_config())
    assert {name: getattr(copy, name) for name in given} == given
    assert type(copy.kernel_initializer) is type(first.kernel_initializer)
    assert type(copy.bias_initializer) is type(first.bias_initializer)
    assert copy.get_config() == first.get_config()
