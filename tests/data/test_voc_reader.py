"""The raw VOC layout."""

import shutil

import numpy as np
import pytest
from voc_fixtures import write_devkit, write_list

from fgfi_tf.data.readers import voc, voc_xml
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.voc import files


@pytest.fixture(name="root")
def _root(tmp_path):
    return write_devkit(tmp_path)


def test_annotation(root):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000001.xml"
    annotation = voc_xml.read_annotation(path)
    assert annotation.image_size == (60, 80)
    np.testing.assert_array_equal(annotation.boxes, [[0, 1, 39, 49], [29, 4, 79, 59]])  # parts left out
    assert annotation.names == ("dog", "person")
    np.testing.assert_array_equal(annotation.attributes["difficult"], [False, True])
    np.testing.assert_array_equal(annotation.attributes["truncated"], [True, False])
    empty = voc_xml.read_annotation(path.with_name("2008_000004.xml"))
    assert empty.boxes.shape == (0, 4) and empty.attributes["difficult"].dtype == bool


def test_splits(root):
    assert [f.image_id for f in voc.list_frames(root, "2012_train")] == [
        f"2008_00000{i}" for i in (1, 2, 3, 4)
    ]
    both = voc.list_frames(root / "VOCdevkit", "0712_trainval")
    assert [f.image_id for f in both] == ["000007", *(f"2008_00000{i}" for i in range(1, 6))]
    assert both[0].label_path == root / "VOCdevkit/VOC2007/Annotations/000007.xml"
    shutil.rmtree(root / "VOCdevkit/VOC2007")
    assert [f.image_id for f in voc.list_frames(root, "val")] == ["2008_000005"]


def test_a_test_split_may_have_no_annotations(root):
    folder = root / "VOCdevkit/VOC2012"
    (folder / "ImageSets/Main/test.txt").write_text("2008_000001\n")
    (folder / "Annotations/2008_000001.xml").unlink()
    (frame,) = voc.list_frames(root, "2012_test")
    assert frame.label_path is None


@pytest.mark.shared_data
def test_the_real_subset(shared_path):
    root = shared_path("data/voc")
    counts = [len(voc.list_frames(root, split)) for split in ("train", "2012_val", "trainval")]
    assert counts == [500, 200, 700]
    frames = voc.read_labels(voc.list_frames(root, "val"))
    assert sum(len(frame.names) for frame in frames) == 687
    assert sum(int(frame.attributes["difficult"].sum()) for frame in frames) == 99


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>sheep", "<name> ", "2008_000002.xml: an object has no <name>"),
        ("<xmin>11", "<xmin>x", "2008_000002.xml: <xmin> is 'x', not a number"),
        ("<xmin>11", "<xmin>nan", "2008_000002.xml: <xmin> is 'nan', not a number"),
        ("<xmin>11", "<xmin>31", "2008_000002.xml: the box 31 21 30 40.5 of a sheep is upside down"),
        ("<xmin>11", "<xmin>1_1", "2008_000002.xml: <xmin> is '1_1', not a number"),
        ("<xmin>11", "<xmin>\u0661", "2008_000002.xml: <xmin> is '\u0661', not a number"),
        ("<xmin>11<", "<xmin><", "2008_000002.xml: <xmin> is '', not a number"),
        ("<xmax>30", "<xmax>1e308", "2008_000002.xml: <xmax> is 1e\\+308, which is too large"),
        ("<xmin>11", "<xmin>-1e7", "2008_000002.xml: <xmin> is -1e\\+07, which is too large"),
        ("<size>", "<sizes>", "2008_000002.xml: not a VOC annotation"),
        ("</annotation>", "", "2008_000002.xml: not a VOC annotation"),
        ("<width>60", "<width>-5", "2008_000002.xml: its <size> says -5 x 80, which no image has"),
        ("<height>80", "<height>79.5", "2008_000002.xml: its <size> says 60 x 79.5, which no image has"),
        ("<width>60", "<width>1e308", "2008_000002.xml: <width> is 1e\\+308, which is too large"),
        ("<width>60", "<width>wide", "2008_000002.xml: <width> is 'wide', not a number"),
        ("<difficult>0", "<difficult>maybe", "2008_000002.xml: <difficult> is 'maybe', neither 0 nor 1"),
        ("<truncated>0", "<truncated>2", "2008_000002.xml: <truncated> is '2', neither 0 nor 1"),
    ],
)
def test_bad_annotations(root, old, new, message):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        voc_xml.read_annotation(path)


def test_xml_of_another_kind_is_no_picture_without_objects(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<annotations><image id='0'><box label='dog'/></image></annotations>")
    with pytest.raises(UserError, match="a.xml: not a VOC annotation: it holds <annotations>, not <anno"):
        voc_xml.read_annotation(path)
    path.write_text("<Annotation/>")
    assert voc_xml.read_annotation(path).names == ()


@pytest.mark.parametrize(
    "old, new",
    [
        ("<size><width>60</width><height>80</height>\n<depth>3</depth></size>", ""),
        ("<width>60", "<width>0"),
        ("<height>80", "<height>"),
        ("<height>80</height>", ""),
    ],
)
def test_a_size_that_is_not_given(root, old, new):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    annotation = voc_xml.read_annotation(path)
    assert annotation.image_size is None and annotation.boxes.tolist() == [[10, 20, 29, 39.5]]


@pytest.mark.parametrize(
    "text, difficult",
    [("1", True), ("True", True), ("yes", True), (" TRUE ", True), ("0", False), ("No", False), ("", False)]
    + [("false", False), ("Unspecified", False)],
)
def test_flags_in_words(root, text, difficult):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    path.write_text(path.read_text().replace("<difficult>0", f"<difficult>{text}"))
    assert voc_xml.read_annotation(path).attributes["difficult"].tolist() == [difficult]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb2312", "gbk", "big5", "shift_jis", "cp1251"])
def test_encodings(root, encoding):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    name = {"cp1251": "\u0444", "shift_jis": "\u732b"}.get(encoding, "\u4e2d")
    body = path.read_text().replace("2008_000002.jpg", f"{name}.jpg")
    declared = encoding.removesuffix("-sig")
    path.write_bytes(f"<?xml version='1.0' encoding='{declared}'?>\n{body}".encode(encoding))
    assert voc_xml.read_annotation(path).boxes.tolist() == [[10, 20, 29, 39.5]]


@pytest.mark.parametrize("encoding", ["ansi", "foo", "utf-32", "hex", "gbk", "idna", "\u0441", "x" * 9999])
def test_encodings_that_are_not_what_they_say(root, encoding):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?><annotation>\u4e2d\u6587x</annotation>')
    with pytest.raises(UserError, match="2008_000002.xml: not a VOC annotation") as error:
        voc_xml.read_annotation(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_unknown_classes_are_left_out_of_evaluation(root, caplog):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000003.xml"
    path.write_text(path.read_text().replace("<name>train", "<name>Helmet"))
    assert voc_xml.read_annotation(path).names == ("Helmet", "car")
    table = files.read_ground_truth(path.parent, [path.stem])
    assert table.classes.tolist() == [6] and len(table.boxes) == 1
    assert "objects of classes that are not evaluated: 'Helmet' (1)" in caplog.text
    assert files.read_ground_truth(path.parent, [path.stem], ("helmet", "CAR")).classes.tolist() == [0, 1]


def test_every_wrong_file_is_named(root):
    folder = root / "VOCdevkit/VOC2012"
    for name in ("2008_000001", "2008_000003"):
        path = folder / "Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace("<xmin>", "<xmin>x", 1))
    frames = voc.list_frames(root, "2012_train")
    with pytest.raises(UserError) as error:
        voc.read_labels(frames)
    assert str(error.value).splitlines() == [
        "2 problems:",
        f"{folder}/Annotations/2008_000001.xml: <xmin> is 'x1', not a number",
        f"{folder}/Annotations/2008_000003.xml: <xmin> is 'x5', not a number",
    ]
    (folder / "JPEGImages/2008_000002.jpg").unlink()
    (folder / "Annotations/2008_000003.xml").unlink()
    with pytest.raises(UserError) as error:
        voc.list_frames(root, "2012_train")
    lines = str(error.value).splitlines()
    assert lines[0] == "2 problems:" and len(lines) == 3
    assert "train.txt line 2: image 2008_000002 has no image file" in lines[1]
    assert "train.txt line 3: image 2008_000003 has no annotation" in lines[2]


def test_annotations_without_parts(root):
    path = root / "VOCdevkit/VOC2012/Annotations/2008_000002.xml"
    path.write_text("<annotation/>")
    annotation = voc_xml.read_annotation(path)
    assert annotation.image_size is None and annotation.names == () and annotation.boxes.shape == (0, 4)
    path.write_text(
        "<annotation><size><width>9</width><height>9</height></size><object><name>cow</name></object></annotation>"
    )
    with pytest.raises(UserError, match="a cow has no <bndbox>"):
        voc_xml.read_annotation(path)
    path.unlink()
    with pytest.raises(UserError, match="2008_000002.xml: cannot read this annotation: No such file"):
        voc_xml.read_annotation(path)


def test_a_folder_without_years_and_one_of_another_year(root, tmp_path):
    flat = root / "VOCdevkit/VOC2012"
    assert len(voc.list_frames(flat, "train")) == 4
    assert voc.Voc().image_folder(flat, "train") == flat / "JPEGImages"
    (tmp_path / "other/VOCdevkit").mkdir(parents=True)
    flat.rename(tmp_path / "other/VOCdevkit/VOC2010")
    assert [f.image_id for f in voc.list_frames(tmp_path / "other", "2010_val")] == ["2008_000005"]
    assert len(voc.list_frames(tmp_path / "other", "train")) == 4


def test_bad_folders_and_splits(root, tmp_path):
    with pytest.raises(UserError, match="no VOC data; it must hold VOCdevkit/VOC2007"):
        voc.list_frames(tmp_path / "nowhere", "2012_train")
    with pytest.raises(
        UserError, match="holds VOC2007 and VOC2012: name the split 2007_train, 2012_train or 0712_train"
    ):
        voc.list_frames(root, "train")
    with pytest.raises(UserError, match="has no test.txt; it has train, trainval, val"):
        voc.list_frames(root, "2012_test")
    write_list(root / "VOCdevkit/VOC2007", "both", ["2008_000005"])
    write_list(root / "VOCdevkit/VOC2012", "both", ["2008_000005"])
    for part in ("JPEGImages/2008_000005.jpg", "Annotations/2008_000005.xml"):
        shutil.copy(root / "VOCdevkit/VOC2012" / part, root / "VOCdevkit/VOC2007" / part)
    with pytest.raises(UserError, match="2008_000005 is named twice, first in .*VOC2007/.*both.txt line 1"):
        voc.list_frames(root, "0712_both")
    folder = root / "VOCdevkit/VOC2012"
    path = folder / "ImageSets/Main/val.txt"
    for text, message in (
        ("\n", "val.txt: the list is empty"),
        ("../2008_000005\n", "val.txt line 1: '../2008_000005' is no id: .*; write '2008_000005'"),
        ("2008_000005\n2008_000005\n", "val.txt line 2: '2008_000005' is named twice, first in line 1"),
        ("2009_1\n", "val.txt line 1: image 2009_1 has no image file .*2009_1.jpg"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            voc.list_frames(root, "2012_val")
    path.write_text("2008_000005\n")
    (folder / "Annotations/2008_000005.xml").unlink()
    with pytest.raises(UserError, match="image 2008_000005 has no annotation .*2008_000005.xml"):
        voc.list_frames(root, "2012_val")
