"""Reading TensorFlow 1 checkpoints of the 2019 code: kinds, prefixes, refusals."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.shuffledet import ShuffleDet
from fgfi_tf.models.shuffledet import tf1_weights as tf1_shuffledet

SMALL = {"input_size": (32, 32)}


def write_checkpoint(folder, arrays, name="model.ckpt-7"):
    """A TF1 checkpoint, written by a TF1 session as the 2019 code did."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(key, initializer=value) for key, value in arrays.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.train.Saver(variables).save(session, str(folder / name), write_meta_graph=False)


def reference_arrays(model, seed=0, prefix=""):
    """Random values under the reference's names, in the reference's (unshuffled) order."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, conv in model.backbone.convolutions().items():
        arrays[f"{prefix}{name}/W"] = rng.normal(0, 0.1, conv.kernel.shape).astype(np.float32)
        for key in ("gamma", "beta", "mean/EMA", "variance/EMA"):
            arrays[f"{prefix}{name}/bn/{key}"] = rng.uniform(0.5, 1.5, conv.norm.gamma.shape).astype(
                np.float32
            )
    arrays[f"{prefix}conv12/kernels"] = rng.normal(0, 0.1, model.head.kernel.shape).astype(np.float32)
    arrays[f"{prefix}conv12/biases"] = rng.normal(0, 0.1, model.head.bias.shape).astype(np.float32)
    return arrays


def test_training_checkpoint_with_slots_teacher_and_adaptation(tmp_path):
    student, teacher = ShuffleDet("shuffledet_0.25x", **SMALL), ShuffleDet("shuffledet_1x", **SMALL)
    arrays = reference_arrays(student, seed=1)
    arrays |= {f"{name}/Momentum": np.ones_like(value) for name, value in arrays.items()}
    arrays |= reference_arrays(teacher, seed=2, prefix=tf1_shuffledet.TEACHER_PREFIX)
    arrays["global_step"] = np.int64(7)
    arrays["adaptation/conv/kernels"] = np.full([3, 3, 192, 768], 0.5, np.float32)
    arrays["adaptation/conv/biases"] = np.full([768], 0.25, np.float32)
    path = write_checkpoint(tmp_path, arrays)

    tf1_shuffledet.load(student, path)
    tf1_shuffledet.load(teacher, path, prefix=tf1_shuffledet.TEACHER_PREFIX)
    for model, prefix in ((student, ""), (teacher, tf1_shuffledet.TEACHER_PREFIX)):
        np.testing.assert_array_equal(model.head.bias, arrays[f"{prefix}conv12/biases"])
        unit = model.backbone.convolutions()["group2/block1/conv1"]
        gamma = arrays[f"{prefix}group2/block1/conv1/bn/gamma"]
        # Channel (group 1, member 2) of three groups is shuffled to 2 * 3 + 1.
        assert unit.norm.gamma[2 * 3 + 1] == gamma[len(gamma) // 3 + 2]
        depthwise = model.backbone.convolutions()["group2/block1/dconv"]
        np.testing.assert_array_equal(depthwise.norm.beta, arrays[f"{prefix}group2/block1/dconv/bn/beta"])

    layer = ImitationLoss((768,))
    layer.build([(None, None, None, 192)])
    tf1_shuffledet.load_adaptation(layer, path)
    assert float(tf.reduce_mean(layer.kernels[0])) == 0.5 and float(layer.biases[0][3]) == 0.25
    assert tf1_shuffledet.is_reference_checkpoint(path)
    one_class = ShuffleDet("shuffledet_0.25x", **{**SMALL, "class_names": ("a",)})
    with pytest.raises(UserError, match="conv12") as raised:  # the student's misfit, not its teacher's
        one_class.load_trained(path)
    assert tf1_shuffledet.TEACHER_PREFIX not in str(raised.value)


def test_backbone_only_leaves_the_rest(tmp_path):
    model = ShuffleDet("shuffledet_0.25x", **SMALL)
    arrays = {k: v for k, v in reference_arrays(model).items() if not k.startswith(("added3", "conv12"))}
    path = write_checkpoint(tmp_path, arrays)
    before = model.head.kernel.numpy()
    tf1_shuffledet.load(model, path, backbone_only=True)
    assert len(arrays) == 43 * 5
    for name, conv in model.backbone.convolutions().items():
        if not name.startswith("added3"):
            np.testing.assert_array_equal(conv.kernel, arrays[f"{name}/W"])
    np.testing.assert_array_equal(model.head.kernel, before)
    with pytest.raises(UserError, match="lacks 32 of 247 variables: .* it looks like a backbone"):
        tf1_shuffledet.load(model, path)


def test_another_models_checkpoint_is_refused_and_nothing_changes(tmp_path):
    half, quarter = ShuffleDet("shuffledet_0.5x", **SMALL), ShuffleDet("shuffledet_0.25x", **SMALL)
    path = write_checkpoint(tmp_path, reference_arrays(half))
    before = [v.numpy() for v in quarter.variables]
    with pytest.raises(UserError, match="does not hold a shuffledet_0.25x: .* the model has"):
        tf1_shuffledet.load(quarter, path)
    for old, variable in zip(before, quarter.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_values_of_another_type_are_refused(tmp_path):
    model = ShuffleDet("shuffledet_0.25x", **SMALL)
    arrays = reference_arrays(model)
    arrays["conv12/biases"] = np.array([b"x"] * len(arrays["conv12/biases"]))
    path = write_checkpoint(tmp_path, arrays)
    with pytest.raises(UserError, match="conv12/biases is object .*, the model has float32"):
        tf1_shuffledet.load(model, path)


def test_missing_and_unreadable_files_are_named(tmp_path):
    model = ShuffleDet("shuffledet_0.25x", **SMALL)
    with pytest.raises(UserError, match="cannot read the checkpoint .*nothing-7"):
        tf1_shuffledet.load(model, tmp_path / "nothing-7")
    assert not tf1_shuffledet.is_reference_checkpoint(tmp_path / "nothing-7")
    path = write_checkpoint(tmp_path, reference_arrays(model))
    layer = ImitationLoss((768,))
    layer.build([(None, None, None, 192)])
    with pytest.raises(
        UserError, match="lacks 2 of 2 variables: adaptation/conv/kernels, adaptation/conv/biases"
    ):
        tf1_shuffledet.load_adaptation(layer, path)


def test_truncated_data_is_refused(tmp_path):
    model = ShuffleDet("shuffledet_0.25x", **SMALL)
    path = write_checkpoint(tmp_path, reference_arrays(model))
    data = tmp_path / "model.ckpt-7.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        tf1_shuffledet.load(model, path)
