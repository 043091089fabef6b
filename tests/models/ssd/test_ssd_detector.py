"""SSD as a detector: network, parameters, targets, losses, detections, what is imitated."""

import numpy as np
import pytest
import tensorflow as tf
from ssd_fixtures import WIDTH, batch_of, golden, tiny

from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.models.ssd import default_boxes, losses, weights
from fgfi_tf.models.ssd.network import L2Normalization


def parameters(variant, classes, width=1.0):
    """Counted on the shapes alone: 26 million weights need not be drawn."""
    stages = {"vgg16": (2, 2, 3, 3, 3), "vgg11": (1, 1, 2, 2, 2)}[variant]
    total, before = 0, 3

    def conv(size, channels):
        nonlocal total, before
        total, before = total + size * size * before * channels + channels, channels

    def of(channels):
        return max(1, round(channels * width))

    sources = []
    for count, channels in zip(stages, (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            conv(3, of(channels))
        if channels == 512:
            sources.append(before)
    conv(3, of(1024))
    conv(1, of(1024))
    sources = [sources[0], before]
    for narrow, wide in ((256, 512), (128, 256), (128, 256), (128, 256)):
        conv(1, of(narrow))
        conv(3, of(wide))
        sources.append(before)
    total += sources[0]  # L2 normalisation
    for channels, boxes in zip(sources, (4, 6, 6, 6, 4, 4), strict=True):
        before = channels
        conv(3, boxes * (4 + classes + 1))
    return total


@pytest.mark.parametrize("classes, published", [(20, 26_285_486), (90, 35_641_826), (3, 24_013_232)])
def test_published_parameters_by_hand(classes, published):
    assert parameters("vgg16", classes) == published


@pytest.mark.parametrize("variant, width", [("vgg16", WIDTH), ("vgg11", 0.25)])
def test_parameters_of_the_network(variant, width):
    model = registry.build(
        f"ssd300_{variant}", input_size=(300, 300), class_names=("a", "b", "c"), width=width
    )
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == parameters(variant, 3, width)
    assert not model.non_trainable_variables
    assert model.feature_strides == (8, 16, 32, 64, 100, 300)


def test_forward_golden(shared_path, run_mode):
    state, expected = golden(shared_path, "weights"), golden(shared_path, "forward")
    classes = expected["concat_logits"].shape[-1] - 1
    model = tiny(class_names=[str(i) for i in range(classes)])
    weights.load_state(model, {name: state[name] for name in state.files}, "weights.npz")
    inputs = model.preprocess(tf.constant(expected["image_uint8"][None]))
    outputs = run_mode(model)(inputs)
    maps = [np.transpose(m, [0, 3, 1, 2]) for m in outputs["features"]]
    named = {"conv4_3_normalised_sub2": maps[0][:, :, ::2, ::2], "source_fc7": maps[1]}
    named |= {f"source_conv{number}_2": maps[number - 4] for number in range(6, 10)}
    named |= {"concat_logits": outputs["logits"], "concat_offsets": outputs["offsets"]}
    for name, found in named.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-4 * scale, err_msg=name)
    for found, features in zip(run_mode(model.imitation_features)(inputs), outputs["features"], strict=True):
        np.testing.assert_allclose(found, features, rtol=1e-5, atol=1e-5)


def test_normalisation_by_hand(run_mode):
    layer = L2Normalization()
    layer.build([None, 1, 2, 2])
    inputs = tf.constant([[[[3.0, 4.0], [0.0, 0.0]]]])

    @run_mode
    def compute(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            found = layer(inputs)
        return found, tape.gradient(found, inputs)

    layer.scale.assign([10.0, 20.0])
    found, gradient = compute(inputs)
    np.testing.assert_allclose(found, [[[[6.0, 16.0], [0.0, 0.0]]]], rtol=1e-6)
    # s_i (d_ij - x_i x_j) / norm, summed over i: of unit (0.6, 0.8), 10 (1 - .36, -.48) + 20 (-.48, 1 - .64).
    np.testing.assert_allclose(gradient[0, 0, 0], [(6.4 - 9.6) / 5, (-4.8 + 7.2) / 5], rtol=1e-4)
    assert not gradient[0, 0, 1].numpy().any()


@pytest.mark.parametrize("size", [(257, 300), (300, 420)])
def test_default_boxes_fit_the_maps_of_any_input(size):
    model = tiny(input_size=size)
    outputs = model(tf.zeros([1, *size, 3]))
    assert outputs["offsets"].shape[1] == len(model.defaults)
    for anchors, features in zip(model.imitation_anchors(*size), outputs["features"], strict=True):
        assert anchors.shape[:2] == features.shape[1:3]
    # The smallest square is square in pixels, and 30 of 300 of the shorter side.
    shortest = min(size)
    np.testing.assert_allclose(
        model.imitation_anchors(*size)[0][0, 1, 0],
        [12 - shortest / 20, 4 - shortest / 20, 12 + shortest / 20, 4 + shortest / 20],
        atol=1e-4,
    )


def test_maps_of_300_pixels():
    assert default_boxes.map_sizes(300) == (38, 19, 10, 5, 3, 1)
    assert default_boxes.steps(300) == (8, 16, 32, 64, 100, 300)
    assert default_boxes.map_sizes(257) == (33, 17, 9, 5, 3, 1)


def test_each_map_has_its_anchors_and_sizes():
    model = tiny(default_boxes="coco")
    anchors = model.imitation_anchors(300, 300)
    assert [tuple(grid.shape) for grid in anchors] == [
        (38, 38, 4, 4),
        (19, 19, 6, 4),
        (10, 10, 6, 4),
        (5, 5, 6, 4),
        (3, 3, 4, 4),
        (1, 1, 4, 4),
    ]
    np.testing.assert_allclose(anchors[1][0, 2, 0], [40 - 22.5, 8 - 22.5, 40 + 22.5, 8 + 22.5], atol=1e-4)
    assert model.imitation_sizes() == (21, 45, 99, 153, 207, 261)


def test_targets_and_losses_of_a_batch(run_mode):
    """The one object is a default box, 96 pixels from 12 and 6: of map 1, its position (row 3, column 4)."""
    model = tiny()
    # the smallest square of 60 pixels of the second map, centred at (72, 56)
    batch = batch_of([[42, 26, 101, 85]], [1])
    prepared = run_mode(model.prepare_batch)(batch)
    labels = prepared["targets"]["labels"][0].numpy()
    at = 38 * 38 * 4 + (3 * 19 + 4) * 6
    assert labels[at] == 2 and set(labels) == {0, 2}
    np.testing.assert_allclose(prepared["targets"]["offsets"][0, at], [0, 0, 0, 0], atol=1e-4)
    count = int((labels > 0).sum())
    assert prepared["positives"].numpy().tolist() == [count]
    outputs = {
        "logits": tf.zeros([1, len(labels), 4]),
        "offsets": prepared["targets"]["offsets"] + tf.constant([0.5, 0, 0, 0]),
    }
    found = run_mode(model.detection_losses)(outputs, prepared)
    # Equal scores of four classes at the positives and three times as many others.
    assert float(found["class_loss"]) == pytest.approx(4 * np.log(4), rel=1e-5)
    assert float(found["box_loss"]) == pytest.approx(0.5 * 0.25, rel=1e-5)
    bare = model.detection_losses(outputs, batch)
    assert float(bare["class_loss"]) == pytest.approx(float(found["class_loss"]), rel=1e-6)


def test_a_batch_without_objects_has_no_loss_and_no_gradient(run_mode):
    model = tiny()
    batch = batch_of([[0, 0, 0, 0]], [0], valid=False)

    @run_mode
    def compute(images):
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            found = model.detection_losses(outputs, model.prepare_batch(batch))
            loss = tf.add_n(list(found.values()))
        return loss, tape.gradient(loss, model.heads.trainable_variables)

    loss, gradients = compute(model.preprocess(batch["image"]))
    assert float(loss) == 0
    assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("rule, expected", [("bipartite", [1, 2]), ("each_best", [2])])
def test_the_matching_rule_is_an_option(rule, expected):
    """Two objects alike, smaller than every default box: the later has the best, or each its own."""
    model = tiny(matching=rule)
    prepared = model.prepare_batch(batch_of([[40, 40, 52, 52], [40, 40, 52, 52]], [0, 1]))
    labels = prepared["targets"]["labels"].numpy()
    assert sorted(labels[labels > 0]) == expected


def test_detections_are_in_pixels_of_the_file(run_mode):
    model = tiny()
    logits = np.full([2, len(model.defaults), 4], [9.0, 0, 0, 0], np.float32)
    at = 38 * 38 * 4 + (3 * 19 + 4) * 6  # 42..102 x 26..86 of 300
    logits[0, at] = [0, 0, 9.0, 0]
    batch = {"scale": tf.constant([[0.5, 2.0]] * 2), "image_size": tf.constant([[600, 150]] * 2)}
    outputs = {"logits": tf.constant(logits), "offsets": tf.zeros([2, len(model.defaults), 4])}
    found = run_mode(model.detect)(outputs, batch)
    assert found["count"].numpy().tolist() == [1, 0]
    np.testing.assert_allclose(found["boxes"][0, 0], [21, 52, 50, 171], atol=1e-3)
    assert int(found["classes"][0, 0]) == 1
    assert not found["boxes"][:, 1:].numpy().any() and not found["boxes"][1].numpy().any()


def test_a_detection_has_at_least_a_pixel():
    """Of a file a third as large, the smallest square of 30 pixels, shrunk to 1.5, is half a pixel wide."""
    model = tiny()
    logits, offsets = np.full([1, len(model.defaults), 4], [9.0, 0, 0, 0], np.float32), np.zeros([1, 8732, 4])
    logits[0, 8], offsets[0, 8] = [0, 9.0, 0, 0], [0, 0, np.log(1 / 20) / 0.2, 0]  # at (20, 4)
    batch = {"scale": tf.constant([[3.0, 3.0]]), "image_size": tf.constant([[100, 100]])}
    outputs = {"logits": tf.constant(logits), "offsets": tf.constant(offsets, tf.float32)}
    found = model.detect(outputs, batch)
    left = (20 - 0.75) / 3
    np.testing.assert_allclose(found["boxes"][0, 0], [left, 0, left, 19 / 3 - 1], atol=1e-3)


def test_detections_end_with_a_letterboxed_picture():
    model = tiny()
    logits = np.full([1, len(model.defaults), 4], [9.0, 0, 0, 0], np.float32)
    logits[0, -1] = [0, 9.0, 0, 0]  # 56.7..243.3 x -36.7..336.7
    batch = {"scale": tf.constant([[1.0, 1.0]]), "image_size": tf.constant([[150, 200]])}
    found = model.detect(
        {"logits": tf.constant(logits), "offsets": tf.zeros([1, len(model.defaults), 4])}, batch
    )
    np.testing.assert_allclose(found["boxes"][0, 0], [150 - 264 / 8**0.5, 0, 199, 149], atol=1e-3)


def test_biases_learn_at_the_double_rate_and_do_not_decay():
    model = tiny(weight_decay=0.25)
    rules = {
        v.name: (model.learning_rate_multiplier(v), model.decay_rate(v)) for v in model.trainable_variables
    }
    assert {rule for name, rule in rules.items() if "bias" in name} == {(2.0, 0.0)}
    assert {rule for name, rule in rules.items() if "bias" not in name} == {(1.0, 0.25)}
    assert any("scale" in name for name in rules)


def test_objects_unlike_every_default_box():
    model = tiny()
    small = np.tile([[8.0, 8.0]], [3, 1])
    assert "no anchor is like 3 of the 4 training objects" in model.anchor_misfit(
        np.concatenate([small, [[30, 30]]]), np.array([[300, 300]])
    )
    assert model.anchor_misfit(np.array([[30.0, 30.0], [250, 120]]), np.array([[300, 300]])) == ""
    assert model.anchor_misfit(np.zeros([0, 2]), np.array([[300, 300]])) == ""


def test_inputs_that_are_too_small():
    with pytest.raises(UserError, match="^256x300: height and width must be at least 257 for SSD's"):
        tiny(input_size=(256, 300))


def test_the_best_of_equal_size_golden_through_the_detector(shared_path):
    """The detections of public code, in pixels of a picture of 300 x 300."""
    data, expected = golden(shared_path, "training"), golden(shared_path, "detections")
    classes = data["logits"].shape[-1] - 1
    model = tiny(class_names=[str(i) for i in range(classes)])
    outputs = {name: tf.constant(data[name][:1].astype(np.float32)) for name in ("logits", "offsets")}
    batch = {"scale": tf.ones([1, 2]), "image_size": tf.constant([[300, 300]])}
    found = model.detect(outputs, batch)
    count = int(found["count"][0])
    assert count == len(expected["scores"])
    np.testing.assert_allclose(found["scores"][0, :count], expected["scores"], atol=2e-6)
    assert losses.MAX_DETECTIONS == found["boxes"].shape[1]
