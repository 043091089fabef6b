"""Batches of images of different shape."""

import numpy as np
import pytest
import tensorflow as tf
from voc_fixtures import write_devkit, write_image, write_list

from fgfi_tf.data import pipeline, registry, resize
from fgfi_tf.data.augment import VocAugmentation
from fgfi_tf.data.resize import SHORTER_SIDE, ShorterSide
from fgfi_tf.errors import UserError

SMALL = {"resize": SHORTER_SIDE, "input_size": (48, 0)}


@pytest.fixture(scope="module", name="dataset")
def _dataset(tmp_path_factory):
    return registry.open_split(
        "voc", write_devkit(tmp_path_factory.mktemp("voc")), "0712_trainval", progress=False
    )


def _take(dataset, count, flip=0.5, **options):
    options = {**SMALL, "max_boxes": 20, "augmentation": VocAugmentation(flip), **options}
    batches = pipeline.training_batches(dataset, **options)
    return list(batches.take(count).as_numpy_iterator())


def test_sizes(run_mode):
    sizes = tf.constant([[375, 500], [500, 200], [333, 500]])
    found, scale = run_mode(SHORTER_SIDE.resized)(sizes, (600, 0))
    assert found.numpy().tolist() == [[600, 800], [1500, 600], [600, 901]]
    np.testing.assert_allclose(scale, [[1.6, 1.6], [3, 3], [600 / 333] * 2])
    assert run_mode(SHORTER_SIDE.resized)(tf.constant([500, 200]), (600, 1000))[0].numpy().tolist() == [
        1000,
        400,
    ]
    assert run_mode(SHORTER_SIDE.cropped)(tf.constant([1500, 600])).numpy().tolist() == [1200, 600]
    assert ShorterSide(max_aspect=0).cropped(tf.constant([1500, 600])).numpy().tolist() == [1500, 600]
    assert ShorterSide(multiple=64).padded(tf.constant([600, 832]), (600, 0)).numpy().tolist() == [640, 832]


def test_exported_detectors_resize_as_the_pipeline_does():
    sizes = np.random.default_rng(1).integers(100, 520, [40, 2])
    table, scales = SHORTER_SIDE.resized(tf.constant(sizes, tf.int32), (60, 0))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def exported(images):
        return SHORTER_SIDE.batch(images, (60, 0))

    for size, expected, scale in zip(sizes, table, scales, strict=True):
        batch = exported(tf.zeros([2, *size, 3], tf.uint8))
        assert batch["image"].shape == (2, *expected.numpy(), 3) and batch["image_size"][
            1
        ].numpy().tolist() == [*size]
        np.testing.assert_array_equal(batch["content_size"], [expected.numpy()] * 2)
        np.testing.assert_array_equal(batch["scale"], [scale.numpy()] * 2)


def test_an_epoch_holds_every_image_and_its_mirror_image_once(dataset):
    batches = _take(dataset, 10, batch_size=1, seed=1)
    names = [b["image_id"][0].decode() for b in batches]
    # five images with objects; 2008_000004 has none
    assert sorted(names) == sorted(["000007", *(f"2008_00000{i}" for i in (1, 2, 3, 5))] * 2)
    assert [b["image_id"][0].decode() for b in _take(dataset, 10, batch_size=1, seed=2)] != names


def test_rows_follow_the_contract(dataset):
    for batch in _take(dataset, 10, batch_size=1, seed=1):
        image, content = batch["image"][0], batch["content_size"][0]
        assert image.dtype == np.float32 and image.shape == (*content.astype(int), 3)
        assert content.min() == 48
        assert batch["boxes"].shape == (1, 20, 4) and batch["classes"].shape == (1, 20)
        valid = batch["valid"][0]
        assert np.all(batch["boxes"][0, ~valid] == 0) and np.all(batch["classes"][0, ~valid] == 0)
        if batch["image_id"][0] == b"2008_000001":
            assert content.tolist() == [48, 64]
            np.testing.assert_allclose(batch["scale"], [[0.8, 0.8]])
            boxes = batch["boxes"][0, valid] / 0.8
            plain = [[0, 1, 39, 49], [29, 4, 79, 59]]
            mirrored = [[79 - 39, 1, 79, 49], [0, 4, 50, 59]]
            assert np.allclose(boxes, plain, atol=1e-4) or np.allclose(boxes, mirrored, atol=1e-4)
            np.testing.assert_array_equal(batch["classes"][0, valid], [11, 14])


def test_mirrored_pixels_and_boxes_agree(dataset):
    images, boxes = {}, {}
    for batch in _take(dataset, 10, batch_size=1, seed=1):
        if batch["image_id"][0] == b"2008_000005":
            key = bool(batch["boxes"][0, 0, 0] > 3)
            images[key], boxes[key] = batch["image"][0], batch["boxes"][0, 0]
    np.testing.assert_allclose(images[True], images[False][:, ::-1], atol=1e-3)
    scale = 48 / 64  # box (2, 3, 59, 49) of 80 columns, mirrored (20, 3, 77, 49)
    np.testing.assert_allclose(boxes[False], np.array([2, 3, 59, 49]) * scale)
    np.testing.assert_allclose(boxes[True], np.array([20, 3, 77, 49]) * scale)


def test_batches_group_similar_shapes_and_pad(dataset):
    mixed = []  # whether a batch holds both tall and wide pictures
    for batch in _take(dataset, 6, batch_size=3, seed=3):
        sizes = batch["content_size"]
        assert batch["image"].shape[1:3] == tuple(sizes.max(axis=0).astype(int))
        for image, (height, width) in zip(batch["image"], sizes.astype(int), strict=True):
            assert np.all(image[height:] == 0) and np.all(image[:, width:] == 0)
        tall = sizes[:, 0] > sizes[:, 1]
        mixed.append(bool(tall.any()))
    # two of ten entries are tall, and side by side: of an epoch's three batches at most one mixes them
    assert sum(mixed[:3]) <= 1 and sum(mixed[3:]) <= 1 and any(mixed)
    batch = _take(dataset, 1, batch_size=3, seed=3, resize=ShorterSide(multiple=32))[0]
    assert all(side % 32 == 0 for side in batch["image"].shape[1:3])


def test_the_stream_is_a_function_of_the_seed_and_can_be_entered_anywhere(dataset):
    options = {"batch_size": 4, "seed": 7}
    whole = _take(dataset, 7, **options)  # an epoch has two batches
    for start in (1, 5):
        for expected, batch in zip(
            whole[start:], _take(dataset, 7 - start, start_step=start, **options), strict=True
        ):
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key], value, err_msg=key)


def test_workers_share_each_batch(dataset):
    whole = _take(dataset, 3, batch_size=4, seed=7)
    parts = [_take(dataset, 3, batch_size=4, seed=7, shard=(worker, 2)) for worker in range(2)]
    for expected, first, second in zip(whole, *parts, strict=True):
        for key, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([first[key], second[key]]), value, err_msg=key)


def test_long_images_are_cut(dataset):
    starts = set()
    for batch in _take(dataset, 60, batch_size=1, seed=1):
        if batch["image_id"][0] != b"2008_000003":
            continue
        # 50 x 150 becomes 48 x 144, cut to 48 x 96; boxes (4..19) and (89..119) span more than that
        assert batch["image"].shape[1:3] == (48, 96)
        boxes = batch["boxes"][0, batch["valid"][0]]
        assert len(boxes) and boxes.min() >= 0 and boxes[:, 2].max() <= 95
        starts.add(float(boxes[0, 0]))
    assert len(starts) > 3


def _drawn_starts(boxes, count):
    """The x at which 80 of 200 columns are cut, over many random keys."""
    keys = tf.stack([tf.ones(count, tf.int32), tf.range(count)], axis=1)
    sizes = tf.constant([40, 200]), tf.constant([40, 80])
    draw = tf.function(
        lambda: tf.map_fn(lambda key: resize.crop_start(tf.constant(boxes), *sizes, key), keys)
    )
    starts = draw()
    assert np.all(starts[:, 0] == 0)
    return set(starts[:, 1].numpy().tolist())


def test_crop_start_keeps_all_boxes_where_they_fit():
    # x from max(60 - 80, 0) to min(30, 120), the upper end left out
    assert _drawn_starts([[30.0, 5.0, 60.4, 20.0]], 300) == set(range(30))
    # 5 .. 194 does not fit: the cut begins in 5 .. 5 + (190 - 80) / 2
    assert _drawn_starts([[5.0, 5.0, 194.0, 20.0]], 600) == set(range(5, 60))
    assert _drawn_starts([[0.0, 5.0, 60.0, 20.0]], 9) == {0}
    assert _drawn_starts(np.zeros([0, 4], np.float32), 1500) == set(range(120))
    boxes = tf.constant([[5.0, 30.0, 20.0, 60.4]])
    start = resize.crop_start(boxes, tf.constant([200, 40]), tf.constant([80, 40]), tf.constant([1, 2]))
    assert start[1] == 0 and 0 <= start[0] < 30


def test_cut_boxes_are_limited_along_the_cut_only():
    boxes = tf.constant([[10.0, 5.0, 99.6, 40.2]])
    cut = resize.cut_boxes(boxes, tf.constant([0, 20]), tf.constant([40, 200]), tf.constant([40, 50]))
    np.testing.assert_allclose(cut, [[0, 5, 49, 40.2]])


def test_boxes_beyond_the_limit_are_a_random_choice(tmp_path):
    folder = tmp_path / "VOCdevkit/VOC2012"
    objects = [("cow", 2 * i + 1, 3, 2 * i + 6, 20, False) for i in range(25)]
    write_image(folder, "a", 48, 64, objects)
    write_image(folder, "b", 48, 64, [("cow", 5, 5, 5, 20, False), ("dog", 5, 5, 9, 20, False)])
    write_list(folder, "train", ["a", "b"])
    dataset = registry.open_split("voc", tmp_path, "train", progress=False)
    kept = []
    for batch in _take(dataset, 6, batch_size=1, seed=1, flip=0.0):
        assert batch["boxes"].shape == (1, 20, 4)
        if batch["image_id"][0] == b"a":
            left = batch["boxes"][0, :, 0]
            assert np.all(np.diff(left) > 0)  # in the order of the labels, none twice
            kept.append(tuple(left))
        else:
            # one pixel wide: dropped
            np.testing.assert_array_equal(batch["valid"][0, :2], [True, False])
            assert batch["classes"][0, 0] == 11
    assert len(set(kept)) == len(kept) == 3
    assert _take(dataset, 1, batch_size=2, seed=1, max_boxes=None)[0]["boxes"].shape == (2, 32, 4)


def test_evaluation_sees_every_image_once(dataset):
    singles = list(pipeline.evaluation_batches(dataset, batch_size=1, **SMALL).as_numpy_iterator())
    assert [b["image_id"][0].decode() for b in singles] == list(dataset.image_ids)
    by_name = {b["image_id"][0]: b for b in singles}
    assert by_name[b"2008_000003"]["image"].shape == (1, 48, 144, 3)  # not cut
    assert not by_name[b"2008_000004"]["valid"].any()
    for remainder, sizes in (("keep", [4, 2]), ("pad", [4, 4]), ("drop", [4])):
        batches = list(
            pipeline.evaluation_batches(
                dataset, batch_size=4, remainder=remainder, **SMALL
            ).as_numpy_iterator()
        )
        assert [len(b["image"]) for b in batches] == sizes
        names = [name for b in batches for name in b["image_id"] if name]
        assert len(set(names)) == len(names) == min(6, sum(sizes))
        for batch in batches:
            for row, name in enumerate(batch["image_id"]):
                if name:
                    height, width = batch["content_size"][row].astype(int)
                    np.testing.assert_array_equal(
                        batch["image"][row, :height, :width], by_name[name]["image"][0]
                    )


def test_prepare_is_applied(dataset):
    batches = pipeline.training_batches(
        dataset, batch_size=2, seed=1, prepare=lambda b: {**b, "extra": tf.shape(b["image"])[0]}, **SMALL
    )
    assert next(iter(batches))["extra"] == 2


def test_what_cannot_work(dataset, tmp_path):
    with pytest.raises(
        UserError, match="5 images with objects .10 with their mirror images. do not fill a batch of 11"
    ):
        _take(dataset, 1, batch_size=11, seed=1)
    with pytest.raises(UserError, match="a batch size of 3 cannot be shared equally by 2 workers"):
        _take(dataset, 1, batch_size=3, seed=1, shard=(0, 2))
    with pytest.raises(ValueError, match="remainder is 'x'"):
        pipeline.evaluation_batches(dataset, batch_size=1, remainder="x", **SMALL)
    for size, message in (
        ((8, 0), "8x0: expected are a short side of at least 32"),
        ((600, 500), "600x500: .* a limit"),
    ):
        with pytest.raises(UserError, match=message):
            SHORTER_SIDE.check_input_size(size)
    with pytest.raises(ValueError, match="the largest aspect ratio must be at least 1, not 0.5"):
        ShorterSide(max_aspect=0.5)
