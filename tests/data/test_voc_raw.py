"""The raw VOC layout."""

import shutil

import numpy as np
import pytest
from voc_fixtures import write_devkit

from fgfi_tf.data import voc_raw
from fgfi_tf.errors import UserError


@pytest.fixture(name="root")
def _root(tmp_path):
    return write_devkit(tmp_path)


def test_annotation(root):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000001.xml"
    annotation = voc_raw.read_annotation(path)
    assert annotation.image_size == (60, 80)
    arrays = annotation.arrays()
    np.testing.assert_array_equal(
        arrays["boxes"], [[0, 1, 39, 49], [29, 4, 79, 59]]
    )  # 0-based, parts left out
    np.testing.assert_array_equal(arrays["classes"], [11, 14])
    np.testing.assert_array_equal(arrays["difficult"], [False, True])
    np.testing.assert_array_equal(arrays["truncated"], [True, False])
    empty = voc_raw.read_annotation(path.with_name("2008_000004.xml")).arrays()
    assert empty["boxes"].shape == (0, 4) and empty["difficult"].dtype == bool


def test_splits(root):
    assert [f.image_id for f in voc_raw.list_frames(root, "2012_train")] == [
        f"2008_00000{i}" for i in (1, 2, 3, 4)
    ]
    both = voc_raw.list_frames(root / "VOCdevkit", "0712_trainval")
    assert [f.image_id for f in both] == ["000007", *(f"2008_00000{i}" for i in range(1, 6))]
    assert both[0].annotation_path == root / "VOCdevkit/VOC2007/Annotations/000007.xml"
    shutil.rmtree(root / "VOCdevkit/VOC2007")
    assert [f.image_id for f in voc_raw.list_frames(root, "val")] == ["2008_000005"]


def test_a_test_split_may_have_no_annotations(root):
    folder = root / "VOCdevkit/VOC2012"
    (folder / "ImageSets/Main/test.txt").write_text("2008_000001\n")
    (folder / "Annotations/2008_000001.xml").unlink()
    (frame,) = voc_raw.list_frames(root, "2012_test")
    assert frame.annotation_path is None


@pytest.mark.shared_data
def test_the_real_subset(shared_path):
    root = shared_path("data/voc")
    counts = [len(voc_raw.list_frames(root, split)) for split in ("train", "2012_val", "trainval")]
    assert counts == [500, 200, 700]
    objects = [voc_raw.read_annotation(f.annotation_path).objects for f in voc_raw.list_frames(root, "val")]
    assert sum(map(len, objects)) == 687
    assert sum(o.difficult for image in objects for o in image) == 99


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>sheep", "<name>unicorn", "2008_000002.xml: unknown class 'unicorn'; known are aeroplane, "),
        ("<xmin>11", "<xmin>x", "2008_000002.xml: <xmin> is 'x', not a number"),
        ("<xmin>11", "<xmin>nan", "2008_000002.xml: <xmin> is 'nan', not a number"),
        ("<xmin>11", "<xmin>31", "2008_000002.xml: the box 31 21 30 40.5 of a sheep is upside down"),
        (
            "<ymax>40.5",
            "<ymax>81",
            "the box 11 21 30 81 of a sheep is outside the image, 60 wide and 80 high",
        ),
        ("<xmin>11", "<xmin>0", "outside the image"),
        ("<size>", "<sizes>", "2008_000002.xml: not a VOC annotation"),
        ("</annotation>", "", "2008_000002.xml: not a VOC annotation"),
        ("<width>60", "<width>", "2008_000002.xml: <width> is '', not a number"),
    ],
)
def test_bad_annotations(root, old, new, message):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        voc_raw.read_annotation(path)


def test_annotations_without_parts(root):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    path.write_text("<annotation/>")
    with pytest.raises(UserError, match="it has no <size>"):
        voc_raw.read_annotation(path)
    path.write_text(
        "<annotation><size><width>9</width><height>9</height></size><object><name>cow</name></object></annotation>"
    )
    with pytest.raises(UserError, match="a cow has no <bndbox>"):
        voc_raw.read_annotation(path)
    path.unlink()
    with pytest.raises(UserError, match="2008_000002.xml: cannot read this annotation: No such file"):
        voc_raw.read_annotation(path)


def test_bad_folders_and_splits(root, tmp_path):
    with pytest.raises(UserError, match="no VOC data; it must hold VOCdevkit/VOC2007"):
        voc_raw.list_frames(tmp_path / "nowhere", "2012_train")
    with pytest.raises(
        UserError, match="holds VOC2007 and VOC2012: name the split 2007_train, 2012_train or 0712_train"
    ):
        voc_raw.list_frames(root, "train")
    with pytest.raises(UserError, match="has no test.txt; it has train, trainval, val"):
        voc_raw.list_frames(root, "2012_test")
    folder = root / "VOCdevkit/VOC2012"
    path = folder / "ImageSets/Main/val.txt"
    for text, message in (
        ("\n", "val.txt: the split is empty"),
        (
            "2008_000005\n2008_000005\n",
            "val.txt line 2: image 2008_000005 is named twice, first in .*val.txt line 1",
        ),
        ("2009_1\n", "val.txt line 1: image 2009_1 has no image file .*2009_1.jpg"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            voc_raw.list_frames(root, "2012_val")
    path.write_text("2008_000005\n")
    (folder / "Annotations/2008_000005.xml").unlink()
    with pytest.raises(UserError, match="image 2008_000005 has no annotation .*2008_000005.xml"):
        voc_raw.list_frames(root, "2012_val")
