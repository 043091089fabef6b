"""VOC through our builder and from the stock TFDS voc: the same samples."""

import numpy as np
import picture_files
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from voc_fixtures import write_devkit, write_image, write_list

from fgfi_tf.data import registry, transforms
from fgfi_tf.data.records import quiet_tfds
from fgfi_tf.errors import UserError


@pytest.fixture(scope="module", name="root")
def _root(tmp_path_factory):
    return write_devkit(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module", name="stock")
def _stock(root, tmp_path_factory):
    """The stock voc/2012, written by TFDS's own code from our folder instead of a download."""
    folder = tmp_path_factory.mktemp("stock")
    with quiet_tfds():
        builder = tfds.builder("voc/2012", data_dir=folder)
        builder._split_generators = lambda _: {
            "train": builder._generate_examples(str(root), "train"),
            "validation": builder._generate_examples(str(root), "val"),
        }
        builder.download_and_prepare(
            file_format="tfrecord", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return folder


def test_samples(root):
    dataset = registry.open_split("voc", root, "2012_train", progress=False)
    assert dataset.num_examples == 4 and len(dataset.learnt_names) == 20
    samples = list(dataset.records())
    first = samples[0]
    np.testing.assert_array_equal(first["boxes"], [[0, 1, 39, 49], [29, 4, 79, 59]])
    np.testing.assert_array_equal(first["classes"], [11, 14])
    np.testing.assert_array_equal(first["ignore"], [False, False])  # difficult objects are trained on
    np.testing.assert_array_equal(first["attributes"]["difficult"], [False, True])
    assert first["image_id"] == b"2008_000001"
    np.testing.assert_array_equal(first["image_size"], [60, 80])
    assert transforms.decode_image(first["image"]).shape == (60, 80, 3)
    assert samples[3]["boxes"].shape == (0, 4)
    assert dataset.labels()[1]["boxes"].tolist() == [[10, 20, 29, 39.5]]


def test_records_are_written_once_and_renewed(root, tmp_path):
    dataset = registry.open_split("voc", root, "2007_trainval", tmp_path, progress=False)
    assert dataset.image_ids == ("000007",)
    records = sorted(tmp_path.rglob("*.tfrecord*"))
    registry.open_split("voc", root, "2007_trainval", tmp_path, progress=False)
    assert sorted(tmp_path.rglob("*.tfrecord*")) == records
    annotation = root / "VOCdevkit/VOC2007/Annotations/000007.xml"
    annotation.write_text(annotation.read_text().replace("<xmin>2<", "<xmin>30<"))
    renewed = registry.open_split("voc", root, "2007_trainval", tmp_path, progress=False)
    assert next(iter(renewed.records()))["boxes"].numpy()[0, 0] == 29


def test_stock_voc_gives_the_same_samples(root, stock):
    ours = {
        s["image_id"].numpy(): s
        for s in registry.open_split("voc", root, "2012_trainval", progress=False).records()
    }
    dataset = registry.open_split("voc", stock, "2012_trainval")
    theirs = {s["image_id"].numpy(): s for s in dataset.records()}
    assert theirs.keys() == ours.keys() and len(ours) == 5
    for name, sample in ours.items():
        assert sample.keys() == theirs[name].keys()
        for key in ("image", "boxes", "classes", "ignore", "image_size"):
            np.testing.assert_array_equal(sample[key], theirs[name][key], err_msg=key)
        for key, value in sample["attributes"].items():
            np.testing.assert_array_equal(value, theirs[name]["attributes"][key])
    labels = {
        frame["image_id"]: frame
        for frame in registry.open_split("voc", root, "2012_trainval", progress=False).labels()
    }
    for frame in dataset.labels():
        assert frame.keys() == labels[frame["image_id"]].keys()
        for key, value in frame.items():
            np.testing.assert_array_equal(value, labels[frame["image_id"]][key], err_msg=key)


def test_stock_voc_that_cannot_be_used(stock, tmp_path):
    with pytest.raises(UserError, match="split 'train': of .* it must be a year"):
        registry.open_split("voc", stock, "train")
    with pytest.raises(UserError, match="2007: no prepared TFDS voc"):
        registry.open_split("voc", stock, "0712_train")
    with pytest.raises(UserError, match="5.0.0: has no split test"):
        registry.open_split("voc", stock, "2012_test")


def test_bad_images(tmp_path):
    root = write_devkit(tmp_path)
    image = root / "VOCdevkit/VOC2012/JPEGImages/2008_000002.jpg"
    annotation = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="2008_000002.jpg: the image is unreadable or truncated"):
        registry.open_split("voc", root, "2012_train", progress=False)
    image.write_bytes(whole)
    annotation.write_text(annotation.read_text().replace("<width>60", "<width>70"))
    with pytest.raises(UserError, match="2008_000002.xml: says 70 x 80, but .*2008_000002.jpg is 60 x 80$"):
        registry.open_split("voc", root, "2012_train", progress=False)
    image.write_bytes(whole)
    picture_files.zeros_at_the_end(image)
    with pytest.raises(UserError, match="2008_000002.jpg: the image is unreadable or truncated: its JPEG"):
        registry.open_split("voc", root, "2012_train", progress=False)


@pytest.mark.parametrize("suffix, kind", [("JPG", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("Jpg", "MPO")])
def test_images_are_found_by_their_stem(tmp_path, suffix, kind):
    root = write_devkit(tmp_path)
    folder = root / "VOCdevkit/VOC2012/JPEGImages"
    with Image.open(folder / "2008_000002.jpg") as image:
        image.save(folder / f"2008_000002.{suffix}", kind)
    (folder / "2008_000002.jpg").unlink()
    (folder / "._2008_000002.jpg").write_bytes(b"\x00\x05\x16\x07")
    samples = {
        s["image_id"].numpy(): s
        for s in registry.open_split("voc", root, "2012_train", progress=False).records()
    }
    assert len(samples) == 4
    assert transforms.decode_image(samples[b"2008_000002"]["image"]).shape == (80, 60, 3)


def test_jpg_goes_before_png(tmp_path):
    root = write_devkit(tmp_path)
    folder = root / "VOCdevkit/VOC2012/JPEGImages"
    Image.new("RGB", (7, 5)).save(folder / "2008_000002.png")
    sample = list(registry.open_split("voc", root, "2012_train", progress=False).records())[1]
    assert sample["image"] == (folder / "2008_000002.jpg").read_bytes()


def with_exif(path, orientation):
    """A picture of one white block in its upper left corner as stored, the rest black."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:16, :24] = 255
    path.write_bytes(picture_files.jpeg(pixels, exif=picture_files.exif(orientation)))


@pytest.mark.parametrize(
    "orientation, size, corner",
    # where the block of 24 x 16 is shown: EXIF 3 turns by 180 degrees, 6 clockwise, 8 the other way
    [(1, (60, 80), (0, 0, 24, 16)), (3, (60, 80), (56, 44, 80, 60)), (6, (80, 60), (44, 0, 60, 24))],
)
def test_boxes_hold_what_they_hold_in_a_viewer(tmp_path, orientation, size, corner):
    root = tmp_path / "VOCdevkit/VOC2012"
    xmin, ymin, xmax, ymax = corner
    write_image(root, "a", *size, [("dog", xmin + 1, ymin + 1, xmax, ymax, False)])
    with_exif(root / "JPEGImages/a.jpg", orientation)
    write_list(root, "train", ["a"])
    (sample,) = registry.open_split("voc", tmp_path, "2012_train", progress=False).records()
    assert tuple(sample["image_size"].numpy()) == size
    x0, y0, x1, y1 = sample["boxes"].numpy()[0].astype(int)
    pixels = transforms.decode_image(sample["image"]).numpy()
    assert pixels.shape == (*size, 3)
    assert pixels[y0 : y1 + 1, x0 : x1 + 1].mean() > 250
    outside = np.ones(size, bool)
    outside[y0 : y1 + 1, x0 : x1 + 1] = False
    assert pixels[outside].mean() < 5


def test_a_size_before_exif_turned_the_picture_is_refused(tmp_path):
    """Nothing tells on which of the two pictures the boxes were drawn."""
    root = tmp_path / "VOCdevkit/VOC2012"
    write_image(root, "a", 60, 80, [("dog", 1, 1, 24, 16, False)])
    with_exif(root / "JPEGImages/a.jpg", 6)
    write_list(root, "train", ["a"])
    with pytest.raises(UserError, match="a.xml: says 80 x 60, but .*a.jpg is 60 x 80; where EXIF turns"):
        registry.open_split("voc", tmp_path, "2012_train", progress=False)


def test_boxes_over_the_edge_and_sizes_that_are_not_given(tmp_path, caplog):
    """The image 2008_000002 is 60 wide and 80 high; files count from 1."""
    root = write_devkit(tmp_path)
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    text = path.read_text()
    over = text.replace("<xmin>11", "<xmin>0").replace("<ymax>40.5", "<ymax>81")
    path.write_text(over.replace("<width>60", "<width>0"))
    other = path.with_name("2008_000003.xml")
    other.write_text(other.read_text().replace("<size>", "<sizes>").replace("</size>", "</sizes>"))
    dataset = registry.open_split("voc", root, "2012_train", progress=False)
    samples = list(dataset.records().as_numpy_iterator())
    np.testing.assert_array_equal(samples[1]["boxes"], [[0, 20, 29, 79]])
    assert samples[1]["image_size"].tolist() == [80, 60] and samples[2]["image_size"].tolist() == [50, 150]
    assert "over the edge of their image, cut: 1, in 2008_000002; sizes that the labels do not" in caplog.text
    assert "give, read from the picture: 2, in 2008_000002, 2008_000003" in caplog.text
    labels = dataset.labels()
    assert labels[1]["boxes"].tolist() == [[-1, 20, 29, 80]]  # evaluation takes them as they are
    assert labels[1]["image_size"].tolist() == [80, 60] and labels[2]["image_size"].tolist() == [50, 150]
    path.write_text(text.replace("<ymax>40.5", "<ymax>81.5"))
    other.write_text(other.read_text().replace("<sizes>", "<size>").replace("</sizes>", "</size>"))
    with pytest.raises(
        UserError, match=r"2008_000002.xml: the box 10 20 29 80.5 \(.*\) is outside the image"
    ):
        registry.open_split("voc", root, "2012_train", progress=False)
    path.write_text(text.replace("sheep", "Helmet"))
    other.write_text(other.read_text().replace("train", "tram"))
    dataset = registry.open_split("voc", root, "2012_train", progress=False)
    assert "classes that are not learnt: Helmet 1, tram 1 (--classes" in caplog.text
    assert len(dataset.learnt_names) == 20 and dataset.class_names[20:] == ("Helmet", "tram")
    assert dataset.labels()[1]["classes"].tolist() == [20] and dataset.labels()[1]["ignore"].tolist() == [
        True
    ]


def test_a_test_split_without_annotations_has_no_objects(tmp_path):
    root = write_devkit(tmp_path)
    folder = root / "VOCdevkit/VOC2012"
    (folder / "ImageSets/Main/test.txt").write_text("2008_000005\n")
    (folder / "Annotations/2008_000005.xml").unlink()
    dataset = registry.open_split("voc", root, "2012_test", progress=False)
    (sample,) = dataset.records()
    assert sample["boxes"].shape == (0, 4)
    (labels,) = dataset.labels()
    assert labels["image_size"].tolist() == [64, 80] and labels["boxes"].shape == (0, 4)
