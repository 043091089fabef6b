"""YOLOv2 as a detector: sizes, losses of the batch, boxes, anchors, weight files, inference form."""

import math

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.interop import darknet_weights
from fgfi_tf.models import loading, registry
from fgfi_tf.models.yolov2 import region_loss
from fgfi_tf.models.yolov2.model import MAX_DETECTIONS, YOLOv2

NARROW = 1 / 32


def build(name="yolov2", size=(64, 64), classes=("face",), **options):
    return registry.build(name, input_size=size, class_names=classes, **{"width": NARROW, **options})


def batch_of(boxes, valid=None, size=(64, 64), classes=0):
    """A batch of pictures of the size of the network input."""
    boxes = np.float32(boxes)  # B x M x 4
    count = len(boxes)
    return {
        "image": tf.random.stateless_uniform([count, *size, 3], [1, 2], maxval=255.0),
        "boxes": tf.constant(boxes),
        "classes": tf.fill(boxes.shape[:2], classes),
        "valid": tf.constant(np.ones(boxes.shape[:2], bool) if valid is None else valid),
        "content_size": tf.constant([np.float32(size)] * count),
        "scale": tf.ones([count, 2]),
        "image_size": tf.constant([size] * count, tf.int32),
    }


@pytest.mark.parametrize(
    ("name", "count", "features"), [("yolov2_0.25x", 3_174_870, 256), ("yolov2_0.15x", 1_154_053, 154)]
)
def test_published_sizes_by_name(name, count, features):
    detector = registry.build(name, input_size=(416, 416), class_names=("face",))
    assert detector.count_params() == count
    assert detector.feature_channels == (features,)
    assert detector.metadata.options == {}
    declared = registry.declaration(name)
    assert (declared.dataset, declared.teacher, declared.input_size) == ("wider", "yolov2", (416, 416))


# --- losses


def test_losses_are_those_of_the_region_layer_by_the_images():
    """Box 16..47 of 64 is inclusive: 32 wide about (32, 32)."""
    detector = build(classes=("a", "b"))
    batch = {
        **batch_of([[[16, 16, 47, 47]], [[0, 0, 7, 15]]], classes=1),
        "step": tf.constant(6_399, tf.int64),
    }
    outputs = detector(detector.preprocess(batch["image"]))
    found = detector.detection_losses(outputs, batch)
    terms = region_loss.region_losses(
        outputs["predictions"],
        tf.constant([[[0.5, 0.5, 0.5, 0.5]], [[4 / 64, 8 / 64, 8 / 64, 16 / 64]]]),
        batch["classes"],
        batch["valid"],
        tf.constant(detector.anchors, tf.float32),
        tf.constant(12_800),
    )
    assert tuple(found) == detector.loss_names
    for name, value in found.items():
        assert float(value) == pytest.approx(float(terms[name]) / 2, rel=1e-5), name
    assert float(terms["prior_loss"]) == 0.0 and float(terms["class_loss"]) > 0


def test_the_prior_counts_images_of_all_steps():
    """Two images a step: 12,798 seen after step 6,398 (from 0), and 12,800 one step later."""
    detector = build()
    batch = batch_of([[[16, 16, 47, 47]], [[0, 0, 7, 15]]], valid=[[False], [False]])
    outputs = {"predictions": tf.zeros([2, 2, 2, 30])}

    def box_loss(step):
        found = detector.detection_losses(outputs, {**batch, "step": tf.constant(step, tf.int64)})
        return float(found["box_loss"])

    # sigmoid(0) - 0.5 is 0; a raw width of 1 costs 0.5 * 0.01 for each of the 20 predictors
    outputs["predictions"] += np.tile([0, 0, 1, 0, 0, 0], 5).astype(np.float32)
    assert box_loss(6_398) == pytest.approx(20 * 0.5 * 0.01) and box_loss(6_399) == 0.0
    detector.history.images.assign(12_798)  # of a weight file: the first step is the last with the prior
    assert box_loss(0) == 0.0
    detector.history.images.assign(12_797)
    assert box_loss(0) > 0 and box_loss(1) == 0.0


def test_one_class_has_no_class_loss_and_tiny_objects_do_not_count(run_mode):
    detector = build(size=(2048, 2048))
    # 2 pixels of 2,048 are less than a thousandth
    batch = batch_of([[[10, 10, 11, 300], [50, 50, 500, 900]]], size=(2048, 2048))
    outputs = {"predictions": tf.zeros([1, 64, 64, 30])}
    one = {
        key: batch[key][:, 1:] if batch[key].shape.rank > 1 else batch[key]
        for key in ("boxes", "classes", "valid")
    }
    found, alone = (run_mode(detector.detection_losses)(outputs, b) for b in (batch, {**batch, **one}))
    assert set(found) == {"no_object_loss", "box_loss", "object_loss"}
    for name in found:
        assert float(found[name]) == pytest.approx(float(alone[name]), rel=1e-6)


def test_images_without_objects_and_padding_rows(run_mode):
    detector = build()
    batch = batch_of(np.zeros((2, 3, 4)), valid=np.zeros((2, 3), bool))
    found = run_mode(lambda b: detector.detection_losses(detector(detector.preprocess(b["image"])), b))(batch)
    assert float(found["object_loss"]) == 0.0 and float(found["no_object_loss"]) > 0
    assert all(math.isfinite(float(value)) for value in found.values())


def test_shares_of_a_batch_add_up():
    """As replicas compute it: each half divided by the images of the whole."""
    detector = build()
    batch = batch_of([[[16, 16, 47, 47]], [[0, 0, 7, 15]], [[30, 2, 60, 60]], [[0, 0, 63, 63]]])
    outputs = detector(detector.preprocess(batch["image"]))
    whole = detector.detection_losses(outputs, batch)
    counts = {"global_counts": tf.constant([4.0, 4.0])}
    halves = [
        detector.detection_losses(
            {"predictions": outputs["predictions"][part]},
            {**{k: v[part] for k, v in batch.items()}, **counts},
        )
        for part in (slice(0, 1), slice(1, 4))
    ]
    for name, value in whole.items():
        assert float(value) == pytest.approx(sum(float(half[name]) for half in halves), rel=1e-5)


def test_crowds_take_no_memory_of_their_own():
    """2,000 objects in 608 x 608: the largest tensor of the losses is 64 objects x 1,805 predictors wide."""
    detector = build(size=(608, 608))
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 580, (1, 2000, 2))
    batch = batch_of(np.concatenate([corner, corner + rng.uniform(3, 27, (1, 2000, 2))], -1), size=(608, 608))
    outputs = {"predictions": tf.random.stateless_normal([1, 19, 19, 30], [3, 4])}
    layer = ImitationLoss((8,))

    def compute(predictions, boxes):
        found = detector.detection_losses({"predictions": predictions}, {**batch, "boxes": boxes})
        masks = layer.masks(detector.imitation_anchors(608, 608), *detector.imitation_boxes(batch))
        return tf.add_n(list(found.values())), masks

    traced = tf.function(compute, autograph=False).get_concrete_function(
        outputs["predictions"], batch["boxes"]
    )
    graphs = [traced.graph, *(f.graph for f in traced.graph._functions.values() if hasattr(f, "graph"))]
    sizes = [
        out.shape.num_elements()
        for g in graphs
        for op in g.get_operations()
        for out in op.outputs
        if out.shape.is_fully_defined() and op.type != "Const"
    ]
    assert max(sizes) <= 2000 * 19 * 19
    loss, (mask,) = traced(outputs["predictions"], batch["boxes"])
    assert math.isfinite(float(loss)) and bool(tf.reduce_any(mask))


def test_weights_decay_where_they_are_kernels():
    detector = build(weight_decay=0.5)
    rates = {v.name.rsplit("/", 1)[-1]: detector.decay_rate(v) for v in detector.trainable_variables}
    assert rates == {"kernel:0": 0.5, "gamma:0": 0.0, "beta:0": 0.0, "bias:0": 0.0}


# --- boxes


def detections(detector, predictions, scale=(1.0, 1.0), image_size=(64, 64)):
    count = len(predictions)
    batch = {"scale": tf.constant([scale] * count), "image_size": tf.constant([image_size] * count)}
    found = detector.detect({"predictions": tf.constant(predictions)}, batch)
    return {key: value.numpy() for key, value in found.items()}


def test_boxes_by_hand(run_mode):
    """64 x 96 of a picture of 32 x 48 twice as large; anchor 1 x 1 cells."""
    detector = build(size=(64, 96), anchors="1x1,2x0.5")
    raw = np.full((1, 2, 3, 2, 6), -20.0, np.float32)
    raw[..., 5] = 0.0
    raw[0, 1, 2, 0] = [0, 0, 0, 0, 2, 0]  # centre (80, 48) of the input, 32 x 32
    raw[0, 0, 0, 1] = [0, 0, math.log(2), 0, 1, 0]  # centre (16, 16), 128 x 16: over both edges
    raw[0, 1, 2, 1] = [0, 0, math.log(0.5), math.log(2), 0, 0]  # the first again
    batch = {"scale": tf.constant([[2.0, 2.0]]), "image_size": tf.constant([[32, 48]])}
    found = run_mode(detector.detect)({"predictions": raw.reshape(1, 2, 3, 12)}, batch)
    assert found["count"].numpy().tolist() == [2] and found["boxes"].shape == (1, MAX_DETECTIONS, 4)
    # inclusive pixels: 32..48 is 32 to 47
    np.testing.assert_allclose(found["boxes"][0, :2], [[32, 16, 47, 31], [0, 4, 39, 11]], atol=1e-4)
    np.testing.assert_allclose(
        found["scores"][0, :2], [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))], rtol=1e-5
    )
    assert not found["boxes"].numpy()[0, 2:].any()


def test_nothing_is_found_in_the_padding():
    """A picture of 64 x 32 in an input of 64 x 64: cells of the right column hold none of it."""
    detector = build(anchors="1x1")
    raw = np.full((1, 2, 2, 6), 0.0, np.float32)
    assert detections(detector, raw, image_size=(64, 32))["count"] == [2]
    assert detections(detector, raw, image_size=(64, 64))["count"] == [4]


def test_detections_golden(shared_path):
    """From given predictions: the boxes and scores that Darknet keeps, of every class."""
    golden = np.load(shared_path("golden/yolov2/forward.npz"))
    anchors, side = golden["anchors"], golden["input"].shape[1:]
    classes = golden["region_original"].shape[0] // len(anchors) - 5
    text = ",".join(f"{w:.9g}x{h:.9g}" for w, h in anchors)
    detector = build(size=side, classes=tuple(map(str, range(classes))), anchors=text)
    raw = golden["last_conv_original"].transpose(1, 2, 0)[None]
    found = detections(detector, raw, image_size=side)
    # Darknet's letterbox: the picture's longer side fills the input, in its middle.
    width, height = golden["image_size_wh"]
    share = min(side[1] / width, side[0] / height)
    new = np.array([int(width * share), int(height * share)])
    offset, scale = (np.array(side)[::-1] - new) / 2, np.array([width, height]) / new
    kept = golden["detections_after_nms"]
    assert found["count"][0] == (kept[:, 5:] > 0).sum()
    for index in range(classes):
        rows = kept[kept[:, 5 + index] > 0]
        rows = rows[np.argsort(-rows[:, 5 + index], kind="stable")]
        centre, half = rows[:, :2] / scale + offset, rows[:, 2:4] / scale / 2
        expected = np.clip(np.concatenate([centre - half, centre + half], -1), 0, [*side[::-1], *side[::-1]])
        ours = (found["classes"][0] == index) & (np.arange(MAX_DETECTIONS) < found["count"][0])
        np.testing.assert_allclose(found["scores"][0, ours], rows[:, 5 + index], atol=1e-5)
        np.testing.assert_allclose(found["boxes"][0, ours] + [0, 0, 1, 1], expected, atol=2e-3)


# --- anchors, sizes


def test_imitation_anchors_of_any_size(run_mode):
    detector = build(anchors="1x2,3x0.5")
    (grid,) = run_mode(lambda: detector.imitation_anchors(64, 96))()
    assert grid.shape == (2, 3, 2, 4)
    np.testing.assert_allclose(grid[0, 0], [[0, -16, 32, 48], [-32, 8, 64, 24]])
    np.testing.assert_allclose(grid[1, 2], [[64, 16, 96, 80], [32, 40, 128, 56]])
    (other,) = tf.function(detector.imitation_anchors)(tf.constant(96), tf.constant(32))
    assert other.shape == (3, 1, 2, 4)


def test_anchors_are_cells_at_every_size():
    for size in ((64, 64), (608, 416)):
        np.testing.assert_allclose(build(size=size).anchors[0], [1.3221, 1.73145])
    np.testing.assert_allclose(build(anchors="coco").anchors[4], [9.77052, 9.16828])


def test_fitted_anchors():
    shapes = np.repeat([[16.0, 16], [32, 64], [64, 32], [96, 96], [8, 24]], 4, axis=0)
    given = {"width": 1.0, "anchors": "auto", "reorg": "auto"}
    options, line = YOLOv2.fitted_options(given, shapes, (416, 416), 0)
    assert (
        options["anchors"]
        == "0.250000x0.750000,0.500000x0.500000,1.000000x2.000000,2.000000x1.000000,3.000000x3.000000"
    )
    assert (
        line.startswith("anchors of 20 objects at 416x416, width x height: 8x24, 16x16")
        and "1.000 with these" in line
    )
    assert YOLOv2.fitted_options({**given, "anchors": "coco"}, shapes, (416, 416), 0) == (
        {**given, "anchors": "coco"},
        "",
    )
    with pytest.raises(UserError, match="--anchors=auto: 5 anchor shapes cannot be found among 1 different"):
        YOLOv2.fitted_options(given, shapes[:3], (416, 416), 0)
    small = np.full((8, 2), 4.0)
    assert "no anchor is like 8 of the 8 training objects" in build().anchor_misfit(small, small)
    assert build().anchor_misfit(small, small).endswith("--anchors=auto fits them")
    assert build(anchors="0.125x0.125").anchor_misfit(small, small) == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": (100, 64)}, "100x64: height and width must be divisible by 32"),
        ({"size": (0, 64)}, "0x64: height and width must be divisible by 32"),
        ({"anchors": "auto"}, "--anchors=auto: only a training can find them"),
        (
            {"reorg": "original", "name": "yolov2_0.15x", "width": 1.0},
            r"--reorg=original: .* not 10 \(yolov2_0.15x, --width=1\)",
        ),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        build(**given)


def test_names_and_options_that_are_refused():
    with pytest.raises(UserError, match="unknown model 'yolov3'; YOLOv2 comes as yolov2, yolov2_0.25x"):
        YOLOv2("yolov3")
    with pytest.raises(UserError, match="--anchors=voc: published, coco, auto, or shapes w x h"):
        registry.check_options("yolov2", {"anchors": "voc"})


# --- inference form and weight files


def test_the_inference_copy_is_the_same_function():
    detector = build(classes=("a", "b"), reorg="original", width=1 / 16)
    rng = np.random.default_rng(1)
    for conv in detector.network.convolutions():
        conv.norm.moving_mean.assign(rng.normal(size=conv.filters) * 0.1)
        conv.norm.moving_variance.assign(rng.uniform(0.5, 2, conv.filters))
    images = tf.random.stateless_uniform([2, 96, 64, 3], [1, 2], maxval=255.0)
    copy = detector.inference_copy()
    assert (
        copy.metadata is detector.metadata and copy.resize == detector.resize and not copy.trainable_variables
    )
    for ours, theirs in zip(
        tf.nest.flatten(detector(detector.preprocess(images))),
        tf.nest.flatten(copy(copy.preprocess(images))),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    with pytest.raises(ValueError, match="an inference copy has no batch norm to write"):
        copy.save_darknet("nowhere.weights")


def test_darknet_files_through_the_detector(tmp_path):
    source = build(width=1 / 16)
    source.save_darknet(tmp_path / "own.weights", images_seen=500)
    loaded = build(width=1 / 16)
    assert loaded.load_trained(tmp_path / "own.weights")
    for ours, theirs in zip(source.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # what Darknet's files do not say: the order that the published ones were trained with
    assert loaded.network.reorg == "original" and loaded.metadata.options["reorg"] == "original"
    assert int(loaded.history.images) == 500
    again = registry.build_from(loaded.metadata)
    assert again.network.reorg == "original"
    said = build(width=1 / 16, reorg="space_to_depth")
    said.load_trained(tmp_path / "own.weights")
    assert said.network.reorg == "space_to_depth"
    narrow = build()  # 2 channels: the original order is not defined
    narrow.save_darknet(tmp_path / "narrow.weights")
    assert narrow.load_trained(tmp_path / "narrow.weights") and narrow.network.reorg == "space_to_depth"
    assert not source.load_trained(tmp_path / "own.pth")
    with pytest.raises(UserError, match="own.weights: holds .* values; this network has"):
        narrow.load_trained(tmp_path / "own.weights")


def test_a_trunk_starts_a_detector_and_is_none(tmp_path):
    source, path = build(), tmp_path / "darknet19_448.conv.23"
    darknet_weights.save_weights(path, source.network.trunk_convolutions())
    detector = build()
    before = detector.network.last.kernel.numpy()
    assert loading.load_initial_weights(detector, path) == ""
    for ours, theirs in zip(
        source.network.trunk_convolutions(), detector.network.trunk_convolutions(), strict=True
    ):
        np.testing.assert_array_equal(ours.kernel, theirs.kernel)
    np.testing.assert_array_equal(detector.network.last.kernel, before)
    with pytest.raises(UserError, match="conv.23 holds a backbone alone, not a trained detector"):
        loading.load_weights(detector, path)


def test_the_published_file_by_name(tmp_path):
    """``--model=yolov2_0.25x --checkpoint=FILE``: classes of the data, the declared options."""
    source = build("yolov2_0.25x", width=1.0)
    source.save_darknet(tmp_path / "face.weights")
    found = loading.load_detector(tmp_path / "face.weights", model="yolov2_0.25x")
    np.testing.assert_array_equal(found.network.predict.kernel, source.network.predict.kernel)
