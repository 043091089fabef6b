"""Weights of torchvision's SSD, with all its keys."""

import numpy as np
import pytest
import tensorflow as tf
from pth_writer import save
from ssd_states import IN_CONV5, WIDTH, detector_state, same, tiny

from fgfi_tf.errors import UserError
from fgfi_tf.models import builtin, loading, registry
from fgfi_tf.models.ssd import default_boxes


def test_the_names_are_torchvisions(shared_path):
    theirs = np.load(shared_path("golden/ssd300/weights.npz"))
    ours = detector_state()
    assert {name: array.shape for name, array in ours.items()} == {
        name: theirs[name].shape for name in theirs.files
    }


@pytest.mark.parametrize("variant", ["vgg16", "vgg11"])
def test_a_state_dict_fills_every_variable(tmp_path, variant):
    state = detector_state(variant)
    save(dict(state), tmp_path / "ssd.pth")
    model = tiny(variant)
    for variable in model.variables:
        variable.assign(tf.fill(variable.shape, np.nan))
    loading.load_weights(model, tmp_path / "ssd.pth")
    assert all(np.isfinite(variable).all() for variable in model.variables)
    assert sum(v.shape.num_elements() for v in model.variables) == sum(a.size for a in state.values())
    # torchvision's boxes come with its weights, for evaluation and export too.
    maps, clipped = default_boxes.KINDS["torchvision"]
    np.testing.assert_array_equal(model.defaults, default_boxes.default_boxes(maps, clipped))
    assert model.metadata.options == {"width": WIDTH, "default_boxes": "torchvision"}
    same(model.backbone.vgg.convolutions[0].kernel, state["backbone.features.0.weight"])
    same(
        model.backbone.vgg.convolutions[-1].kernel,
        state[f"backbone.extra.0.{2 * IN_CONV5[variant] - 1}.weight"],
    )
    same(model.backbone.extras[3][1].kernel, state["backbone.extra.4.2.weight"])
    same(model.heads.logits[5].kernel, state["head.classification_head.module_list.5.weight"])
    np.testing.assert_array_equal(model.backbone.norm.scale, state["backbone.scale_weight"])


@pytest.mark.slow
def test_the_published_file_of_91_classes_at_full_size(tmp_path):
    """All keys and shapes of ssd300_vgg16_coco-b556d3b4.pth, which has 35,641,826 parameters."""
    state = detector_state(classes=90, width=1.0)
    assert sum(array.size for array in state.values()) == 35_641_826
    save(dict(state), tmp_path / "ssd.pth")
    names = [str(i) for i in range(90)]
    model = registry.build("ssd300_vgg16", input_size=(300, 300), class_names=names)
    loading.load_weights(model, tmp_path / "ssd.pth")
    assert sum(v.shape.num_elements() for v in model.trainable_variables) == 35_641_826
    same(model.heads.logits[2].kernel, state["head.classification_head.module_list.2.weight"])


def test_cocos_80_classes_are_taken_from_91(tmp_path):
    state = detector_state(classes=90)
    save(dict(state), tmp_path / "ssd.pth")
    model = tiny(class_names=builtin.COCO_CLASSES)
    loading.load_weights(model, tmp_path / "ssd.pth")
    # The second box of a position: background, person (1), and stop sign, the 12th class, whose number is 13.
    bias = model.heads.logits[0].bias.numpy()
    theirs = state["head.classification_head.module_list.0.bias"]
    assert builtin.COCO_CLASSES[11] == "stop sign"
    np.testing.assert_array_equal(bias[81 + np.array([0, 1, 12])], theirs[91 + np.array([0, 1, 13])])
    same(model.heads.offsets[0].kernel, state["head.regression_head.module_list.0.weight"])


def test_other_classes_start_from_it_and_are_told(tmp_path, caplog):
    state = detector_state(classes=5)
    save(dict(state), tmp_path / "ssd.pth")
    model = tiny()
    before = model.heads.logits[0].kernel.numpy()
    with pytest.raises(UserError, match=r"ssd.pth: detects 5 classes, not 3"):
        loading.load_weights(model, tmp_path / "ssd.pth")
    assert loading.load_initial_weights(model, tmp_path / "ssd.pth") == ""
    assert "of 5 classes: all but their predictions is loaded" in caplog.text
    assert "was trained with --default_boxes=torchvision" in caplog.text and model.box_kind == "voc"
    np.testing.assert_array_equal(model.heads.logits[0].kernel, before)
    same(model.heads.offsets[0].kernel, state["head.regression_head.module_list.0.weight"])


def changed(**entries):
    state = dict(detector_state())
    for name, value in entries.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    "state, message",
    [
        (
            changed(backbone__scale_weight=None),
            "not a state dict of ssd300_vgg16: it lacks backbone.scale_weight",
        ),
        (changed(backbone__scale_weight=np.ones(3, np.float32)), r"scale_weight is \(3,\), here \(32,\)"),
        (changed(**{"backbone__features__0__bias": None}), "it lacks backbone.features.0.bias"),
        (
            changed(**{"backbone__extra__5__0__weight": np.ones([1])}),
            "it also holds backbone.extra.5.0.weight",
        ),
        (
            changed(backbone__scale_weight=np.full(32, np.nan, np.float32)),
            "damaged: backbone.scale_weight holds values that are no finite numbers",
        ),
        (
            changed(**{"head__classification_head__module_list__0__weight": None}),
            "it lacks head.classification_head.module_list.0.weight",
        ),
        (detector_state(width=1 / 32), r"not a state dict of ssd300_vgg16: .*\(16,\), here \(32,\)"),
    ],
)
def test_files_that_do_not_fit_change_nothing(tmp_path, state, message):
    save(dict(state), tmp_path / "ssd.pth")
    model = tiny()
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(UserError, match=message):
        loading.load_weights(model, tmp_path / "ssd.pth")
    assert all(np.array_equal(a, b) for a, b in zip(before, model.variables, strict=True))
