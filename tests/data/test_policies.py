"""Resize and augmentation policies: those shipped, by hand, and a stranger's, registered."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from fgfi_tf import streams
from fgfi_tf.data import pipeline, policies, registry
from fgfi_tf.data.augment import Augmentation, KittiAugmentation, VocAugmentation
from fgfi_tf.data.policies import AugmentationEntry
from fgfi_tf.data.resize import LETTERBOX, ShorterSide, Stretch
from fgfi_tf.errors import UserError
from fgfi_tf.options import Option

# (height, width) of the pictures; each has a car (2, 3, 11, 18) and a cyclist (14, 5, 17, 8)
SIZES = [(24, 32), (20, 50), (40, 20), (24, 32), (21, 47)]


@pytest.fixture(scope="module", name="data")
def data_fixture(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for folder in ("training/image_2", "training/label_2", "ImageSets"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    label = "Car 0 0 0 2 3 11 18 1 1 1 0 0 10 0\nCyclist 0 0 0 14 5 17 8 1 1 1 0 0 10 0\n"
    for i, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(
            root / f"training/image_2/{i}.png"
        )
        (root / f"training/label_2/{i}.txt").write_text(label)
    (root / "ImageSets/train.txt").write_text("".join(f"{i}\n" for i in range(len(SIZES))))
    return registry.open_split("kitti", root, "train", progress=False)


def train(data, steps, resize, **options):
    options = {"input_size": (48, 0), "batch_size": 2, "seed": 3, **options}
    stream = pipeline.training_batches(data, resize=resize, **options)
    return list(stream.take(steps).as_numpy_iterator())


def same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def test_the_largest_input_is_padded_as_inputs_are():
    assert policies.resize("torchvision").largest_input((800, 1333)) == (800, 1344)
    assert policies.resize("torchvision").largest_input((300, 0)) == (320, 608)
    assert policies.resize("shorter_side").largest_input((300, 0)) == (300, 600)
    assert policies.resize("shorter_side").largest_input((300, 501)) == (300, 501)


# --- letterbox


def test_letterbox_by_hand(data):
    """40 x 20 into 30 x 64 is 0.75 times as large, 30 x 15; 20 x 50 is 1.28 times, 25.6, so 26 x 64."""
    (batch,) = pipeline.evaluation_batches(data, resize=LETTERBOX, input_size=(30, 64), batch_size=5)
    assert batch["image"].shape == (5, 30, 64, 3)
    assert batch["content_size"].numpy().tolist()[1:3] == [[26, 64], [30, 15]]
    np.testing.assert_allclose(batch["scale"][1:3], [[1.28] * 2, [0.75] * 2], rtol=1e-6)
    # edges: (2, 3) to (12, 19)
    np.testing.assert_allclose(batch["boxes"][2, 0], [1.5, 2.25, 8, 13.25], rtol=1e-6)
    assert np.all(batch["image"].numpy()[2, :, 15:] == 0) and np.all(batch["image"].numpy()[1, 26:] == 0)
    assert np.all(batch["image"].numpy()[2, :, :15].sum(-1) > 0)
    spec = pipeline.training_batches(
        data, resize=LETTERBOX, input_size=(30, 64), batch_size=2, seed=0
    ).element_spec
    assert spec["image"].shape == (2, 30, 64, 3)


@pytest.mark.parametrize("policy", [LETTERBOX, Stretch(), ShorterSide()])
def test_prediction_sees_what_evaluation_does(data, policy, run_mode):
    """Any batch of images of one size, among them the exported model's."""
    size = (30, 64)
    batches = list(pipeline.evaluation_batches(data, resize=policy, input_size=size, batch_size=1))
    for batch, sample in zip(batches, data.records(), strict=True):
        image = tf.io.decode_image(sample["image"])
        found = run_mode(lambda images: policy.batch(images, size))(tf.stack([image, image]))
        for name in ("image", "content_size", "scale", "image_size"):
            np.testing.assert_array_equal(found[name][1], batch[name][0], err_msg=name)
        if policy.box_corners == "edges":
            back = (batch["boxes"][0, 0] + [0, 0, 1, 1]) / np.tile(batch["scale"][0, ::-1], 2) - [0, 0, 1, 1]
            np.testing.assert_allclose(back, [2, 3, 11, 18], atol=1e-5)


def test_letterbox_augments_and_crops_nothing(data):
    for batch in train(
        data, 3, LETTERBOX, input_size=(30, 64), augmentation=KittiAugmentation(shift_x=3, shift_y=2)
    ):
        assert batch["image"].shape == (2, 30, 64, 3) and batch["valid"].sum() == 4
        assert np.all(batch["content_size"].max(0) <= [30, 64])
        for (height, width), image in zip(batch["content_size"].astype(int), batch["image"], strict=True):
            assert height == 30 or width == 64
            assert np.all(image[height:] == 0) and np.all(image[:, width:] == 0)


# --- combinations


def test_every_augmentation_goes_with_every_resize_policy(data):
    """Where augmentation changes sizes, a batch is padded to what came out."""
    policy = ShorterSide(max_aspect=0, multiple=32)
    shifting = KittiAugmentation(shift_x=9, shift_y=5)
    for batch in train(data, 4, policy, augmentation=shifting):
        shape, content = batch["image"].shape[1:3], batch["content_size"].astype(int)
        assert shape == tuple(-(-content.max(0) // 32) * 32) and content.min() == 48
    whole = train(data, 3, policy, batch_size=4, augmentation=shifting, start_step=1)
    same(whole[1], train(data, 1, policy, batch_size=4, augmentation=shifting, start_step=2)[0])
    with_mirrors = train(data, 5, Stretch(), input_size=(16, 48), augmentation=VocAugmentation())  # an epoch
    names = [name for batch in with_mirrors for name in batch["image_id"]]
    assert sorted(names) == sorted([b"0", b"1", b"2", b"3", b"4"] * 2)


def test_off_keeps_what_chooses_images():
    assert KittiAugmentation().off().augment(1, 2, 3, 4) == (1, 2, 3)
    off = VocAugmentation().off()
    assert (off.mirror_images, off.only_with_objects, off.samples_boxes) == (False, True, True)


# --- by name


def test_options_by_name():
    found = policies.augmentation("kitti", {"contrast": "0.9,1", "drift": "7X5", "flip": 0})
    assert found == KittiAugmentation(contrast=(0.9, 1.0), shift_x=7, shift_y=5, flip=0)
    assert policies.augmentation("voc") == VocAugmentation()
    for name, values, message in (
        ("voc", {"drift": "1x1"}, "--drift: the augmentation policy voc has no such option (it has --flip)"),
        ("none", {"flip": 0.5}, "--flip: the augmentation policy none has no such option (it has none)"),
        (
            "kitti",
            {"contrast": "2,1"},
            "--contrast=2,1: two numbers are expected, lowest and highest, not negative",
        ),
        ("kitti", {"drift": "9"}, "--drift=9: two whole numbers are expected, like 384x1248"),
        ("kitti", {"brightness": -1}, "--brightness=-1: must be at least 0"),
        ("kitti", {"flip": 1.5}, "--flip=1.5: must lie in [0, 1]"),
        ("voc", {"flip": 0.3}, "--flip=0.3: expected is 0.5 (each image and its mirror image) or 0"),
        (
            "coco",
            {},
            f"unknown augmentation policy 'coco'; known are {', '.join(policies.AUGMENTATION.names())}",
        ),
    ):
        with pytest.raises(UserError) as raised:
            policies.augmentation(name, values)
        assert str(raised.value) == message
    with pytest.raises(
        UserError, match="unknown resize policy 'x'; known are letterbox, shorter_side, stretch"
    ):
        policies.resize("x")


# --- a stranger's


class Crop(Augmentation):
    """Cuts a random part of a share of each side, and keeps the objects whose centre lies in it."""

    keeps_size = False

    def __init__(self, crop_share):
        self.share = crop_share

    def augment(self, image, boxes, classes, key):
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        start = tf.floor(streams.uniform([2], key) * size * (1 - self.share))
        kept = tf.floor(size * self.share)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2  # x, y
        inside = tf.reduce_all((centre >= start[::-1]) & (centre < (start + kept)[::-1]), -1)
        moved = tf.boolean_mask(boxes, inside) - tf.tile(start[::-1], [2])
        limit = tf.tile(kept[::-1], [2]) - 1
        (y, x), (height, width) = tf.unstack(tf.cast(start, tf.int32)), tf.unstack(tf.cast(kept, tf.int32))
        image = image[y : y + height, x : x + width]
        return image, tf.clip_by_value(moved, 0.0, limit), tf.boolean_mask(classes, inside)


class MultiScale(Stretch):
    """One of three squares, another every ten steps."""

    def training_size(self, input_size, seed, step):
        key = streams.fold(streams.key_of(seed, streams.Use.EXAMPLE, step // 10), 99)
        side = 16 + 8 * tf.random.stateless_uniform([], key, 0, 3, tf.int32, alg=streams.ALGORITHM)
        return tf.stack([side, side])


@pytest.fixture(name="strangers")
def strangers_fixture():
    policies.RESIZE.register("pad_to_32", ShorterSide(max_aspect=0, multiple=32))
    policies.RESIZE.register("multi_scale", MultiScale())
    share = Option("crop_share", 0.5, "Share of each side.")
    policies.AUGMENTATION.register("crop", AugmentationEntry(Crop, (share,)))
    yield
    for known, name in ((policies.RESIZE, "pad_to_32"), (policies.RESIZE, "multi_scale")):
        known.unregister(name)
    policies.AUGMENTATION.unregister("crop")


@pytest.mark.usefixtures("strangers")
def test_padding_to_a_multiple(data):
    """Short side 48: widths 64, 120, 48 (and 96 high), 64, 107. No crop to 2:1."""
    policy = policies.resize("pad_to_32")
    shapes = set()
    for batch in train(data, 4, policy, batch_size=1):
        shapes.add((batch["content_size"][0].tolist()[1], batch["image"].shape[1:3]))
    assert shapes <= {(64, (64, 64)), (120, (64, 128)), (48, (96, 64)), (107, (64, 128))} and len(shapes) > 2
    parts = [train(data, 2, policy, batch_size=2, shard=(i, 2)) for i in range(2)]
    for step, batch in enumerate(train(data, 2, policy, batch_size=2)):
        same({k: np.concatenate([part[step][k] for part in parts]) for k in batch}, batch)
    (last,) = pipeline.evaluation_batches(data, resize=policy, input_size=(48, 0), batch_size=5).take(1)
    assert last["image"].shape == (5, 96, 128, 3)


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    "resize, size", [("stretch", (32, 32)), ("pad_to_32", (48, 0)), ("letterbox", (32, 40))]
)
def test_a_crop_that_drops_objects(data, resize, size):
    crop = policies.augmentation("crop", {"crop_share": 0.6})
    counts, policy = set(), policies.resize(resize)
    for batch in train(data, 12, policy, input_size=size, augmentation=crop):
        for row in range(2):
            valid = batch["valid"][row]
            counts.add(int(valid.sum()))
            boxes, classes = batch["boxes"][row, valid], batch["classes"][row, valid]
            assert set(classes.tolist()) <= {0, 2} and np.all(batch["boxes"][row, ~valid] == 0)
            height, width = batch["content_size"][row]
            assert np.all(boxes >= 0) and np.all(boxes[:, 2] < width) and np.all(boxes[:, 3] < height)
    assert counts == {0, 1, 2}
    options = {"input_size": size, "augmentation": crop}
    same(train(data, 4, policy, **options)[3], train(data, 1, policy, start_step=3, **options)[0])


@pytest.mark.usefixtures("strangers")
def test_a_size_of_seed_and_step(data):
    policy, traces = policies.resize("multi_scale"), []

    @tf.function
    def step(batch):
        traces.append(batch["image"].shape)
        return tf.reduce_sum(batch["image"])

    assert not policy.fixed_size and Stretch().fixed_size
    whole = list(
        pipeline.training_batches(data, resize=policy, input_size=(24, 24), batch_size=2, seed=5).take(60)
    )
    for batch in whole:
        step({"image": batch["image"]})
    sizes = [batch["image"].shape[1] for batch in whole]
    assert all(len(set(sizes[i : i + 10])) == 1 for i in range(0, 60, 10)) and set(sizes) == {16, 24, 32}
    assert len(traces) == 3
    for batch in whole:
        np.testing.assert_allclose(
            batch["scale"] * tf.cast(batch["image_size"], tf.float32), [batch["image"].shape[1:3]] * 2
        )
    resumed = train(data, 3, policy, input_size=(24, 24), seed=5, start_step=29)
    for expected, batch in zip(whole[29:], resumed, strict=False):
        same({key: value.numpy() for key, value in expected.items()}, batch)
    (batch,) = pipeline.evaluation_batches(data, resize=policy, input_size=(24, 24), batch_size=5)
    assert batch["image"].shape == (5, 24, 24, 3)
    # one trace of a step that reads the pipeline itself, as the trainer's does
    spec = pipeline.training_batches(
        data, resize=policy, input_size=(24, 24), batch_size=2, seed=5
    ).element_spec
    assert spec["image"].shape.as_list() == [2, None, None, 3]


def test_a_name_is_taken_once():
    with pytest.raises(UserError, match="resize policy 'stretch'"):
        policies.RESIZE.register("stretch", Stretch())
