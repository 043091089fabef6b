"""ShuffleDet: layers against a split-and-concatenate rendering, folding, sizes, edge cases."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.geometry import anchors as anchor_grids
from fgfi_tf.geometry import coding as box_coding
from fgfi_tf.models import convolutions, registry
from fgfi_tf.models.dropout import stateless_dropout
from fgfi_tf.models.shuffledet import ShuffleDet, coding, losses
from fgfi_tf.models.shuffledet.single_map import make_targets


def randomise_norms(model, seed=0):
    """Statistics other than 0 and 1, so that folding has something to fold."""
    rng = np.random.default_rng(seed)
    for conv in model.backbone.convolutions().values():
        norm = conv.norm
        shape = norm.gamma.shape
        norm.gamma.assign(rng.uniform(0.5, 1.5, shape))
        norm.beta.assign(rng.normal(0, 0.2, shape))
        norm.moving_mean.assign(rng.normal(0, 0.2, shape))
        norm.moving_variance.assign(rng.uniform(0.5, 1.5, shape))


@pytest.mark.parametrize(
    ("variant", "trainable", "total"),
    [
        ("shuffledet_1x", 1_602_312, 1_629_096),
        ("shuffledet_0.5x", 535_656, 549_048),
        ("shuffledet_0.25x", 202_776, 209_472),
    ],
)
def test_parameters_are_the_published_ones(variant, trainable, total):
    model = ShuffleDet(variant)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == trainable
    assert model.count_params() == total
    assert len(model.variables) == 247


def test_block_diagonal_kernel_is_a_grouped_convolution(run_mode):
    x = tf.random.normal([2, 3, 4, 12])
    kernel = tf.random.normal([1, 1, 4, 15])
    parts = zip(tf.split(x, 3, axis=-1), tf.split(kernel, 3, axis=-1), strict=True)
    expected = tf.concat([tf.nn.conv2d(part, k, 1, "SAME") for part, k in parts], axis=-1)
    dense = run_mode(lambda k: convolutions.block_diagonal(k, 3))(kernel)
    np.testing.assert_allclose(tf.nn.conv2d(x, dense, 1, "SAME"), expected, rtol=1e-4, atol=1e-5)


def test_shuffled_kernel_columns_are_the_channel_shuffle():
    x = tf.random.normal([1, 2, 2, 5])
    kernel = tf.random.normal([1, 1, 5, 6])
    plain = tf.nn.conv2d(x, kernel, 1, "SAME")
    shuffled = tf.reshape(tf.transpose(tf.reshape(plain, [1, 2, 2, 3, 2]), [0, 1, 2, 4, 3]), [1, 2, 2, 6])
    np.testing.assert_allclose(
        tf.nn.conv2d(x, convolutions.shuffle_channels(kernel, 3), 1, "SAME"), shuffled, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("variant", ["shuffledet_1x", "shuffledet_0.25x"])
def test_inference_copy_is_the_same_function(variant):
    model = ShuffleDet(variant, input_size=(64, 96))
    randomise_norms(model)
    model.head.kernel.assign(tf.random.normal(model.head.kernel.shape, stddev=0.01))
    folded = model.inference_copy()
    x = tf.random.normal([2, 64, 96, 3]) * 50.0
    ours, theirs = folded(x), model(x)
    np.testing.assert_allclose(ours["features"][0], theirs["features"][0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours["predictions"], theirs["predictions"], rtol=1e-3, atol=1e-3)
    assert not folded.trainable_variables


@pytest.mark.parametrize("size", [(384, 1248), (192, 624), (96, 320), (64, 64)])
def test_shapes_at_any_size_divisible_by_16(size):
    model = ShuffleDet("shuffledet_0.25x", input_size=size)
    outputs = tf.function(model, autograph=False)(tf.zeros([1, *size, 3]))
    height, width = size[0] // 16, size[1] // 16
    assert outputs["predictions"].shape == (1, height, width, 72)
    assert outputs["features"][0].shape == (1, height, width, 192)
    (grid,) = model.imitation_anchors(*size)
    assert grid.shape == (height, width, 9, 4)


def test_anchor_shapes_scale_with_the_input():
    small, full = anchor_grids.shuffledet_anchors(192, 624), anchor_grids.shuffledet_anchors(384, 1248)
    np.testing.assert_allclose(small[0, 0, :, 2:], full[0, 0, :, 2:] / 2)
    # Twelve rows divide 192 pixels into thirteen parts.
    np.testing.assert_allclose(small[:, 0, 0, 1], np.arange(1, 13) * 192 / 13, rtol=1e-6)


def test_assignment_by_hand(run_mode):
    """Two boxes on one anchor; a box off every anchor; padding."""
    anchors = tf.constant([[10.0, 10, 10, 10], [30, 10, 10, 10], [60, 10, 10, 10]])
    boxes = tf.constant([[[10.0, 10, 10, 10], [11, 10, 10, 10], [500, 10, 10, 10], [0, 0, 0, 0]]])
    valid = tf.constant([[True, True, True, False]])
    index = run_mode(coding.assign_anchors)(boxes, valid, anchors)
    # The second box overlaps no free anchor and takes the nearest, 1; the third the last one.
    assert index.numpy().tolist() == [[0, 1, 2, 0]]


def test_objects_beyond_the_number_of_anchors_are_none(run_mode):
    """Anchor 0 would be taken from the background once for each of them."""
    anchors = tf.constant([[10.0, 10, 10, 10], [30, 10, 10, 10]])
    boxes = tf.tile(tf.constant([[[10.0, 10, 10, 10]]]), [2, 5, 1])
    valid = tf.constant([[True, False, True, True, True], [True, False, False, False, False]])
    targets = run_mode(make_targets)(boxes, tf.zeros([2, 5], tf.int32), valid, anchors)
    assert targets["valid"].numpy().tolist() == [[True, False, True, False, False], valid[1].numpy().tolist()]
    assert targets["anchor_index"].numpy()[0, [0, 2]].tolist() == [0, 1]
    assert np.all(np.isfinite(targets["deltas"]))


def test_equal_iou_goes_to_the_nearest_anchor():
    anchors = tf.constant([[10.0, 10, 20, 20], [14, 10, 20, 20], [12, 10, 20, 20]])
    index = coding.assign_anchors(tf.constant([[[12.0, 10, 4, 4]]]), tf.constant([[True]]), anchors)
    assert index.numpy().tolist() == [[2]]


def test_decode_inverts_encode_but_for_the_pixel():
    anchors = tf.constant([[100.0, 80.0, 36.0, 37.0]])
    box = tf.constant([[104.0, 82.0, 40.0, 30.0]])
    decoded = coding.decode(box_coding.encode(box, anchors), anchors, 384, 1248)
    np.testing.assert_allclose(decoded, [[104.5, 82.5, 41.0, 31.0]], rtol=1e-5)


def test_linear_exp_is_straight_beyond_one():
    values = box_coding.linear_exp(tf.constant([0.0, 1.0, 3.0, 200.0]))
    np.testing.assert_allclose(values, [1.0, np.e, 3 * np.e, 200 * np.e], rtol=1e-6)


def tiny_predictions(model, batch):
    height, width = model.input_size[0] // 16, model.input_size[1] // 16
    return tf.random.normal([batch, height, width, 72])


def test_images_without_objects_have_finite_losses_and_gradients(run_mode):
    model = ShuffleDet("shuffledet_0.25x", input_size=(64, 96))
    batch = {
        "boxes": tf.zeros([2, 4, 4]),
        "classes": tf.zeros([2, 4], tf.int32),
        "valid": tf.zeros([2, 4], tf.bool),
    }

    def step(predictions):
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            terms = model.detection_losses({"predictions": predictions}, batch)
            total = tf.add_n(list(terms.values()))
        return terms, tape.gradient(total, predictions)

    terms, gradient = run_mode(step)(tiny_predictions(model, 2))
    assert float(terms["class_loss"]) == 0.0 and float(terms["box_loss"]) == 0.0
    assert float(terms["confidence_loss"]) > 0.0
    assert np.all(np.isfinite(gradient))


def test_confidence_loss_by_hand():
    """Two anchors, one assigned with IoU 0.5, confidences 0.5 and 0.5."""
    logits = tf.zeros([1, 2])
    decoded, truth = tf.constant([[[5.0, 5, 10, 10]]]), tf.constant([[[5.0, 5, 10, 20]]])
    on_object, elsewhere = losses.confidence_losses(
        logits, decoded, tf.constant([[0]]), truth, tf.constant([[True]])
    )
    assert float(on_object) == pytest.approx(0.0, abs=1e-7)
    assert float(elsewhere) == pytest.approx(0.25)


def test_class_loss_by_hand():
    logits = tf.math.log(tf.constant([[[0.5, 0.25, 0.25], [1.0, 1.0, 1.0]]]))
    loss = losses.class_loss(
        logits, tf.constant([[0, 1]]), tf.constant([[0, 1]]), tf.constant([[True, False]])
    )
    # -(log 0.5 + log 0.75 + log 0.75)
    assert float(loss) == pytest.approx(-(np.log(0.5) + 2 * np.log(0.75)), rel=1e-5)


def test_detections_are_in_pixels_of_the_image_and_suppressed_by_class():
    model = ShuffleDet("shuffledet_0.25x", input_size=(64, 96))
    predictions = np.full([1, 4, 6, 72], -20.0, np.float32)
    predictions[..., 36:] = 0.0  # boxes are the anchors
    # Shape 0 at row 1 and columns 2 and 3: class 0 both, the first more confident.
    predictions[0, 1, 2:4, 0] = 20.0
    predictions[0, 1, 2, 27], predictions[0, 1, 3, 27] = 2.0, 1.0
    batch = {"scale": tf.constant([[0.5, 0.25]]), "image_size": tf.constant([[128, 384]])}
    found = model.detect({"predictions": tf.constant(predictions)}, batch)
    confident = found["scores"][0].numpy() > 0.5
    anchor = model.anchors[1, 2, 0]  # its neighbour is 13.7 px away and as wide as 2.8: no overlap
    assert confident.sum() == 2
    x1, y1 = anchor[0] - anchor[2] / 2, anchor[1] - anchor[3] / 2
    # Decoded boxes are a pixel larger towards the right and the bottom.
    expected = [x1 / 0.25, y1 / 0.5, (x1 + anchor[2] + 1) / 0.25, (y1 + anchor[3] + 1) / 0.5]
    np.testing.assert_allclose(found["boxes"][0, 0], expected, rtol=1e-4)
    assert found["classes"][0, 0] == 0


def test_dropout_depends_on_the_seed_alone():
    x = tf.ones([4, 100])
    first, again = (stateless_dropout(x, 0.5, tf.constant([1, 2])) for _ in range(2))
    other = stateless_dropout(x, 0.5, tf.constant([1, 3]))
    np.testing.assert_array_equal(first, again)
    assert np.any(first.numpy() != other.numpy())
    assert set(np.unique(first)) == {0.0, 2.0}
    assert 0.4 < np.mean(first.numpy() > 0) < 0.6


def test_targets_of_padding_are_zero_and_finite():
    anchors = tf.reshape(tf.constant(anchor_grids.shuffledet_anchors(64, 96)), [-1, 4])
    boxes = tf.constant([[[20.0, 20, 10, 10], [0, 0, 0, 0]]])
    targets = make_targets(boxes, tf.constant([[1, 0]]), tf.constant([[True, False]]), anchors)
    assert np.all(np.isfinite(targets["deltas"])) and np.all(targets["deltas"][0, 1] == 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ShuffleDet("shuffledet_2x"),
            "unknown model 'shuffledet_2x'; ShuffleDet comes as shuffledet_1x",
        ),
        (
            lambda: ShuffleDet("shuffledet_1x", input_size=(100, 96)),
            "100x96: height and width must be divisible by 16",
        ),
        (
            lambda: registry.build("yolo", input_size=(64, 64), class_names=("a",)),
            "unknown model 'yolo'; known are",
        ),
    ],
)
def test_impossible_models_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_channels_beyond_the_networks_own_are_zero_and_change_nothing():
    """conv1 of 30 channels is computed with 32; its batch norm sees the two as if they were not there."""
    layer = convolutions.ConvBN(24, 30, groups=3, shuffle_groups=3)
    x = tf.random.normal([2, 4, 6, 24])
    y = layer(x, training=True)
    assert y.shape == [2, 4, 6, 32]
    assert not np.any(y[..., 30:])
    plain = tf.nn.conv2d(x, layer.dense_kernel(), 1, "SAME")
    mean, variance = tf.nn.moments(plain, [0, 1, 2])
    np.testing.assert_allclose(
        y[..., :30], tf.nn.relu((plain - mean) * tf.math.rsqrt(variance + 1e-5)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(layer.norm.moving_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    assert [v.shape for v in layer.trainable_variables] == [[1, 1, 8, 30], [30], [30]]
    # the next layer takes the padded map
    again = convolutions.ConvBN(30, 48)
    np.testing.assert_allclose(again(y), again(y[..., :30]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("filters", [60, 30])
def test_folding_keeps_the_function_of_a_shuffled_grouped_convolution(filters):
    """60 / 3 outputs a group stay grouped on a CPU, 30 / 3 become one dense kernel."""
    options = {"groups": 3, "shuffle_groups": 3}
    source = convolutions.ConvBN(96, filters, **options)
    x = tf.random.normal([2, 4, 6, 96])
    source(x, training=True)  # moves the statistics
    source.norm.gamma.assign(tf.random.uniform([filters], 0.5, 1.5))
    source.norm.beta.assign(tf.random.normal([filters]))
    folded = convolutions.ConvBN(96, filters, folded=True, **options)
    folded(x)
    folded.fold_from(source)
    if not tf.config.list_physical_devices("GPU"):
        assert folded.kernel.shape[2] == (32 if filters == 60 else 96)
    np.testing.assert_allclose(folded(x), source(x)[..., :filters], rtol=1e-4, atol=1e-5)


def found_of(places, deltas=None):
    """Detections of boxes of anchor shape 0 at (row, column) of class c, the rest far less confident."""
    model = ShuffleDet("shuffledet_0.25x")
    predictions = np.full([1, 24, 78, 72], -20.0, np.float32)
    predictions[..., 36:] = 0.0  # boxes are the anchors
    for i, (row, column, class_index) in enumerate(places):
        predictions[0, row, column, class_index] = 20.0
        predictions[0, row, column, 27] = 3.0 - 0.01 * i
    for (row, column), dx in (deltas or {}).items():
        predictions[0, row, column, 36] = dx
    batch = {"scale": tf.ones([1, 2]), "image_size": tf.constant([[384, 1248]])}
    found = model.detect({"predictions": tf.constant(predictions)}, batch)
    scores = found["scores"][0].numpy()
    return int(found["count"][0]), int(np.sum(scores > 0.5)), found["classes"][0].numpy()[scores > 0.5]


def test_at_most_64_detections_of_which_50_of_a_class():
    # every third row and column: 36 x 37 boxes that do not touch
    places = [(row, column) for row in range(2, 22, 3) for column in range(2, 74, 3)]
    assert found_of([(*place, i % 2) for i, place in enumerate(places[:70])])[:2] == (64, 64)
    assert found_of([(*place, 0) for place in places[:60]])[:2] == (50, 50)
    count, confident, classes = found_of([(*place, int(i >= 45)) for i, place in enumerate(places[:64])])
    assert (count, confident, np.sum(classes == 0)) == (64, 64, 45)


@pytest.mark.parametrize(("distance", "kept"), [(15.7, 1), (16.0, 2)])
def test_suppression_above_an_iou_of_0_4(distance, kept):
    """Boxes of 37 x 38 (decoding adds a pixel): IoU (37 - d) / (37 + d) is 0.4 at d = 15.86."""
    column_distance = 1248 / 79
    deltas = {(5, 11): (distance - column_distance) / 36}
    assert found_of([(5, 10, 0), (5, 11, 0)], deltas)[1] == kept
    assert found_of([(5, 10, 0), (5, 11, 1)], deltas)[1] == 2  # of different classes


def test_decoded_boxes_end_at_the_border():
    """Corners are cut to 0 .. 1247 and 0 .. 383; what lies beyond is one pixel wide, at the border."""
    anchors = tf.constant([[100.0, 80.0, 40.0, 20.0]] * 4)
    deltas = tf.constant([[50.0, 0, 0, 0], [-50.0, 0, 0, 0], [0, 50.0, 0, 0], [0, -50.0, 0, 0]])
    expected = [[1247.5, 80.5, 1, 21], [0.5, 80.5, 1, 21], [100.5, 383.5, 41, 1], [100.5, 0.5, 41, 1]]
    np.testing.assert_allclose(coding.decode(deltas, anchors, 384, 1248), expected)
    # 2 wide and 2 high, cut on all four sides
    large = coding.decode(tf.constant([[0.0, 0, 40, 40]]), anchors[:1], 384, 1248)
    np.testing.assert_allclose(large, [[624, 192, 1248, 384]])


def test_nearest_is_by_squared_distance():
    # From the box: (20, 20) off, 800 squared, and (30, 0) off, 900 squared though 30 is less than 40.
    anchors = tf.constant([[130.0, 100, 10, 10], [120, 120, 10, 10]])
    index = coding.assign_anchors(tf.constant([[[100.0, 100, 10, 10]]]), tf.constant([[True]]), anchors)
    assert index.numpy().tolist() == [[1]]
    # Sizes count like centres: 12 wider is farther than 11 to the side.
    anchors = tf.constant([[100.0, 150, 22, 10], [111, 150, 10, 10]])
    index = coding.assign_anchors(tf.constant([[[100.0, 100, 10, 10]]]), tf.constant([[True]]), anchors)
    assert index.numpy().tolist() == [[1]]


def test_one_class_has_no_class_loss():
    one = registry.build("shuffledet_0.25x", input_size=(32, 64), class_names=("face",))
    batch = {
        "boxes": tf.constant([[[4.0, 4.0, 27.0, 27.0]]]),
        "classes": tf.zeros([1, 1], tf.int32),
        "valid": tf.constant([[True]]),
    }
    found = one.detection_losses(one(tf.zeros([1, 32, 64, 3])), batch)
    assert set(found) == {"confidence_loss", "box_loss"}
    assert one.loss_names == ("confidence_loss", "box_loss", "weight_decay")
