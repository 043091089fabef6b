"""``--dataset=folder``: pictures and label files as tools leave them."""

import numpy as np
import pytest
from own_fixtures import ids, open_split, picture, text, xml

from fgfi_tf.data import edges, splits
from fgfi_tf.data.readers import yolo
from fgfi_tf.data.readers.folder import Folder
from fgfi_tf.errors import UserError


def frames(root, split="all", fraction=0.2):
    """By image id, without records."""
    return {frame.image_id: frame for frame in splits.frames_of(Folder(), root, split, fraction, {})}


def one(root, split="all"):
    (frame,) = frames(root, split).values()
    return frame


@pytest.mark.parametrize(
    "image, label",
    [
        ("a.JPG", "a.xml"),
        ("my photos/a.jpeg", "my photos/a.xml"),
        ("a.png", "Annotations/a.xml"),
        ("JPEGImages/a.webp", "Annotations/a.xml"),
        ("x/images/a.bmp", "x/annotations/a.xml"),
        ("images/y/a.Tif", "labels/y/a.xml"),
        ("y/a.tiff", "Labels/y/a.xml"),
    ],
)
def test_xml_files_beside_the_pictures_or_in_a_folder_of_their_own(tmp_path, image, label):
    picture(tmp_path / image)
    xml(tmp_path / label, ("dog", 1, 2, 10, 12))
    frame = one(tmp_path)
    assert frame.image_id == image.rpartition(".")[0] and frame.label_path == tmp_path / label
    assert frame.boxes.tolist() == [[0, 1, 9, 11]] and frame.names == ("dog",)
    assert frame.image_size == (20, 40) and set(frame.attributes) == {"difficult", "truncated"}


def test_roboflows_folders_are_the_splits(tmp_path):
    for name in ("train/a", "train/b", "valid/c", "test/d"):
        xml(picture(tmp_path / f"{name}.jpg").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    assert list(frames(tmp_path, "train")) == ["train/a", "train/b"]
    assert list(frames(tmp_path, "val")) == list(frames(tmp_path, "valid")) == ["valid/c"]
    assert list(frames(tmp_path, "test")) == ["test/d"]
    assert list(frames(tmp_path, "all")) == ["train/a", "train/b", "valid/c", "test/d"]
    with pytest.raises(UserError, match="has no split 'trainval'; it has train, valid, test"):
        frames(tmp_path, "trainval")


def test_a_test_folder_may_have_no_labels(tmp_path):
    xml(picture(tmp_path / "train/a.jpg").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    picture(tmp_path / "test/b.jpg")
    frame = one(tmp_path, "test")
    assert frame.label_path is None and frame.boxes.shape == (0, 4)
    picture(tmp_path / "val/c.jpg")
    with pytest.raises(
        UserError, match="none of the 1 pictures of the split 'val' has a label file .*, e.g. val/c"
    ):
        frames(tmp_path, "val")


@pytest.mark.parametrize("part", ["labels/{}", "{}/labels"])
def test_yolos_text_files(tmp_path, part):
    """40 x 20: a box of centre (20, 10), 10 wide and high, covers columns 15 to 24 and rows 5 to 14."""
    for split in ("train", "val"):
        picture(tmp_path / part.replace("labels", "images").format(split) / "a.png")
        text(tmp_path / part.format(split) / "a.txt", "1 0.5 0.5 0.25 0.5", "", "0 0.1 0.2 0.1 0.3 0.3 0.25")
    text(tmp_path / "data.yaml", "train: ../train/images", "names: ['hard hat', vest]", "nc: 2")
    frame = one(tmp_path, "val")
    assert frame.names == ("vest", "hard hat")
    np.testing.assert_allclose(frame.boxes, [[15, 5, 24, 14], [4, 4, 11, 5]], atol=1e-9)  # a triangle's box


def test_yolos_boxes_without_area_are_ignored(tmp_path):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.txt", "0 0.5 0.5 0 0.5", "0 0.5 0.5 0.25 0.5")
    text(tmp_path / "classes.txt", "dog")
    frame = one(tmp_path)
    assert frame.ignore.tolist() == [True, False] and frame.notes == ["boxes without area, ignored"]
    data = open_split("folder", tmp_path, "all")
    assert data.sample(0)["ignore"].numpy().tolist() == [True, False]


@pytest.mark.parametrize(
    "lines, names",
    [
        (["names: [a, 'b c', \"d\"]"], ("a", "b c", "d")),
        (["nc: 3", "names: ['a',", "  'b c', 'd']", "x: 1"], ("a", "b c", "d")),
        (["names:", "- a", "- b c", "- 'd'", "nc: 3"], ("a", "b c", "d")),
        (
            ["path: .", "names:", "  0: a", "  2: d # last", '  1: "b c"', "", "download: x"],
            ("a", "b c", "d"),
        ),
        (["names: {0: a, 1: b c, 2: d}"], ("a", "b c", "d")),
        (["names: {1: b, 0: a}"], ("a", "b")),
        (["names: {'0': a, \"1\": 'b, c'}"], ("a", "b, c")),
        (['names: {"0":"a","1":"b"}'], ("a", "b")),
        (["names:", "  '0': a", "  '1': b:c"], ("a", "b:c")),
        (["names: [\"a]b\", it's, 'it''s', \"\\u00e9\", ]  # all"], ("a]b", "it's", "it's", "é")),
        (["names: [", "  a,", "  b", "]", "nc: 2"], ("a", "b")),
    ],
)
def test_names_of_yaml_files(tmp_path, lines, names):
    assert yolo.read_names(text(tmp_path / "data.yaml", *lines)) == names


@pytest.mark.parametrize(
    "line, message",
    [
        ("names: {0: a, 2: c}", "data.yaml: class 1 has no name"),
        ("names: {0: a", "holds no class names, one a line or as names: "),
        ("names: {a: b}", "holds no class names"),
        ("names: {0: a, b: c}", "holds no class names"),
        ("names: {9999999: a}", "holds no class names"),
        ("names: [a, [b]]", "holds no class names"),
        ("names: []", "holds no class names"),
    ],
)
def test_names_that_cannot_be_read(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        yolo.read_names(text(tmp_path / "data.yaml", line))


@pytest.mark.parametrize("name", ["obj.names", "classes.txt", "my.names", "_darknet.labels"])
def test_names_files(tmp_path, name):
    picture(tmp_path / "sub/a.png")
    text(tmp_path / "sub/a.txt", "1 0.5 0.5 0.25 0.5")
    with pytest.raises(
        UserError, match="YOLO's labels number the classes and there is no file with their names: data.yaml"
    ):
        frames(tmp_path)
    text(tmp_path / "sub" / name, "dog", "hard hat")
    assert one(tmp_path).names == ("hard hat",)
    text(tmp_path / "sub" / name, "")
    with pytest.raises(UserError, match="holds no class names"):
        frames(tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("2 0.5 0.5 0.1 0.1", "a.txt line 2: class 2 has no name: the names file holds 2"),
        ("dog 0.5 0.5 0.1 0.1", "a.txt line 2: 'dog' is no class number"),
        ("0 0.5 0.5 0.1", "4 fields instead of class cx cy w h"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 fields instead of .*; it may be a file of detections"),
        ("0 0.5 nan 0.1 0.1", "not numbers: '0.5 nan 0.1 0.1'"),
        ("0 0.5 0.5 -0.1 0.1", "the box has a negative size"),
        ("0 20 10 10 10", "not shares of the picture's sides, 0 to 1: 20 10 10 10"),
    ],
)
def test_wrong_lines_of_yolo(tmp_path, line, message):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.txt", "0 0.5 0.5 0.1 0.1", line)
    text(tmp_path / "classes.txt", "dog", "cat")
    with pytest.raises(UserError, match=message):
        frames(tmp_path)


def test_vocs_lists_of_a_flat_folder(tmp_path):
    for name in "abc":
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        xml(tmp_path / f"Annotations/{name}.xml", ("dog", 1, 1, 9, 9))
    text(tmp_path / "ImageSets/Main/train.txt", "b", "a")
    text(tmp_path / "ImageSets/Main/dog_train.txt", "b  1", "a -1")
    text(tmp_path / "ImageSets/Main/val.txt", "c")
    assert Folder().splits(tmp_path) == ["train", "val"]
    assert list(frames(tmp_path, "train")) == ["b", "a"] and list(frames(tmp_path, "val")) == ["c"]
    assert Folder().image_folder(tmp_path, "val") == tmp_path / "JPEGImages"
    (tmp_path / "ImageSets/Main/val.txt").rename(tmp_path / "ImageSets/Main/default.txt")
    assert list(frames(tmp_path, "default")) == ["c"]


def test_a_share_of_the_pictures_is_fixed_by_their_names(tmp_path):
    names = [f"{part}/{i}" for part in "ab" for i in range(40)]
    for name in names:
        xml(picture(tmp_path / f"{name}.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    train, val = frames(tmp_path, "train"), frames(tmp_path, "val")
    assert sorted([*train, *val]) == sorted(names) and 8 <= len(val) <= 24
    for name in names[:20]:
        (tmp_path / f"{name}.png").unlink()
    later = frames(tmp_path, "val")
    assert set(later) == set(val) - set(names[:20])
    assert set(frames(tmp_path, "val", 0.1)) <= set(later) <= set(frames(tmp_path, "val", 0.5))
    assert len(frames(tmp_path, "train", 0)) == 60
    for fraction, split, message in (
        (0, "val", r"--val_fraction=0 leaves no picture of 60 to 'val'"),
        (1, "val", "--val_fraction=1: must be at least 0 and below 1"),
        (
            0.2,
            "test",
            "has no split 'test': it has none of its own; --val_fraction makes train and val, and all",
        ),
    ):
        with pytest.raises(UserError, match=message):
            frames(tmp_path, split, fraction)


def test_the_hash_is_of_the_name_alone():
    # the first 8 bytes of their SHA-256 as shares of 2^64: 0.791, 0.243, 0.182, 0.096
    assert [splits.is_validation(name, 0.5) for name in ("a", "b", "c", "d")] == [False, True, True, True]


def test_a_fraction_that_leaves_a_split_empty_names_one_that_does_not(tmp_path):
    for name in "abcd":  # see above: 0.791, 0.243, 0.182, 0.096
        xml(picture(tmp_path / f"{name}.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    remedy = "--val_fraction=0.1 leaves 1 to val; --val_split=train takes train for both"
    for fraction, split in ((0.05, "val"), (0.8, "train")):
        with pytest.raises(UserError, match=rf"={fraction} leaves no picture of 4 to '{split}' .*; {remedy}"):
            frames(tmp_path, split, fraction)
    assert list(frames(tmp_path, "val", 0.1)) == ["d"]
    for name in "bcd":
        (tmp_path / f"{name}.png").unlink()
    with pytest.raises(UserError, match="take this one for both: --val_fraction=0 --val_split=train"):
        frames(tmp_path, "val", 0.2)


def test_a_lone_train_folder_is_divided(tmp_path):
    for i in range(20):
        xml(picture(tmp_path / f"train/{i}.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    assert len(frames(tmp_path, "train", 0.3)) + len(frames(tmp_path, "val", 0.3)) == 20


def test_a_lone_folder_of_validation_is_whole_and_leaves_nothing_to_train_on(tmp_path):
    for i in range(10):
        xml(picture(tmp_path / f"valid/{i}.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    assert len(frames(tmp_path, "val")) == len(frames(tmp_path, "all")) == 10
    with pytest.raises(UserError, match="no split 'train', only valid: call that train, and --val_fraction"):
        frames(tmp_path, "train")


def test_all_holds_every_picture_once(tmp_path):
    """VOC's trainval holds what train and val hold."""
    for name in "abc":
        picture(tmp_path / f"JPEGImages/{name}.png")
        xml(tmp_path / f"Annotations/{name}.xml", ("dog", 1, 1, 9, 9))
    for name, listed in {"train": "ab", "val": "c", "trainval": "abc"}.items():
        text(tmp_path / f"ImageSets/Main/{name}.txt", *listed)
    assert sorted(frames(tmp_path, "all")) == ["a", "b", "c"]


def test_pictures_without_labels_and_labels_without_pictures_are_counted(tmp_path, caplog):
    for name in "abcde":
        picture(tmp_path / f"{name}.png")
    xml(tmp_path / "a.xml", ("dog", 1, 1, 9, 9))
    xml(tmp_path / "zz.xml", ("dog", 1, 1, 9, 9))
    assert list(frames(tmp_path)) == ["a"]
    assert "no object): 4, b.png, c.png, d.png and 1 more" in caplog.text
    assert "label files without a picture: 1, zz.xml" in caplog.text


def test_what_is_hidden_or_no_picture_is_passed_over(tmp_path):
    xml(picture(tmp_path / "a.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    for name in (".hidden/b.png", "__MACOSX/c.png", "SegmentationClass/a.png", "._a.png"):
        picture(tmp_path / name)
    assert list(frames(tmp_path)) == ["a"]


def test_links_are_followed_once(tmp_path):
    xml(picture(tmp_path / "data/a.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    (tmp_path / "data/again").symlink_to(tmp_path / "data")
    (tmp_path / "more").mkdir()
    xml(picture(tmp_path / "more/b.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    (tmp_path / "data/more").symlink_to(tmp_path / "more")
    assert list(frames(tmp_path / "data")) == ["a", "more/b"]


def test_a_name_that_no_result_file_can_hold(tmp_path):
    xml(picture(tmp_path / "a\tb.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    with pytest.raises(UserError, match="its name has characters that result files cannot hold"):
        frames(tmp_path)


def test_two_pictures_of_one_name(tmp_path):
    xml(picture(tmp_path / "a.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    picture(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="a.jpg and .*a.png have the same name 'a': rename one"):
        frames(tmp_path)
    with pytest.raises(UserError, match="nowhere: there is no such folder; --dataset=folder reads"):
        frames(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no pictures there"):
        frames(tmp_path / "empty")


def test_equal_names_in_two_folders_stay_apart_in_the_records(tmp_path):
    for folder, name in (("x", "dog"), ("y", "cat")):
        xml(picture(tmp_path / folder / "a.png").with_suffix(".xml"), (name, 1, 1, 9, 9))
    data = open_split("folder", tmp_path, "all")
    assert data.image_ids == ("x/a", "y/a") and data.learnt_names == ("cat", "dog")
    assert [s["image_id"] for s in data.records().as_numpy_iterator()] == [b"x/a", b"y/a"]
    assert [f["classes"].tolist() for f in data.labels()] == [[1], [0]]
    assert ids("folder", tmp_path, "all") == data.image_ids


@pytest.mark.parametrize("box", [(1002, 10, 1006, 50), (-8, 10, -3, 50), (10, 502, 50, 504), (1, -9, 9, -2)])
def test_a_box_beside_its_picture_is_no_object_at_its_edge(box):
    """A box may reach over the edge of 1000 x 500 by 10 and by 5, but not lie beyond it."""
    boxes = np.array([[0.0, 0.0, 9.0, 9.0], box])
    with pytest.raises(UserError, match=f"the box {box[0]} {box[1]} .* is outside the image"):
        edges.cut_to_image(boxes, (500, 1000), None)
    assert edges.cut_to_image(boxes, (500, 1000), None, anywhere=True)[1] == 1
    rounded, count = edges.cut_to_image(np.array([[1000.0, -3.0, 1001.0, -1.0]]), (500, 1000), None)
    assert rounded.tolist() == [[999, 0, 999, 0]] and count == 1  # a pixel is rounding


def test_what_is_put_right_is_one_line_and_what_is_nonsense_stops(tmp_path, caplog):
    """Pictures are 40 x 20; XML counts from 1."""
    for name, box in {"a": (0, 1, 9, 9), "b": (1, 1, 41, 20), "c": (0.4, 1, 9, 20.5)}.items():
        xml(picture(tmp_path / f"{name}.png").with_suffix(".xml"), ("dog", *box), size=None)
    data = open_split("folder", tmp_path, "all")
    assert "all: boxes that reached over the edge of their image, cut: 3, in a, b, c; sizes " in caplog.text
    assert "sizes that the labels do not give, read from the picture: 3, in a, b, c" in caplog.text
    boxes = [sample["boxes"].tolist() for sample in data.records().as_numpy_iterator()]
    assert boxes == [[[0, 0, 8, 8]], [[0, 0, 39, 19]], [[0, 0, 8, 19]]]
    for name, box in {"a": (50, 1, 60, 9), "b": (9, 1, 8, 9), "c": (1, 1, 60, 9)}.items():
        xml(tmp_path / f"{name}.xml", ("dog", *box))
    with pytest.raises(UserError, match="b.xml: the box 9 1 8 9 of a dog is upside down"):
        open_split("folder", tmp_path, "all")
    xml(tmp_path / "b.xml", ("dog", "nan", 1, 8, 9))
    with pytest.raises(UserError, match="b.xml: <xmin> is 'nan', not a number"):
        open_split("folder", tmp_path, "all")
    xml(tmp_path / "b.xml", ("dog", 1, 1, 8, 9), size=(20, 40))
    with pytest.raises(UserError, match="3 problems:") as error:
        open_split("folder", tmp_path, "all")
    lines = str(error.value).splitlines()
    assert "a.xml: the box 49 0 59 8 (xmin ymin xmax ymax, counted from 0) is outside the image" in lines[1]
    assert "b.xml: says 20 x 40, but" in lines[2] and "where EXIF turns a picture" in lines[2]
    assert "c.xml: the box 0 0 59 8" in lines[3]
