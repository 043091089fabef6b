"""The FPN detector against torchvision's arrays: every part, with torchvision's weights."""

import re

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry.anchors import centred_cell
from fgfi_tf.models.backbones import resnet_weights
from fgfi_tf.models.backbones.fpn import FPN
from fgfi_tf.models.backbones.resnet import Layout, ResNet
from fgfi_tf.models.faster_rcnn import (
    FasterRCNNConfig,
    PyramidFasterRCNN,
    assembly,
    box_coding,
    detector_files,
    losses,
    proposal_targets,
    proposals,
    roi_align,
    rpn_targets,
)
from fgfi_tf.models.faster_rcnn.conventions import CONVENTIONS

RULES = CONVENTIONS["torchvision"]
PRE_NMS = 200  # as the README of the arrays says
LEVELS = (2, 3, 4, 5, 6)


def channels_last(array):
    return tf.constant(np.moveaxis(array, -3, -1))


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module", name="golden")
def golden_fixture(shared_path):
    names = ("forward", "weights", "training", "anchors")
    return {name: dict(np.load(shared_path(f"golden/fpn/{name}.npz"))) for name in names}


def detector_of(golden, **changes):
    """A detector of the sizes that the weights have."""
    weights, forward = golden["weights"], golden["forward"]
    stages = [
        {key.split(".")[3] for key in weights if key.startswith(f"backbone.body.layer{n}.")}
        for n in range(1, 5)
    ]
    trunk = ResNet(
        Layout(tuple(len(blocks) for blocks in stages)),
        width=len(weights["backbone.body.conv1.weight"]) / 64,
        taps=(2, 3, 4, 5),
        norm="frozen",
    )
    base = FPN(trunk, len(weights["backbone.fpn.layer_blocks.0.0.bias"]))
    proposals = len(forward["proposals0"])
    limits = {
        "train_pre_nms": PRE_NMS,
        "train_post_nms": proposals,
        "test_pre_nms": PRE_NMS,
        "test_post_nms": proposals,
        "max_detections": len(forward["det_boxes0"]),
    }
    config = FasterRCNNConfig(
        backbone="resnet50",
        neck="fpn",
        resnet_style="torchvision",
        convention="torchvision",
        head_units=len(weights["roi_heads.box_head.fc6.bias"]),
        class_names=tuple(
            f"class {n}" for n in range(len(weights["roi_heads.box_predictor.cls_score.bias"]) - 1)
        ),
        **{**RULES.defaults, **limits, **changes},
    )
    levels = assembly.levels(config, base.strides)
    return PyramidFasterRCNN(config, backbone=base, levels=levels, roi_levels=4)


@pytest.fixture(scope="module", name="detector")
def detector_fixture(golden):
    detector = detector_of(golden)
    targets = detector_files.torchvision_targets(detector)
    resnet_weights.fill(targets, golden["weights"], "weights.npz", "torchvision's")
    return detector


def batch_of(golden):
    forward, training = golden["forward"], golden["training"]
    sizes = forward["image_sizes_hw"]
    count = max(len(training[f"gt_boxes{i}"]) for i in range(len(sizes)))
    boxes = np.zeros([len(sizes), count, 4], np.float32)
    classes, valid = np.zeros([len(sizes), count], np.int32), np.zeros([len(sizes), count], bool)
    images = np.zeros([*forward["batch"].shape[:1], *forward["batch"].shape[2:], 3], np.uint8)
    for i, (height, width) in enumerate(sizes):
        own = training[f"gt_boxes{i}"]
        boxes[i, : len(own)], valid[i, : len(own)] = own - [0, 0, 1, 1], True
        classes[i, : len(own)] = training[f"gt_labels{i}"] - 1
        images[i, :height, :width] = forward[f"image{i}_uint8"]
    return {
        "image": tf.constant(images),
        "boxes": tf.constant(boxes),
        "classes": tf.constant(classes),
        "valid": tf.constant(valid),
        "content_size": tf.constant(sizes, tf.float32),
        "image_size": tf.constant(sizes, tf.int32),
        "scale": tf.ones([len(sizes), 2]),
        "seed": tf.constant([1, 2]),
    }


def outputs_of(golden):
    """The proposal network's outputs as torchvision computed them."""
    forward = golden["forward"]
    return {
        "features": tuple(channels_last(forward[f"P{level}"]) for level in LEVELS),
        "rpn_scores": tuple(channels_last(forward[f"rpn_logits_P{level}"]) for level in LEVELS),
        "rpn_deltas": tuple(channels_last(forward[f"rpn_deltas_P{level}"]) for level in LEVELS),
        "input_size": tf.constant(forward["batch"].shape[2:]),
    }


def test_pixels_and_maps(golden, detector, run_mode):
    forward = golden["forward"]
    prepared = detector.prepare_images(batch_of(golden))
    inputs = detector.preprocess(prepared["image"])
    np.testing.assert_allclose(inputs, channels_last(forward["batch"]), atol=1e-5)
    trunk, outputs = run_mode(lambda x: (detector.trunk(x), detector(x)))(inputs)
    assert relative(trunk[0][:, ::2, ::2], channels_last(forward["C2_sub2"])) < 1e-4
    for level, features in zip((3, 4, 5), trunk[1:], strict=True):
        assert relative(features, channels_last(forward[f"C{level}"])) < 1e-4
    expected = outputs_of(golden)
    for name in ("features", "rpn_scores", "rpn_deltas"):
        for found, wanted in zip(outputs[name], expected[name], strict=True):
            assert relative(found, wanted.numpy()) < 1e-4, name


def test_the_folded_copy_computes_the_same(golden, detector):
    inputs = channels_last(golden["forward"]["batch"])
    base = FPN(
        ResNet(detector.trunk.kind, width=len(golden["weights"]["backbone.body.conv1.weight"]) / 64,
               taps=(2, 3, 4, 5), folded=True),
        detector.feature_channels[0],
    )  # fmt: skip
    base(inputs)
    base.fold_from(detector.base)
    for found, level in zip(base(inputs), LEVELS, strict=True):
        assert relative(found, channels_last(golden["forward"][f"P{level}"]).numpy()) < 1e-4


def test_anchors(golden, detector):
    for found, level in zip(detector.anchors(outputs_of(golden)), LEVELS, strict=True):
        np.testing.assert_array_equal(found, golden["anchors"][f"anchors_P{level}"])
    size = golden["forward"]["batch"].shape[2:]
    for found, level in zip(detector.imitation_anchors(*size), LEVELS, strict=True):
        np.testing.assert_array_equal(tf.reshape(found, [-1, 4]), golden["anchors"][f"anchors_P{level}"])
    ratios, sizes = [0.5, 1.0, 2.0], [32.0 * 2**n for n in range(5)]
    for rounded in ("rounded", "unrounded"):
        cells = [centred_cell([size], ratios, rounded == "rounded") for size in sizes]
        np.testing.assert_allclose(cells, golden["anchors"][f"base_anchors_{rounded}"], rtol=1e-6)


def test_anchors_of_an_input_that_is_no_multiple_of_64(detector):
    """torchvision's stride is the input's pixels by the map's positions: 160 // 3 = 53 on P6, not 64."""
    *_, anchors = detector.imitation_anchors(160, 128)
    assert anchors.shape == (3, 2, 3, 4)
    np.testing.assert_array_equal(anchors[1, 1] - anchors[0, 0], [[64, 53, 64, 53]] * 3)


def test_proposals_scores_and_detections(golden, detector, run_mode):
    forward, batch = golden["forward"], batch_of(golden)
    outputs, config = outputs_of(golden), detector.config

    def second_stage(content):
        regions = detector.propose(outputs, content, PRE_NMS, config.test_post_nms)
        return regions, detector.classify(outputs, regions.boxes, content), detector.detect(outputs, batch)

    regions, (scores, deltas), found = run_mode(second_stage)(batch["content_size"])
    classes, count = 1 + len(config.class_names), config.test_post_nms
    assert relative(tf.reshape(scores, [-1, classes]), forward["class_logits"]) < 5e-4
    assert relative(tf.reshape(deltas, [-1, 4 * classes]), forward["box_regression"]) < 5e-4
    for image in range(len(forward["image_sizes_hw"])):
        assert regions.count[image] == count
        np.testing.assert_allclose(regions.boxes[image], forward[f"proposals{image}"], atol=2e-3)
        boxes, labels = forward[f"det_boxes{image}"], forward[f"det_labels{image}"]
        assert found["count"][image] == len(boxes)
        np.testing.assert_array_equal(found["classes"][image] + 1, labels)
        np.testing.assert_allclose(found["scores"][image], forward[f"det_scores{image}"], atol=1e-4)
        np.testing.assert_allclose(forms.continuous(found["boxes"][image]), boxes, atol=5e-3)


def test_pooled_features_and_hidden_layers(golden, detector):
    forward = golden["forward"]
    rois = tf.stack([forward["proposals0"], forward["proposals1"]])
    kind, strides = detector.config.roi_pooling, [level.stride for level in detector.levels[:4]]
    pooled = roi_align.align_over_levels(outputs_of(golden)["features"][:4], rois, kind, 7, strides, 2)
    first = forward["pooled_first4"].shape[1]
    np.testing.assert_allclose(pooled[:, :first], channels_last(forward["pooled_first4"]), atol=1e-4)
    hidden = tf.reshape(pooled, [-1, np.prod(pooled.shape[2:])])
    for name in ("fc6", "fc7"):
        hidden = getattr(detector.head, name)(hidden)
        assert relative(hidden, forward[name]) < 1e-4


def test_small_boxes_are_dropped_after_the_best_were_taken(detector):
    """torchvision takes the best of a level first: what is too small leaves its place empty."""
    scores = [tf.constant([[0.9, 0.8, 0.7]])]
    boxes = [tf.constant([[[0.0, 0, 8, 8], [5, 5, 5, 9], [20, 20, 30, 30]]])]
    for kind in ("combined", "padded"):
        found = proposals.propose(scores, boxes, 2, 2, kind=kind, inclusive=False, smallest=1e-3)
        assert found.count[0] == 1
        np.testing.assert_array_equal(found.boxes, [[[0, 0, 8, 8], [0, 0, 0, 0]]])


def test_boxes_are_coded_as_torchvision_does(shared_path):
    golden = np.load(shared_path("golden/fpn/box_coder.npz"))
    for weights in ("1111", "10_10_5_5"):
        deviations = [1 / float(weight) for weight in (weights.split("_") if "_" in weights else weights)]
        found = box_coding.encode(golden["boxes"], golden["truths"], deviations, RULES)
        np.testing.assert_allclose(found, golden[f"encoded_{weights}"], rtol=1e-4, atol=1e-4)
        given = tf.constant(golden[f"decode_input_{weights}"])
        found = box_coding.decode(golden["boxes"], given, deviations, RULES)
        np.testing.assert_allclose(found, golden[f"decoded_{weights}"], rtol=1e-6, atol=1e-3)


def labels_of(golden, batch):
    anchors = np.concatenate([golden["anchors"][f"anchors_P{level}"] for level in LEVELS])
    return rpn_targets.assign(
        tf.constant(anchors), RULES.truth(batch["boxes"]), batch["valid"], batch["content_size"], RULES
    )


def test_targets_of_the_proposal_network(golden, run_mode):
    training, batch = golden["training"], batch_of(golden)
    found = run_mode(lambda: labels_of(golden, batch))()
    for image in range(2):
        np.testing.assert_array_equal(found.labels[image], training[f"rpn_labels{image}"])
        own = tf.gather(found.deltas[image], training[f"rpn_positive_index{image}"])
        np.testing.assert_allclose(own, training[f"rpn_positive_targets{image}"], rtol=1e-5, atol=1e-5)
    without = rpn_targets.assign(
        tf.constant(golden["anchors"]["anchors_P5"]),
        tf.ones([1, 2, 4]),
        tf.zeros([1, 2], bool),
        batch["content_size"][:1],
        RULES,
    )
    assert not without.labels.numpy().any()


def sampled_labels(golden):
    training = golden["training"]
    labels = np.full([2, len(training["rpn_labels0"])], -1, np.int32)
    for image in range(2):
        labels[image, training[f"rpn_sampled_pos{image}"]] = 1
        labels[image, training[f"rpn_sampled_neg{image}"]] = 0
    return tf.constant(labels)


def test_losses_of_the_proposal_network(golden, run_mode):
    training, outputs = golden["training"], outputs_of(golden)
    labels, targets = sampled_labels(golden), labels_of(golden, batch_of(golden)).deltas

    @run_mode
    def step(scores, deltas):
        with tf.GradientTape() as tape:
            tape.watch((scores, deltas))
            of_class = losses.rpn_class_loss(scores, labels, RULES)
            of_box = losses.rpn_box_loss(deltas, targets, labels, RULES)
            total = of_class + of_box
        return of_class, of_box, tape.gradient(total, (scores, deltas))

    of_class, of_box, (by_score, by_delta) = step(outputs["rpn_scores"], outputs["rpn_deltas"])
    np.testing.assert_allclose(of_class, training["rpn_objectness_loss"], rtol=1e-5)
    np.testing.assert_allclose(of_box, training["rpn_box_loss"], rtol=1e-5)
    by_score = tf.concat([tf.reshape(level, [2, -1]) for level in by_score], axis=1).numpy()
    by_delta = tf.concat([tf.reshape(level, [2, -1, 4]) for level in by_delta], axis=1).numpy()
    for image in range(2):
        rows = np.sort(np.concatenate([training[f"rpn_sampled_{kind}{image}"] for kind in ("pos", "neg")]))
        np.testing.assert_allclose(
            by_score[image, rows], training[f"rpn_grad_logits_at_sampled{image}"], rtol=1e-4, atol=1e-8
        )
        positive = np.sort(training[f"rpn_sampled_pos{image}"])
        np.testing.assert_allclose(
            by_delta[image, positive], training[f"rpn_grad_deltas_at_pos{image}"], rtol=1e-4, atol=1e-7
        )
        by_score[image, rows], by_delta[image, positive] = 0, 0
    assert not by_score.any() and not by_delta.any()


def test_targets_and_losses_of_the_head(golden, run_mode):
    training, labels, targets = golden["training"], [], []
    for image in range(2):
        truth = tf.constant(training[f"gt_boxes{image}"])[None]
        rois = tf.constant(training[f"roi_boxes{image}"])[None]
        valid = tf.ones(truth.shape[:2], bool)
        count = tf.constant([rois.shape[1]])
        found = run_mode(lambda *given: proposal_targets.match(*given, rules=RULES))(
            rois, truth, valid, count
        )
        # the ground truth, which the function adds, is among the given rows already
        best, iou = found.best_truth[0, : rois.shape[1]], found.best_iou[0, : rois.shape[1]]
        classes = tf.where(iou >= 0.5, tf.gather(training[f"gt_labels{image}"], best), 0)
        np.testing.assert_array_equal(classes, training[f"roi_labels{image}"])
        foreground = classes > 0
        np.testing.assert_array_equal(best[foreground], training[f"roi_matched_gt{image}"][foreground])
        deltas = proposal_targets.normalized_deltas(rois[0], tf.gather(truth[0], best), RULES)
        np.testing.assert_allclose(
            deltas[foreground], training[f"roi_targets{image}"][foreground], rtol=1e-4, atol=1e-4
        )
        sampled = training[f"roi_sampled{image}"]
        labels.append(training[f"roi_labels{image}"][sampled])
        targets.append(training[f"roi_targets{image}"][sampled])
    labels, targets = tf.constant(np.stack(labels)), tf.constant(np.stack(targets))
    shape = [*labels.shape, -1]
    scores = tf.reshape(training["head_class_logits"], shape)
    deltas = tf.reshape(training["head_box_regression"], shape)
    with tf.GradientTape() as tape:
        tape.watch((scores, deltas))
        of_class = losses.rcnn_class_loss(scores, labels)
        of_box = losses.rcnn_box_loss(deltas, targets, labels, RULES)
        total = of_class + of_box
    np.testing.assert_allclose(of_class, training["head_class_loss"], rtol=1e-5)
    np.testing.assert_allclose(of_box, training["head_box_loss"], rtol=1e-5)
    for found, name in zip(
        tape.gradient(total, (scores, deltas)), ("class_logits", "box_regression"), strict=True
    ):
        expected = training[f"head_grad_{name}"]
        np.testing.assert_allclose(
            tf.reshape(found, expected.shape), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max()
        )


def test_a_training_step(golden, detector, run_mode):
    """All trained variables have a gradient, the stem, C2 and batch norm are none of them."""
    batch = batch_of(golden)

    @run_mode
    def step():
        with tf.GradientTape() as tape:
            outputs = detector(detector.preprocess(batch["image"]), training=True, seed=batch["seed"])
            found = detector.detection_losses(outputs, batch)
            total = tf.add_n(list(found.values()))
        return found, tape.gradient(total, detector.trainable_variables)

    found, gradients = step()
    assert set(found) == set(detector.loss_names) and all(value > 0 for value in found.values())
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)
    assert not [v.name for v in detector.trainable_variables if re.search("gamma|beta|moving", v.name)]
