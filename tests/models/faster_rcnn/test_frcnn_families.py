"""Faster R-CNNs by name on ResNets and other backbones: parts, parameters, options, sampling, replicas."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.geometry.anchors import rounded_cell
from fgfi_tf.models import builtin, registry
from fgfi_tf.models.backbones import pretrained
from fgfi_tf.models.backbones.efficientnet_lite import EfficientNetLite0
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.faster_rcnn import VARIANTS, FasterRCNNConfig, proposal_targets
from fgfi_tf.models.faster_rcnn.conventions import CONVENTIONS
from fgfi_tf.models.faster_rcnn.families import PyramidFasterRCNN
from fgfi_tf.models.faster_rcnn.levels import Level
from fgfi_tf.models.pixels import NORMALIZED

CLASSES = ("cat", "dog", "cow")
SMALL_FPN = {"width": 1 / 16, "fpn_channels": 8, "head_units": 16}


def build(name, classes=CLASSES, **options):
    size = registry.declaration(name).input_size
    return registry.build(name, input_size=size, class_names=classes, weight_decay=0.0001, **options)


def parameters(detector):
    """Batch norm's scales and shifts are counted."""
    return sum(v.shape.num_elements() for v in detector.variables if "moving" not in v.name)


def test_every_name_is_declared():
    declared = {name for name in registry.names() if name.startswith("faster_rcnn")}
    assert declared == set(VARIANTS)
    for name in VARIANTS:
        assert registry.detector_class(name).declaration is registry.declaration(name)


@pytest.mark.long
@pytest.mark.parametrize(
    "name, classes, options, expected",
    # Detectron2's, and what torchvision's deltas of the background, which nothing reads, take besides
    [
        ("faster_rcnn_resnet50", 80, {}, 33_844_764 + 4 * 2049),
        ("faster_rcnn_resnet101", 20, {"width": 0.5}, 13_155_536 + 4 * 1025),
    ],
)
def test_parameters_of_c4(name, classes, options, expected):
    names = tuple(map(str, range(classes)))
    assert parameters(build(name, names, convention="torchvision", **options)) == expected


def test_c4_in_the_references_convention():
    detector = build("faster_rcnn_resnet50", width=1 / 16)
    assert detector.feature_channels == (64,) and detector.levels[0].stride == 16
    assert detector.pixels == VGG.pixels and detector.resize == "shorter_side"
    assert detector.config.roi_batch == 128 and detector.config.detection_nms_iou == 0.3
    outputs = detector(tf.zeros([1, 72, 97, 3]))
    assert outputs["features"][0].shape == (1, 5, 7, 64)  # rounded up
    assert outputs["rpn_scores"][0].shape == (1, 5, 7, 18)
    assert detector.rpn.channels == 32  # 512 at full width, as in the 2019 code
    scores, deltas = detector.classify(outputs, tf.constant([[[0.0, 0, 40, 40]]]), tf.constant([[72.0, 97]]))
    assert scores.shape == (1, 1, 4) and deltas.shape == (1, 1, 16)
    pooled = detector.head.stage(tf.zeros([1, 7, 7, 64]))
    assert pooled.shape == (1, 4, 4, 128)
    (anchors,) = detector.imitation_anchors(72, 97)
    np.testing.assert_array_equal(anchors[0, 0, 3], [-56, -56, 72, 72])
    batch = {"content_size": tf.constant([[72.0, 97.0], [64.0, 65.0]])}
    (area,) = detector.imitation_valid_mask(batch, 72, 97)
    np.testing.assert_array_equal(tf.reduce_sum(tf.cast(area, tf.int32), [1, 2]), [35, 20])
    rates = {detector.learning_rate_multiplier(v) for v in detector.trainable_variables}
    assert rates == {1.0}
    decays = {"bias" in v.name: detector.decay_rate(v) for v in detector.trainable_variables}
    assert decays == {True: 0.0, False: 0.0001}
    twelve = build("faster_rcnn_resnet18", width=1 / 16, anchor_scales="4,8,16,32")
    assert twelve.levels[0].cell.shape == (12, 4)


def test_c4_in_torchvisions_convention():
    detector = build("faster_rcnn_resnet18", width=1 / 16, convention="torchvision")
    assert detector.levels[0].cell.shape == (15, 4) and detector.config.pooled_size == 14
    np.testing.assert_array_equal(detector.levels[0].cell[1], [-16, -16, 16, 16])
    assert detector(tf.zeros([1, 64, 64, 3]))["rpn_scores"][0].shape == (1, 4, 4, 15)
    assert detector.config.roi_batch == 512 and detector.rpn.channels == 16
    decays = {detector.decay_rate(v) for v in detector.trainable_variables}
    assert decays == {0.0001}


def test_fpn_has_torchvisions_choices():
    detector = build("faster_rcnn_resnet18_fpn", **SMALL_FPN)
    assert [level.stride for level in detector.levels] == [4, 8, 16, 32, 64]
    assert detector.pixels == NORMALIZED and detector.resize == "torchvision"
    assert detector.feature_channels == (8,) * 5 and detector.roi_levels == 4
    config = detector.config
    assert (config.roi_batch, config.rpn_batch, config.roi_foreground) == (512, 256, 0.25)
    assert (config.train_pre_nms, config.test_pre_nms) == (2000, 1000)
    assert (config.score_threshold, config.detection_nms_iou, config.max_detections) == (0.05, 0.5, 100)
    assert detector.anchor_misfit(np.ones((1, 2)), np.ones((1, 2))) == ""


@pytest.mark.parametrize(
    "name, published",
    [("faster_rcnn_vgg11", 256), ("faster_rcnn_resnet18", 128), ("faster_rcnn_resnet18_fpn", 512)],
)
def test_regions_of_an_image(name, published):
    for given, expected in ((0, published), (64, 64)):
        assert build(name, width=1 / 16, roi_batch=given).config.roi_batch == expected


def test_a_convention_is_a_whole():
    """Every field that tells code bases apart differs between the two but one, the RPN's smooth L1."""
    reference, torchvision = CONVENTIONS["reference"], CONVENTIONS["torchvision"]
    same = [name for name, value in vars(reference).items() if value == vars(torchvision)[name]]
    assert same == ["rpn_sigma"]


@pytest.mark.parametrize(
    ("name", "neck"),
    [
        ("efficientnet_lite0", ""),
        ("efficientnet_lite0", "_fpn"),
        ("mobilenet_v2", "_fpn"),
        pytest.param("mobilenet_v2", "", marks=pytest.mark.long),
        pytest.param("efficientnet_b0", "", marks=pytest.mark.long),
    ],
)
def test_other_backbones(name, neck):
    detector = build(f"faster_rcnn_{name}{neck}", fpn_channels=8, head_units=16)
    strides = [4, 8, 16, 32, 64] if neck else [16]
    assert [level.stride for level in detector.levels] == strides
    sizes = [features.shape[1:3] for features in detector(tf.zeros([1, 64, 96, 3]))["features"]]
    assert sizes == [(-(-64 // stride), -(-96 // stride)) for stride in strides]
    images = tf.random.stateless_normal([1, 64, 96, 3], [1, 2])
    copy = detector.inference_copy()
    for found, expected in zip(
        copy.imitation_features(images), detector.imitation_features(images), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert not any("moving" in v.name for v in copy.variables)


def test_all_five_stages_can_be_frozen():
    for stages, trained in ((4, True), (5, False)):
        detector = build("faster_rcnn_resnet18", width=1 / 16, frozen_stages=stages, norm="synchronised")
        learnt = {id(variable) for variable in detector.trainable_variables}
        assert bool(learnt & {id(variable) for variable in detector.head.stage.variables}) == trained
        assert not learnt & {id(variable) for variable in detector.trunk.variables}
        before = [v.numpy() for v in detector.head.stage.variables if "moving" in v.name]
        detector.head(tf.random.stateless_normal([1, 2, 7, 7, detector.feature_channels[0]], [1, 2]))
        after = [v.numpy() for v in detector.head.stage.variables if "moving" in v.name]
        assert before and all(map(np.array_equal, before, after))


def test_the_inference_copy_has_the_levels_that_were_given():
    config = FasterRCNNConfig(backbone="resnet18", neck="fpn", width=1 / 16, fpn_channels=8, head_units=16)
    strides = (4, 8, 16, 32, 64)
    levels = [Level(stride, rounded_cell(stride, scales=(2,)), rounds_up=True) for stride in strides]
    detector = PyramidFasterRCNN(config, levels=levels, roi_levels=2)
    copy = detector.inference_copy()
    assert copy.roi_levels == 2
    for found, expected in zip(
        copy.imitation_anchors(64, 96), detector.imitation_anchors(64, 96), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    images = tf.random.stateless_uniform([1, 64, 96, 3], [1, 2], maxval=255.0)
    for name, value in copy(copy.preprocess(images)).items():
        expected = tf.nest.flatten(detector(detector.preprocess(images))[name])
        for found, given in zip(tf.nest.flatten(value), expected, strict=True):
            np.testing.assert_allclose(found, given, atol=1e-3 * np.abs(given).max())


def test_frozen_statistics_of_other_backbones():
    """Scale and shift are learnt, by the stored statistics; with synchronised ones these follow the batch."""
    images = tf.random.stateless_normal([2, 64, 64, 3], [1, 2])
    for norm, moves in (("frozen", False), ("synchronised", True)):
        detector = build("faster_rcnn_efficientnet_lite0", fpn_channels=8, head_units=16, norm=norm)
        stem = detector.trunk.stem.norm
        before = stem.moving_mean.numpy()
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(detector(images, training=True)["features"][0] ** 2)
        assert np.abs(tape.gradient(total, stem.gamma)).max() > 0
        assert (not np.array_equal(before, stem.moving_mean)) == moves


def test_lite0_starts_from_the_file_of_the_quickstart(tmp_path):
    detector = build("faster_rcnn_efficientnet_lite0_fpn", fpn_channels=8, head_units=16)
    try:
        pretrained.lite0_file()
    except UserError as error:
        pytest.skip(str(error))
    assert detector.load_pretrained("imagenet")
    source = EfficientNetLite0()
    source(tf.zeros([1, 32, 32, 3]))
    source.load_pretrained("imagenet")
    mine = detector.trunk.convolutions()
    for name, conv in source.convolutions().items():
        np.testing.assert_array_equal(mine[name].kernel, conv.kernel)
    assert registry.is_pretrained("faster_rcnn_efficientnet_lite0", "imagenet")


def candidates(iou):
    """Candidates of the given IoUs [B,N] with one truth; box n is [n, n, n + 10, n + 10]."""
    iou = tf.constant(iou)
    corner = tf.broadcast_to(tf.range(iou.shape[1], dtype=tf.float32), iou.shape)[..., None]
    boxes = corner + tf.constant([0.0, 0, 10, 10])
    return proposal_targets.Candidates(boxes, iou, tf.zeros(iou.shape, tf.int32))


def test_distinct_regions_by_hand(run_mode):
    """Of 8, a quarter foreground: the two of the lowest numbers. Rows of IoU -1 are none."""
    iou = [[0.6, 0.1, 0.9, 0.5, 0.0, 0.2, -1.0, 0.3], [-1.0, -1, -1, 0.4, -1, -1, -1, -1]]
    priorities = tf.constant([0.5, 0.1, 0.4, 0.3, 0.2, 0.6, 0.0, 0.7])
    found = run_mode(
        lambda: proposal_targets.sample_distinct(
            candidates(iou), tf.constant([[[0.0, 0, 10, 10]]] * 2), tf.constant([[4], [4]]), priorities, 8,
            CONVENTIONS["torchvision"],
        )
    )()  # fmt: skip
    np.testing.assert_array_equal(found.labels, [[4, 4, 0, 0, 0, 0, -1, -1], [0] + [-1] * 7])
    np.testing.assert_array_equal(found.boxes[0, :6, 0], [2, 3, 1, 4, 5, 7])
    assert found.boxes[1, 0, 0] == 3
    # (0 - 2) / 10 divided by 0.1
    np.testing.assert_allclose(found.deltas[0, 0], [-2, -2, 0, 0], atol=1e-6)
    assert not found.deltas[0, 2:].numpy().any()


def test_more_regions_than_candidates():
    found = proposal_targets.sample_distinct(
        candidates([[0.9, 0.1]]), tf.constant([[[0.0, 0, 10, 10]]]), tf.constant([[2]]),
        tf.constant([0.1, 0.2]), 5, CONVENTIONS["torchvision"],
    )  # fmt: skip
    np.testing.assert_array_equal(found.labels, [[2, 0, -1, -1, -1]])
    assert found.boxes.shape == (1, 5, 4)


@pytest.mark.parametrize(
    "name, options, message",
    [
        (
            "faster_rcnn_resnet18",
            {"norm": "batch"},
            "norm 'batch' is unknown: choose one of frozen, synchronised",
        ),
        ("faster_rcnn_resnet18", {"frozen_stages": 6}, "frozen_stages must be from 0 to 5, not 6"),
        ("faster_rcnn_vgg11", {"frozen_layers": -2}, "frozen_layers must be at least -1, not -2"),
        ("faster_rcnn_resnet18", {"resnet_style": "keras"}, "resnet_style 'keras' is unknown"),
        ("faster_rcnn_resnet18", {"convention": "coco"}, "convention 'coco' is unknown"),
        (
            "faster_rcnn_resnet18",
            {"convention": "torchvision", "anchor_scales": "4,8"},
            "--anchor_scales=4,8: the convention torchvision has anchors of its own",
        ),
        ("faster_rcnn_resnet18", {"width": 0.0}, "width must be above 0"),
        ("faster_rcnn_vgg11", {"roi_batch": 3}, "roi_batch=3 leaves no foreground: 4 are the fewest"),
        ("faster_rcnn_vgg11", {"roi_foreground": 0.0}, r"roi_foreground must be in \(0, 1\], not 0.0"),
    ],
)
def test_impossible_options(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, **{"width": 1 / 16, **options})


@pytest.mark.parametrize(
    "name, option, value, message",
    [
        ("faster_rcnn_resnet18", "anchor_scales", "4,x", "numbers above 0 are expected, such as 4,8,16,32"),
        ("faster_rcnn_resnet18", "anchor_scales", "0", "numbers above 0 are expected"),
        ("faster_rcnn_resnet18", "frozen_stages", -1, "must be from 0 to 5"),
        ("faster_rcnn_vgg11", "roi_batch", 3, "must be 0 or at least 4"),
        ("faster_rcnn_resnet18_fpn", "roi_batch", -1, "must be 0 or at least 4"),
        ("faster_rcnn_resnet18_fpn", "fpn_channels", 0, "must be above 0"),
        ("faster_rcnn_vgg11", "frozen_layers", -2, "must be at least -1"),
        ("faster_rcnn_resnet18_fpn", "norm", "none", "known are frozen, synchronised"),
    ],
)
def test_flags_are_checked(name, option, value, message):
    with pytest.raises(UserError, match=f"--{option}={value}: .*{message}"):
        registry.check_options(name, {option: value})


def test_coco_names_are_those_of_its_numbers():
    names = dict(zip(builtin.COCO_IDS, builtin.COCO_CLASSES, strict=True))
    assert (names[1], names[13], names[44], names[90]) == ("person", "stop sign", "bottle", "toothbrush")


@pytest.mark.parametrize("name, options", [("resnet18", {"width": 1 / 16}), ("resnet18_fpn", SMALL_FPN)])
def test_images_without_objects(name, options):
    """They teach that all is background; boxes and imitation have nothing to say."""
    detector = build(f"faster_rcnn_{name}", **options)
    batch = {
        "boxes": tf.zeros([2, 3, 4]),
        "classes": tf.zeros([2, 3], tf.int32),
        "valid": tf.zeros([2, 3], bool),
        "content_size": tf.constant([[192.0, 192.0], [150.0, 190.0]]),
        "seed": tf.constant([1, 2]),
    }
    images = tf.random.stateless_normal([2, 192, 192, 3], [1, 2])
    with tf.GradientTape() as tape:
        outputs = detector(images, training=True, seed=batch["seed"])
        losses = detector.detection_losses(outputs, batch)
        total = tf.add_n(list(losses.values()))
    assert losses["rpn_box"] == 0 and losses["rcnn_box"] == 0
    assert losses["rpn_class"] > 0 and losses["rcnn_class"] > 0
    gradients = tape.gradient(total, detector.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_half_precision_keeps_losses_and_statistics_in_float32():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        detector = build("faster_rcnn_resnet18_fpn", **SMALL_FPN)
        outputs = detector(tf.random.stateless_normal([1, 64, 64, 3], [1, 2]), training=True)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert all(features.dtype == tf.bfloat16 for features in outputs["features"])
    assert all(scores.dtype == tf.float32 for scores in outputs["rpn_scores"])
    assert all(v.dtype == tf.float32 for v in detector.variables)
