"""Batches: contract, boxes of the reference, exact resume, sharding."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from places import GOLDEN

from fgfi_tf.data import pipeline, registry, transforms
from fgfi_tf.data.augment import KittiAugmentation
from fgfi_tf.data.resize import STRETCH, Stretch
from fgfi_tf.data.sample import BATCH_KEYS
from fgfi_tf.errors import UserError

CAR = "Car 0 0 0 2 3 11 18 1 1 1 0 0 10 0\n"
CYCLIST = "Cyclist 0 0 0 4 5 7 8 1 1 1 0 0 10 0\n"
VAN = CAR.replace("Car", "Van")


@pytest.fixture(scope="module", name="data")
def data_fixture(tmp_path_factory):
    """Seven frames of 24 x 32 pixels with 0, 1, 2, 0, 1, 2, 0 objects to train on and a van."""
    root = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for folder in ("training/image_2", "training/label_2", "ImageSets"):
        (root / folder).mkdir(parents=True)
    for i in range(7):
        Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(
            root / f"training/image_2/{i}.png"
        )
        (root / f"training/label_2/{i}.txt").write_text(
            VAN + [CAR, CYCLIST][0] * (i % 3 > 0) + CYCLIST * (i % 3 > 1)
        )
    (root / "ImageSets/train.txt").write_text("".join(f"{i}\n" for i in range(7)))
    return registry.open_split("kitti", root, "train", progress=False)


AUGMENT = KittiAugmentation(shift_x=4, shift_y=3)


def train(data, steps, **options):
    options = {"input_size": (16, 48), "batch_size": 4, "seed": 3, "augmentation": AUGMENT, **options}
    options.setdefault("resize", STRETCH)
    return list(pipeline.training_batches(data, **options).take(steps).as_numpy_iterator())


def same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def test_a_batch_keeps_the_contract(data):
    (batch,) = train(data, 1)
    assert set(batch) == set(BATCH_KEYS)
    shapes = {key: (value.dtype.kind, value.shape) for key, value in batch.items()}
    assert shapes == {
        "image": ("f", (4, 16, 48, 3)),
        "boxes": ("f", (4, 8, 4)),
        "classes": ("i", (4, 8)),
        "valid": ("b", (4, 8)),
        "content_size": ("f", (4, 2)),
        "scale": ("f", (4, 2)),
        "image_id": ("O", (4,)),
        "image_size": ("i", (4, 2)),
    }
    assert batch["image"].dtype == np.float32 and batch["image"].min() >= 0 and batch["image"].max() <= 255
    assert batch["content_size"].tolist() == [[16, 48]] * 4 and batch["image_size"].tolist() == [[24, 32]] * 4
    for row in range(4):
        count = batch["valid"][row].sum()
        assert count == int(batch["image_id"][row]) % 3 and batch["valid"][row, :count].all()
        assert (batch["boxes"][row, count:] == 0).all() and (batch["classes"][row, count:] == 0).all()
    spec = pipeline.training_batches(
        data, resize=STRETCH, input_size=(16, 48), batch_size=4, seed=0
    ).element_spec
    assert spec["image"].shape == (4, 16, 48, 3) and spec["boxes"].shape == (4, 8, 4)  # static for the graph


@pytest.mark.parametrize(
    "rule, car",
    [
        ("edges", [2 * 1.5, 3 * 2 / 3, 12 * 1.5 - 1, 19 * 2 / 3 - 1]),
        ("corners", [2 * 1.5, 3 * 2 / 3, 11 * 1.5, 18 * 2 / 3]),
    ],
)
def test_boxes_follow_the_resizing(data, rule, car):
    """24 x 32 to 16 x 48: 2/3 down, 1.5 across. Frame 2 has a car, then a cyclist; the van is dropped."""
    policy = Stretch()
    policy.box_corners = rule
    batches = pipeline.evaluation_batches(data, resize=policy, input_size=(16, 48), batch_size=7)
    (batch,) = batches.as_numpy_iterator()
    np.testing.assert_allclose(batch["scale"], [[2 / 3, 1.5]] * 7, rtol=1e-6)
    np.testing.assert_allclose(batch["boxes"][2, 0], car, rtol=1e-6)
    assert batch["classes"][2, :2].tolist() == [0, 2] and batch["valid"][2].sum() == 2
    policy.box_corners = "middle"
    with pytest.raises(ValueError, match="box_corners is 'middle', not one of edges, corners"):
        pipeline.evaluation_batches(data, resize=policy, input_size=(16, 48), batch_size=1)


def test_fewer_classes_leave_out_the_others(data):
    (batch,) = pipeline.evaluation_batches(
        data, resize=STRETCH, input_size=(16, 48), batch_size=7, num_classes=1
    ).as_numpy_iterator()
    assert batch["valid"].sum(1).tolist() == [0, 1, 1, 0, 1, 1, 0] and batch["classes"].max() == 0


def test_each_epoch_has_every_frame_once_in_an_order_of_its_own(data):
    names = [n.decode() for batch in train(data, 7) for n in batch["image_id"]]  # 28 = 4 epochs of 7
    epochs = [names[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == [str(i) for i in range(7)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = [n.decode() for batch in train(data, 7, seed=4) for n in batch["image_id"]]
    assert other != names


def test_a_resumed_stream_goes_on_exactly(data):
    """Step 1 begins within the first epoch, step 9 skips five whole ones of 7 frames."""
    whole = train(data, 11)
    for start in (1, 9):
        for left, right in zip(train(data, 11 - start, start_step=start), whole[start:], strict=True):
            same(left, right)


def test_runs_repeat_whatever_the_parallelism(data):
    for left, right in zip(
        train(data, 4, num_parallel_calls=8), train(data, 4, num_parallel_calls=1), strict=True
    ):
        same(left, right)


def test_workers_see_together_what_one_process_sees(data):
    whole = train(data, 3, start_step=1)
    parts = [train(data, 3, start_step=1, shard=(i, 2)) for i in range(2)]
    for step, batch in enumerate(whole):
        same({k: np.concatenate([part[step][k] for part in parts]) for k in batch}, batch)


def test_an_example_is_augmented_anew_in_every_epoch(data):
    scales = {}
    for batch in train(data, 14):
        for name, scale in zip(batch["image_id"], batch["scale"], strict=True):
            scales.setdefault(name, set()).add(tuple(scale))
    assert min(len(found) for found in scales.values()) > 3


def test_evaluation_has_every_frame_once_in_order(data):
    options = {"resize": STRETCH, "input_size": (16, 48), "batch_size": 3}
    names = lambda **more: [  # noqa: E731
        [n.decode() for n in b["image_id"]]
        for b in pipeline.evaluation_batches(data, **options, **more).as_numpy_iterator()
    ]
    assert names() == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert names(remainder="pad") == [["0", "1", "2"], ["3", "4", "5"], ["6", "", ""]]
    assert names(remainder="drop") == [["0", "1", "2"], ["3", "4", "5"]]
    with pytest.raises(ValueError, match="remainder is 'cut'"):
        names(remainder="cut")


def test_prepare_sees_whole_batches(data):
    (batch,) = train(
        data, 1, prepare=lambda batch: {**batch, "count": tf.reduce_sum(tf.cast(batch["valid"], tf.int32))}
    )
    assert batch["count"] == batch["valid"].sum()


def test_impossible_settings_are_refused(data):
    with pytest.raises(UserError, match="batch size of 4 cannot be shared equally by 3 workers"):
        train(data, 1, shard=(0, 3))
    with pytest.raises(UserError, match="max_boxes is 4, but kitti/train needs 8"):
        train(data, 1, max_boxes=4)
    assert train(data, 1, max_boxes=16)[0]["boxes"].shape == (4, 16, 4)


def test_more_objects_than_rows_is_an_error_of_the_graph():
    with pytest.raises(tf.errors.InvalidArgumentError, match="more objects in an image than max_boxes"):
        transforms.pad_objects(tf.zeros([3, 4]), tf.zeros([3], tf.int32), 2)


def kitti_folder(root, frames):
    """The raw layout of ``frames``: name -> (image [H, W, 3], label text), all in the split ``all``."""
    for folder in ("training/image_2", "training/label_2", "ImageSets"):
        (root / folder).mkdir(parents=True)
    for name, (image, text) in frames.items():
        Image.fromarray(image).save(root / f"training/image_2/{name}.png")
        (root / f"training/label_2/{name}.txt").write_text(text)
    (root / "ImageSets/all.txt").write_text("".join(f"{name}\n" for name in frames))
    return root


def test_boxes_are_those_of_the_reference(tmp_path):
    """(cx, cy, w, h) with w = xmax - xmin + 1 and cx = xmin + w / 2, in input pixels; real labels."""
    targets = np.load(GOLDEN / "shuffledet/targets.npz")
    frames = {}
    for part in (GOLDEN / "shuffledet/labels.txt").read_text().split("# ")[1:]:
        head, _, text = part.partition("\n")
        name, height, width = head.split()
        frames[name] = (np.zeros([int(height), int(width), 3], np.uint8), text)
    data = registry.open_split("kitti", kitti_folder(tmp_path, frames), "all", progress=False)
    ends = np.cumsum(targets["count"].astype(int))[:-1]
    expected = zip(np.split(targets["boxes_cxcywh"], ends), np.split(targets["labels"], ends), strict=True)
    batches = pipeline.evaluation_batches(data, resize=STRETCH, input_size=(384, 1248), batch_size=1)
    for batch, name, (truth, labels) in zip(batches.as_numpy_iterator(), frames, expected, strict=True):
        assert batch["image_id"][0].decode() == name
        boxes = batch["boxes"][batch["valid"]].astype(np.float64)
        size = boxes[:, 2:] - boxes[:, :2] + 1
        np.testing.assert_allclose(np.concatenate([boxes[:, :2] + size / 2, size], 1), truth, atol=3e-4)
        assert batch["classes"][batch["valid"]].tolist() == labels.tolist()


def test_the_image_is_resized_as_in_the_reference(tmp_path):
    """Half-pixel centres without antialiasing, at a few places, by hand; larger and smaller than the file."""
    pixels = np.random.default_rng(1).integers(0, 256, (75, 248, 3), dtype=np.uint8)
    data = registry.open_split("kitti", kitti_folder(tmp_path, {"0": (pixels, CAR)}), "all", progress=False)
    for height, width in ((96, 320), (48, 160)):
        (batch,) = pipeline.evaluation_batches(
            data, resize=STRETCH, input_size=(height, width), batch_size=1
        ).as_numpy_iterator()
        for y, x in ((0, 0), (17, 100), (20, 63), (height - 1, width - 1), (31, 5)):
            v = np.clip((y + 0.5) * 75 / height - 0.5, 0, 74)
            u = np.clip((x + 0.5) * 248 / width - 0.5, 0, 247)
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, 74), min(x0 + 1, 247)
            a, b = v - y0, u - x0
            expected = (1 - a) * ((1 - b) * pixels[y0, x0] + b * pixels[y0, x1]) + a * (
                (1 - b) * pixels[y1, x0] + b * pixels[y1, x1]
            )
            np.testing.assert_allclose(batch["image"][0, y, x], expected, atol=2e-2)
