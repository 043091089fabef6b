"""Against the whole shared arrays: Batches: contract, boxes of the reference, exact resume, sharding."""

import numpy as np
import pytest
from PIL import Image
from places import SHARED

from fgfi_tf.data import pipeline, registry
from fgfi_tf.data.augment import KittiAugmentation
from fgfi_tf.data.resize import STRETCH

SHARED_FOLDER = SHARED / "golden/shuffledet"
if not SHARED_FOLDER.exists():
    pytest.skip(f"the shared reference data is absent: {SHARED_FOLDER}", allow_module_level=True)

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


@pytest.fixture(scope="module", name="real")
def real_fixture(tmp_path_factory, shared_path):
    source = shared_path("data/kitti")
    root = tmp_path_factory.mktemp("kitti")
    targets = np.load(shared_path("golden/shuffledet/targets.npz"))
    names = [str(targets[f"id_{n}"]) for n in range(12)]
    (root / "training").mkdir()
    for folder in ("image_2", "label_2"):
        (root / "training" / folder).symlink_to(source / "training" / folder)
    (root / "ImageSets").mkdir()
    (root / "ImageSets/golden.txt").write_text("\n".join(names))
    (root / "ImageSets/first.txt").write_text("000001\n")
    return root, targets


@pytest.mark.shared_data
def test_the_image_is_resized_as_in_the_reference(real, shared_path):
    """Half-pixel centres without antialiasing, at a few places, from the decoded file by hand."""
    root, _ = real
    data = registry.open_split("kitti", root, "first", progress=False)
    batches = pipeline.evaluation_batches(data, resize=STRETCH, input_size=(384, 1248), batch_size=1)
    (batch,) = batches.as_numpy_iterator()
    pixels = np.asarray(Image.open(shared_path("golden/shuffledet/input_000001.jpg"))).astype(np.float64)
    height, width = pixels.shape[:2]
    for y, x in ((0, 0), (17, 1000), (200, 623), (383, 1247), (301, 5)):
        v = np.clip((y + 0.5) * height / 384 - 0.5, 0, height - 1)
        u = np.clip((x + 0.5) * width / 1248 - 0.5, 0, width - 1)
        y0, x0 = int(v), int(u)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        a, b = v - y0, u - x0
        expected = (1 - a) * ((1 - b) * pixels[y0, x0] + b * pixels[y0, x1]) + a * (
            (1 - b) * pixels[y1, x0] + b * pixels[y1, x1]
        )
        np.testing.assert_allclose(batch["image"][0, y, x], expected, atol=2e-2)
