"""Faster R-CNN over lists of feature levels: its parts against torchvision's arrays; a detector of two."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf import devices
from fgfi_tf.geometry import anchors as anchor_grids
from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry import coding, nms
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.backbones.vgg import VGG
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig, levels, proposals, roi_align

STRIDES = [4, 8, 16, 32]
SMALL = {
    "width": 0.05,
    "train_pre_nms": 300,
    "train_post_nms": 60,
    "test_pre_nms": 200,
    "test_post_nms": 30,
    "rpn_batch": 16,
    "roi_batch": 32,
}


def channels_last(array):
    return tf.constant(np.moveaxis(array, -3, -1))


def test_levels_by_hand(run_mode):
    """112 pixels is half of 224: stride 8. Just below is the level before; all others are clipped."""
    sides = tf.constant([[112.0, 112], [111.9, 111.9], [224, 224], [448, 112], [5000, 5000], [0, 7]])
    rois = tf.concat([tf.ones_like(sides), 1.0 + sides], axis=-1)
    np.testing.assert_array_equal(run_mode(levels.level_of)(rois, STRIDES), [1, 0, 2, 2, 3, 0])
    np.testing.assert_array_equal(levels.level_of(rois, [8, 16]), [0, 0, 1, 1, 1, 0])


def test_levels_that_leave_one_out_are_refused():
    with pytest.raises(ValueError, match=r"twice the one before, not \[8, 32\]"):
        levels.level_of(tf.zeros([1, 4]), [8, 32])


def test_regions_go_to_torchvisions_levels(shared_path, run_mode):
    golden = np.load(shared_path("golden/fpn/roi_align.npz"))
    found = run_mode(levels.level_of)(tf.constant(golden["boxes"]), STRIDES)
    np.testing.assert_array_equal(found + 2, golden["levels"])
    assert len(set(golden["levels"].ravel())) == 4


def test_pooling_over_levels_equals_torchvision(shared_path, run_mode):
    golden = np.load(shared_path("golden/fpn/roi_align.npz"))
    maps = [channels_last(golden[f"P{level}"]) for level in (2, 3, 4, 5)]
    rois, upstream = tf.constant(golden["boxes"]), channels_last(golden["upstream7"])

    @run_mode
    def pool(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            pooled = roi_align.align_over_levels(maps, rois, "align_v1", 7, STRIDES, 2)
        return pooled, tape.gradient(pooled, maps, upstream)

    pooled, gradients = pool(maps)
    np.testing.assert_allclose(pooled, channels_last(golden["pooled7"]), atol=1e-4)
    for level, gradient in zip((4, 5), gradients[2:], strict=True):
        np.testing.assert_allclose(gradient, channels_last(golden[f"grad_P{level}"]), atol=1e-4)
    larger = roi_align.align_over_levels(maps, rois[:, :8], "align_v1", 14, STRIDES, 2)
    np.testing.assert_allclose(larger, channels_last(golden["pooled14_first8"]), atol=1e-4)


def compiled(function):
    """By XLA, as the trainer has it compiled."""

    def call(*arguments):
        with devices.compiled():
            return function(*arguments)

    return tf.function(call, jit_compile=True)


@pytest.mark.parametrize(
    ("run_mode", "kind"),
    [
        *((run_mode, kind) for run_mode in (lambda f: f, tf.function) for kind in roi_align.KINDS),
        (compiled, "align_v1"),
    ],
)
def test_each_region_is_pooled_from_its_level(kind, run_mode):
    """Constant maps: the value tells the level. The second image has regions of the first level only."""
    maps = [tf.fill([2, 64 // 2**level, 64 // 2**level, 1], level + 1.0) for level in range(3)]
    sides = tf.constant([[60.0, 120, 60, 240], [60, 60, 60, 60]])
    rois = tf.stack([sides * 0 + 4, sides * 0 + 4, 4 + sides, 4 + sides], axis=-1)
    content = tf.constant([[256.0, 256.0]] * 2)
    pooled = run_mode(lambda: roi_align.align_over_levels(maps, rois, kind, 2, [4, 8, 16], 2, content))()
    assert pooled.shape[2:] == (2, 2, 1)
    np.testing.assert_allclose(pooled[:, :, 0, 0, 0], [[1, 2, 1, 3], [1, 1, 1, 1]], atol=1e-5)


@pytest.mark.parametrize(("kind", "content"), [("align", [[90.0, 70.0], [96.0, 128.0]]), ("align_v1", None)])
def test_gathering_equals_the_products(monkeypatch, run_mode, kind, content):
    """Values and gradients of the form for CPUs and of that for GPUs, of regions beyond borders too."""
    random = np.random.default_rng(3)
    maps = [random.normal(size=(2, 24 // 2**k, 32 // 2**k, 3)).astype(np.float32) for k in range(2)]
    maps = [tf.constant(level) for level in maps]
    centres = random.uniform(-20, 140, (2, 30, 2))
    sides = np.exp(random.uniform(1, 5.5, (2, 30, 2)))
    rois = tf.constant(np.concatenate([centres - sides / 2, centres + sides / 2], axis=-1), tf.float32)
    upstream = tf.constant(random.normal(size=(2, 30, 3, 3, 3)), tf.float32)
    content = None if content is None else tf.constant(content)

    def pool():
        with tf.GradientTape() as tape:
            tape.watch(maps)
            pooled = roi_align.align_over_levels(maps, rois, kind, 3, [4, 8], 2, content, rounds_up=True)
        return pooled, *tape.gradient(pooled, maps, upstream)

    found = run_mode(pool)()
    monkeypatch.setattr(roi_align, "prefers_gpu_form", lambda: True)
    for ours, expected in zip(found, run_mode(pool)(), strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_content_is_that_of_each_level():
    """Cells beyond the picture are outside on every level, in cells of its own stride."""
    maps = [tf.ones([1, 32 // 2**level, 32 // 2**level, 1]) for level in range(2)]
    spoilt = [
        tf.where(tf.range(m.shape[1])[None, :, None, None] < 24 // 2**level, m, 99.0)
        for level, m in enumerate(maps)
    ]
    rois = tf.constant([[[20.0, 20.0, 70.0, 95.0], [0.0, 0.0, 120.0, 95.0]]])
    content = tf.constant([[96.0, 128.0]])
    results = [roi_align.align_over_levels(m, rois, "align", 3, [4, 8], 2, content) for m in (maps, spoilt)]
    np.testing.assert_allclose(*results, atol=1e-5)


@pytest.mark.parametrize("kind", nms.KINDS)
def test_proposals_over_levels_by_hand(run_mode, kind):
    """The best of each level enter; suppression knows no other level; then the best of all, by score."""
    box, other, far = [0.0, 0, 9, 9], [0.0, 0, 9, 8], [50.0, 50, 59, 59]
    scores = [
        tf.constant([[0.5, 0.9, 0.4], [0.1, 0.2, 0.3]]),
        tf.constant([[0.8, -np.inf], [-np.inf, -np.inf]]),
    ]
    boxes = [tf.constant([[box, other, far]] * 2), tf.constant([[box, far]] * 2)]
    found = run_mode(lambda: proposals.propose(scores, boxes, 2, 3, kind=kind))()
    # Image 0: of the first level 0.9 and 0.5 enter and 0.5 is suppressed. Image 1: 0.3 and 0.2.
    np.testing.assert_array_equal(found.count, [2, 2])
    np.testing.assert_array_equal(found.boxes, [[other, box, [0] * 4], [far, other, [0] * 4]])


def test_a_compiled_suppression_is_the_same():
    random = np.random.default_rng(1)
    near = random.uniform(0, 60, (2, 50, 2))
    boxes = np.concatenate([near, near + random.uniform(5, 40, (2, 50, 2))], axis=-1).astype(np.float32)
    scores = -np.sort(-random.uniform(size=(2, 50))).astype(np.float32)
    scores[1, 40:] = -np.inf
    plain = nms.best_boxes(boxes, scores, 20, 0.5)

    found = compiled(lambda: nms.best_boxes(tf.constant(boxes), tf.constant(scores), 20, 0.5))()
    np.testing.assert_array_equal(found["count"], plain["count"])
    for image, count in enumerate(plain["count"].numpy()):
        assert 5 < count
        for name in ("boxes", "scores"):
            np.testing.assert_array_equal(found[name][image, :count], plain[name][image, :count])


def test_proposals_over_levels_equal_torchvision(shared_path, run_mode):
    golden, grids = (np.load(shared_path(f"golden/fpn/{name}.npz")) for name in ("forward", "anchors"))
    sizes = tf.constant(golden["image_sizes_hw"], tf.float32)
    scores, boxes = [], []
    for level, size in zip(range(2, 7), (32, 64, 128, 256, 512), strict=True):
        logits = channels_last(golden[f"rpn_logits_P{level}"])
        cell = anchor_grids.centred_cell([size], [0.5, 1.0, 2.0], rounded=True)
        anchors = tf.reshape(anchor_grids.repeat_cell(cell, *logits.shape[1:3], 2**level), [-1, 4])
        np.testing.assert_array_equal(anchors, grids[f"anchors_P{level}"])
        deltas = tf.reshape(channels_last(golden[f"rpn_deltas_P{level}"]), [2, -1, 4])
        decoded = coding.decode(deltas, forms.centres_from_corners(anchors), exp=coding.capped_exp)
        clipped = forms.clip(decoded, sizes[:, None])
        large = tf.reduce_all(clipped[..., 2:] - clipped[..., :2] >= 1e-3, axis=-1)
        scores.append(tf.where(large, tf.sigmoid(tf.reshape(logits, [2, -1])), -np.inf))
        boxes.append(clipped)
    found = run_mode(lambda: proposals.propose(scores, boxes, 200, 60, inclusive=False))()
    np.testing.assert_array_equal(found.count, [60, 60])
    for image in range(2):
        np.testing.assert_allclose(found.boxes[image], golden[f"proposals{image}"], atol=2e-3)


def two_levels(seed, **options):
    keras.utils.set_random_seed(seed)
    config = FasterRCNNConfig(**(SMALL | options))
    return FasterRCNN(config, backbone=VGG(config.backbone, config.width, taps=(4, 5)))


def picture(images=2, height=192, width=256):
    generator = np.random.default_rng(3)
    boxes = np.array([[[8.0, 10, 200, 160], [70, 30, 130, 90]], [[20, 20, 80, 60], [0, 0, 0, 0]]], np.float32)
    return {
        "image": tf.constant(generator.uniform(0, 255, [images, height, width, 3]), tf.float32),
        "boxes": tf.constant(boxes[:images]),
        "classes": tf.constant([[3, 7], [11, 0]][:images]),
        "valid": tf.constant([[True, True], [True, False]][:images]),
        "content_size": tf.constant([[192.0, 256.0], [160.0, 200.0]][:images]),
        "scale": tf.ones([images, 2]),
        "image_id": tf.constant(["a", "b"][:images]),
        "image_size": tf.constant([[192, 256], [160, 200]][:images]),
        "seed": tf.constant([3, 4]),
    }


def test_two_levels_from_images_to_detections(run_mode):
    detector, batch = two_levels(1), picture()
    assert [level.stride for level in detector.levels] == [8, 16] and detector.feature_channels == (26, 26)
    # The anchors of the finer level are half as large.
    fine, coarse = detector.imitation_anchors(192, 256)
    assert fine.shape == (24, 32, 9, 4) and coarse.shape == (12, 16, 9, 4)
    np.testing.assert_array_equal(fine[0, 0, 3], [-28, -28, 36, 36])
    np.testing.assert_array_equal(coarse[0, 0, 3], [-56, -56, 72, 72])
    areas = detector.imitation_valid_mask(batch, 192, 256)
    np.testing.assert_array_equal(
        [tf.reduce_sum(tf.cast(area, tf.int32), [1, 2]) for area in areas], [[768, 500], [192, 120]]
    )

    @run_mode
    def step(batch):
        prepared = detector.prepare_batch(detector.prepare_images(batch))
        with tf.GradientTape() as tape:
            outputs = detector(
                detector.preprocess(prepared["image"]), training=True, seed=tf.constant([1, 2])
            )
            found = detector.detection_losses(outputs, prepared)
            total = tf.add_n(list(found.values()))
        return found, tape.gradient(total, detector.trainable_variables), detector.detect(outputs, prepared)

    found, gradients, detections = step(batch)
    assert [float(value) > 0 for value in found.values()] == [True] * 4
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert [np.abs(gradient).max() > 0 for gradient in gradients] == [True] * len(gradients)
    assert detections["boxes"].shape == (2, 100, 4) and np.all(detections["count"].numpy() > 0)


def test_a_batch_of_levels_equals_its_images():
    detector, batch = two_levels(1, dropout=0.0), picture()
    detections = []
    for images in (slice(0, 2), slice(0, 1), slice(1, 2)):
        part = {key: value if key == "seed" else value[images] for key, value in batch.items()}
        outputs = detector(detector.preprocess(part["image"]))
        detections.append((detector.detection_losses(outputs, part), detector.detect(outputs, part)))
    (together, all_found), *single = detections
    for name, value in together.items():
        np.testing.assert_allclose(value, np.mean([losses[name] for losses, _ in single]), rtol=1e-5)
    for image, (_, found) in enumerate(single):
        np.testing.assert_allclose(all_found["boxes"][image], found["boxes"][0], atol=1e-3)


def test_regions_may_come_from_the_first_levels_only():
    config = FasterRCNNConfig(**SMALL)
    detector = FasterRCNN(config, backbone=VGG("vgg11", config.width, taps=(4, 5)), roi_levels=1)
    outputs = detector(tf.random.stateless_normal([1, 96, 128, 3], [1, 2]))
    rois, content = tf.constant([[[0.0, 0, 127, 95]]]), tf.constant([[96.0, 128.0]])
    before = detector.classify(outputs, rois, content)[0]
    outputs["features"] = (outputs["features"][0], outputs["features"][1] * 0.0)
    np.testing.assert_array_equal(detector.classify(outputs, rois, content)[0], before)


def test_a_student_of_two_levels_imitates_a_teacher_of_two():
    student, teacher = two_levels(1), two_levels(2, backbone="vgg16")
    imitation = ImitationLoss(teacher.feature_channels, **student.imitation_options())
    distiller = Distiller(student, teacher, imitation, imitation_weight=1.0, seed=1, clip_norm=10.0)
    distiller.compile(keras.optimizers.legacy.SGD(0.002, momentum=0.9))
    step, history = tf.function(distiller.train_step, autograph=False), []
    for _ in range(6):
        distiller.reset_metrics()
        history.append(float(step(picture())["imitation_loss"]))
    assert 0 < history[-1] < history[0]
    assert len(imitation.kernels) == 2 and not np.array_equal(
        *(kernel.numpy() for kernel in imitation.kernels)
    )


@pytest.mark.parametrize("taps", [(3, 5), (4, 5)])
def test_levels_that_cannot_share_a_head(taps):
    backbone = VGG("vgg11", 0.05, taps=taps)
    unlike = [
        levels.Level(8, anchor_grids.rounded_cell()),
        levels.Level(16, anchor_grids.rounded_cell(scales=(8.0,))),
    ]
    with pytest.raises(ValueError, match="levels must have as many channels and anchors each"):
        FasterRCNN(FasterRCNNConfig(**SMALL), backbone=backbone, levels=unlike if taps == (4, 5) else None)


def test_taps_are_the_maps_on_the_way():
    images = tf.random.stateless_normal([1, 49, 65, 3], [1, 2])
    keras.utils.set_random_seed(1)
    whole = VGG("vgg16", 0.05, taps=(3, 4, 5))
    maps = whole(images)
    assert whole.strides == (4, 8, 16) and whole.channels == (13, 26, 26)
    assert [m.shape for m in maps] == [(1, 12, 16, 13), (1, 6, 8, 26), (1, 3, 4, 26)]
    short = VGG.from_config({**whole.get_config(), "taps": (4,)})
    short(images)  # creates its weights
    for mine, other in zip(short.convolutions, whole.convolutions, strict=False):
        mine.set_weights(other.get_weights())
    np.testing.assert_array_equal(short(images)[0], maps[1])


def test_vgg_as_ssd_has_it():
    # 300 -> 150 -> 75 -> 38 -> 19, as in the paper; here 76 -> 38 -> 19 -> 10 -> 5
    backbone = VGG("vgg16", 0.05, taps=(3, 4, 5), keep_odd=True, frozen=0)
    maps = VGG.from_config(backbone.get_config())(tf.zeros([1, 76, 76, 3]))
    assert [m.shape[1:3] for m in maps] == [(19, 19), (10, 10), (5, 5)]
    backbone(tf.zeros([1, 76, 76, 3]))
    assert len(backbone.trainable_variables) == 2 * 13
    usual = VGG("vgg16", 0.05, taps=(3, 4, 5))
    assert [m.shape[1:3] for m in usual(tf.zeros([1, 76, 76, 3]))] == [(19, 19), (9, 9), (4, 4)]
    assert len(usual.trainable_variables) == 2 * (13 - 4)
