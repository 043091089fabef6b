"""The whole detector: sizes, losses over batches, padding, detections."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError
from fgfi_tf.export import export
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig, build
from fgfi_tf.prediction import detect_images

# 16 anchors per image: the small pictures have no more
SMALL = {
    "width": 0.05,
    "train_pre_nms": 600,
    "train_post_nms": 100,
    "test_pre_nms": 300,
    "test_post_nms": 40,
    "rpn_batch": 16,
}


@pytest.fixture(scope="module", name="detector")
def _detector():
    keras.utils.set_random_seed(5)
    return FasterRCNN(FasterRCNNConfig(**SMALL))


def _batch(images=4, height=160, width=192, seed=1):
    """Pictures of noise; image 1 has no object, image 2 a one-pixel object beside another."""
    generator = np.random.default_rng(seed)
    boxes = np.zeros([images, 3, 4], np.float32)
    valid = np.zeros([images, 3], bool)
    for image in range(images):
        count = (2, 0, 2, 1)[image % 4]
        corner = generator.uniform(0, 60, [count, 2])
        boxes[image, :count] = np.concatenate(
            [corner, corner + generator.uniform(60, 95, [count, 2])], axis=-1
        )
        valid[image, :count] = True
    if images > 2:
        boxes[2, 1] = [30, 40, 30, 40]
    return {
        "image": tf.constant(generator.uniform(0, 255, [images, height, width, 3]), tf.float32),
        "boxes": tf.constant(boxes),
        "classes": tf.constant(np.where(valid, generator.integers(0, 20, valid.shape), 0), tf.int32),
        "valid": tf.constant(valid),
        "content_size": tf.tile([[float(height), float(width)]], [images, 1]),
        "scale": tf.constant([[0.5, 2.0]] * images),
        "image_size": tf.tile([[height * 2, width // 2]], [images, 1]),
        "seed": tf.constant([3, 4]),
    }


def _part(batch, image):
    return {key: value if key == "seed" else value[image : image + 1] for key, value in batch.items()}


def _step(detector, batch, seed=None):
    with tf.GradientTape() as tape:
        outputs = detector(detector.preprocess(batch["image"]), training=True, seed=seed)
        losses = detector.detection_losses(outputs, batch)
        total = tf.add_n(list(losses.values()))
    return losses, tape.gradient(total, detector.trainable_variables)


@pytest.mark.parametrize(
    ("backbone", "trainable", "everything"),
    [("vgg11", 133_573_023, 133_943_839), ("vgg16", 136_818_079, 137_078_239)],
)
def test_parameters_of_the_published_networks(backbone, trainable, everything):
    with tf.Graph().as_default():  # where no variable is filled
        detector = FasterRCNN(FasterRCNNConfig(backbone=backbone))
        counted = [
            sum(v.shape.num_elements() for v in variables)
            for variables in (detector.trainable_variables, detector.variables)
        ]
    # the published student's checkpoint also holds the 3 x 3 adaptation, ours lives in the imitation layer
    adaptation = 512 * 512 * 9 + 512 if backbone == "vgg11" else 0
    assert [count + adaptation for count in counted] == [trainable, everything]


def test_pools_round_down(detector):
    outputs = detector(tf.zeros([1, 600, 800, 3]))
    assert outputs["features"][0].shape == (1, 37, 50, detector.feature_channels[0])
    assert outputs["rpn_scores"][0].shape == (1, 37, 50, 18)
    assert detector.imitation_anchors(600, 800)[0].shape == (37, 50, 9, 4)


@pytest.mark.parametrize("height", [5, 16, 31])
def test_pictures_thinner_than_two_cells(height):
    """One of 16 x 300 has no room for a cell once its long side is limited to 128: nothing is found."""
    config = FasterRCNNConfig(**SMALL, short_side=64, long_side_cap=128)
    found = detect_images(FasterRCNN(config), tf.zeros([1, height, 300, 3], tf.uint8))
    assert found["boxes"].shape == (1, config.max_detections, 4)
    assert np.isfinite(found["boxes"]).all() and np.isfinite(found["scores"]).all()


def test_preprocess_is_bgr_minus_the_means(detector):
    image = tf.constant([[[[122.7717 + 1, 115.9465 + 2, 102.9801 + 3]]]])
    np.testing.assert_allclose(detector.preprocess(image)[0, 0, 0], [3, 2, 1], atol=1e-4)


def test_batch_equals_its_images_one_by_one(detector):
    batch = _batch(height=256, width=320)
    losses, gradients = tf.function(_step, autograph=False)(detector, batch)
    single = [_step(detector, _part(batch, image)) for image in range(4)]
    assert set(losses) == {"rpn_class", "rpn_box", "rcnn_class", "rcnn_box"}
    for name, value in losses.items():
        assert value.dtype == tf.float32
        np.testing.assert_allclose(value, np.mean([s[0][name] for s in single]), rtol=1e-5, err_msg=name)
    for index, gradient in enumerate(gradients):
        expected = np.mean([s[1][index] for s in single], axis=0)
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max() + 1e-9)


def test_image_without_objects_learns_background(detector):
    losses, gradients = _step(detector, _part(_batch(), 1))
    assert losses["rpn_box"] == 0 and losses["rcnn_box"] == 0
    assert losses["rpn_class"] > 0 and losses["rcnn_class"] > 0
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_sampling_and_dropout_follow_the_seed(detector):
    batch = _part(_batch(), 0)
    seeds = [tf.constant([1, 2]), tf.constant([1, 2]), tf.constant([1, 3])]
    first, same, other = (float(_step(detector, batch, seed)[0]["rcnn_class"]) for seed in seeds)
    assert first == same != other
    samples = [float(_step(detector, {**batch, "seed": seed})[0]["rcnn_class"]) for seed in seeds]
    assert samples[0] == samples[1] != samples[2]


def test_dropout_needs_training_and_a_seed(detector):
    batch = _part(_batch(), 0)
    images = detector.preprocess(batch["image"])
    seed = tf.constant([1, 2])
    plain = detector.detection_losses(detector(images), batch)["rcnn_class"]
    for arguments in ({"training": True}, {"seed": seed}):
        assert detector.detection_losses(detector(images, **arguments), batch)["rcnn_class"] == plain
    assert detector.detection_losses(detector(images, training=True, seed=seed), batch)["rcnn_class"] != plain


def test_padding_reaches_neither_losses_nor_detections(detector):
    batch = _batch(2)
    batch["content_size"] = tf.constant([[160.0, 130.0], [100.0, 192.0]])
    prepared = detector.prepare_batch(detector.prepare_images(batch))
    np.testing.assert_array_equal(prepared["image"][0, :, :130], batch["image"][0, :, :130])
    network_input = detector.preprocess(prepared["image"])
    assert tf.reduce_max(tf.abs(network_input[0, :, 130:])) < 1e-4
    assert tf.reduce_max(tf.abs(network_input[1, 100:])) < 1e-4

    outputs = detector(network_input)
    clean = detector.detection_losses(outputs, prepared)
    # whatever stands in the cells of the padding (8 x 12 cells, of which 10 x 8 and 6 x 12 are picture)
    for name in ("rpn_scores", "rpn_deltas", "features"):
        outputs[name] = (_spoil(outputs[name][0]),)
    for name, value in detector.detection_losses(outputs, prepared).items():
        np.testing.assert_allclose(value, clean[name], rtol=1e-6)
    found = detector.detect(outputs, prepared)
    for image, (height, width) in enumerate([(160, 130), (100, 192)]):
        boxes = found["boxes"][image, : found["count"][image]].numpy() * [2.0, 0.5, 2.0, 0.5]
        assert len(boxes) and boxes[:, 2].max() <= width - 1 + 1e-3 and boxes[:, 3].max() <= height - 1 + 1e-3


def _spoil(values):
    values = values.numpy()
    values[0, :, 8:], values[1, 6:] = 50.0, 50.0
    return tf.constant(values)


def test_the_valid_mask_is_the_picture(detector):
    batch = {"content_size": tf.constant([[160.0, 130.0], [100.0, 192.0]])}
    (area,) = detector.imitation_valid_mask(batch, 160, 192)
    assert area.shape == (2, 10, 12)
    np.testing.assert_array_equal(tf.reduce_any(area, axis=1), [[True] * 8 + [False] * 4, [True] * 12])
    np.testing.assert_array_equal(tf.reduce_any(area, axis=2), [[True] * 10, [True] * 6 + [False] * 4])


def test_detections_keep_the_contract(detector, run_mode):
    batch = _batch(2)
    outputs = detector(detector.preprocess(batch["image"]))
    found = run_mode(lambda b: detector.detect(outputs, b))(
        {"scale": batch["scale"], "image_size": batch["image_size"]}
    )
    assert found["boxes"].shape == (2, 100, 4) and found["classes"].dtype == tf.int32
    scores, count = found["scores"].numpy(), found["count"].numpy()
    assert np.all(np.diff(scores, axis=-1) <= 0) and np.all(count > 0)
    for image in range(2):
        assert np.all(scores[image, count[image] :] == 0) and np.all(
            found["boxes"][image, count[image] :] == 0
        )
        assert np.all(scores[image, : count[image]] > 0)
    # pixels of the image file: twice as high and half as wide as the network input
    assert (
        found["boxes"].numpy()[..., 2].max() <= 191 / 2 + 1e-3 and found["boxes"].numpy()[..., 3].max() > 160
    )


def test_detections_equal_a_plain_loop(detector):
    batch = _part(_batch(), 0)
    outputs = detector(detector.preprocess(batch["image"]))
    found = detector.detect(outputs, batch)
    content = batch["content_size"]
    rois = detector.propose(outputs, content, 300, 40)
    proposed = int(rois.count[0])
    scores, deltas = (t.numpy()[0, :proposed] for t in detector.classify(outputs, rois.boxes, content))
    probability = np.exp(scores - scores.max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    expected = []
    for class_index in range(20):
        boxes = _decode(
            rois.boxes.numpy()[0, :proposed], deltas[:, 4 * class_index + 4 :][:, :4] * [0.1, 0.1, 0.2, 0.2]
        )
        boxes = np.clip(boxes, 0, [191, 159, 191, 159]) / [2.0, 0.5, 2.0, 0.5]
        expected += _nms(boxes, probability[:, class_index + 1], class_index)
    expected = sorted(expected, key=lambda row: -row[0])[:100]
    count = int(found["count"][0])
    assert count == len(expected)
    np.testing.assert_allclose(found["scores"][0, :count], [row[0] for row in expected], rtol=1e-5)
    np.testing.assert_allclose(found["boxes"][0, :count], [row[2] for row in expected], atol=1e-3)
    np.testing.assert_array_equal(found["classes"][0, :count], [row[1] for row in expected])


def _decode(rois, deltas):
    size = rois[:, 2:] - rois[:, :2] + 1
    centre = rois[:, :2] + 0.5 * size + deltas[:, :2] * size
    half = 0.5 * size * np.exp(deltas[:, 2:])
    return np.concatenate([centre - half, centre + half], axis=-1)


def _nms(boxes, scores, class_index):
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        box = boxes[index]
        if all(_iou(box, other) <= 0.3 for _, _, other in kept):
            kept.append((scores[index], class_index, box))
    return kept


def _iou(a, b):
    overlap = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1, 0))
    return overlap / (np.prod(a[2:] - a[:2] + 1) + np.prod(b[2:] - b[:2] + 1) - overlap)


@pytest.mark.parametrize(
    "options", [{"roi_pooling": "align"}, {"roi_pooling": "crop_and_resize"}, {"nms": "padded"}]
)
def test_every_option_trains(options):
    detector = FasterRCNN(FasterRCNNConfig(**SMALL, **options))
    losses, gradients = tf.function(_step, autograph=False)(detector, _batch(2))
    assert all(np.isfinite(v) for v in losses.values())
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_half_precision_keeps_losses_in_float32():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        detector = FasterRCNN(FasterRCNNConfig(**SMALL))
        losses, gradients = _step(detector, _batch(2), tf.constant([1, 2]))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert all(v.dtype == tf.float32 and np.isfinite(v) for v in losses.values())
    assert all(v.dtype == tf.float32 for v in detector.trainable_variables)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_biases_learn_twice_as_fast_and_do_not_decay(detector):
    for variable in detector.trainable_variables:
        bias = variable.shape.rank == 1
        assert detector.learning_rate_multiplier(variable) == (2 if bias else 1)
        assert detector.decay_rate(variable) == (0 if bias else 0.0005)


def test_frozen_convolutions(detector):
    frozen = [layer.name for layer in detector.base.convolutions if not layer.trainable]
    assert frozen == ["conv1_1", "conv2_1", "conv3_1"]
    teacher = FasterRCNN(FasterRCNNConfig(backbone="vgg16", width=0.05))
    frozen = [layer.name for layer in teacher.base.convolutions if not layer.trainable]
    assert frozen == ["conv1_1", "conv1_2", "conv2_1", "conv2_2"]
    scratch = FasterRCNN(FasterRCNNConfig(width=0.05, frozen_layers=0))
    assert all(layer.trainable for layer in scratch.base.convolutions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg13"}, "backbone 'vgg13' is unknown: choose one of vgg11, vgg16"),
        ({"roi_pooling": "max"}, "roi_pooling 'max' is unknown"),
        ({"nms": "soft"}, "nms 'soft' is unknown"),
        ({"width": 0.0}, "width must be above 0, not 0.0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"short_side": 20}, "20x0: expected are a short side of at least 32 pixels"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(UserError, match=message):
        FasterRCNNConfig(**options)


def test_variants_by_name():
    detector = build(
        "faster_rcnn_vgg16", input_size=(300, 500), class_names=("cat", "dog"), width=0.125, dropout=0.0
    )
    assert detector.config.backbone == "vgg16" and detector.feature_channels == (64,)
    assert detector.input_size == (300, 500) and detector.class_names == ("cat", "dog")
    with pytest.raises(UserError, match="unknown model 'vgg'; Faster R-CNN comes as faster_rcnn_vgg11, "):
        build("vgg", class_names=("cat",))


def test_saved_model_takes_images_of_any_size(detector, tmp_path):
    serve = tf.function(functools.partial(detect_images, detector), reduce_retracing=True)
    loaded = tf.saved_model.load(str(export(detector, tmp_path))).signatures["serving_default"]
    for shape in ((1, 75, 100), (2, 90, 60)):
        images = tf.cast(tf.random.stateless_uniform([*shape, 3], [1, 2], 0, 255, tf.int32), tf.uint8)
        expected, found = serve(images), loaded(images)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=1e-4, err_msg=key)
        assert found["boxes"].numpy()[..., 2].max() <= shape[2]
