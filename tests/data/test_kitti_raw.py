"""The raw KITTI layout: what is parsed, and every message for what a user can get wrong."""

import numpy as np
import pytest

from fgfi_tf.data import kitti_raw
from fgfi_tf.errors import UserError

LINE = "Car 0.25 1 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
DONT_CARE = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def make_raw(root, frames=("000000", "000001"), splits=None, suffix=".png"):
    """A raw folder with empty image files: enough for everything but decoding."""
    for folder in ("training/image_2", "training/label_2", "ImageSets"):
        (root / folder).mkdir(parents=True)
    for name in frames:
        (root / "training/image_2" / f"{name}{suffix}").write_bytes(b"")
        (root / "training/label_2" / f"{name}.txt").write_text(LINE + "\n")
    for split, names in (splits or {"train": frames}).items():
        (root / "ImageSets" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))
    return root


def test_a_line_is_parsed_to_typed_fields():
    parsed = kitti_raw.parse_label_line(LINE, "x line 1", (375, 1242))
    assert parsed == kitti_raw.KittiObject(
        class_index=0,
        truncation=0.25,
        occlusion=1,
        alpha=1.85,
        box=(387.63, 181.54, 423.81, 203.12),
        dimensions=(1.67, 1.87, 3.69),
        location=(-16.53, 2.39, 58.49),
        rotation_y=1.57,
    )
    assert parsed.class_name == "Car" and not parsed.ignore


@pytest.mark.parametrize("index, name", list(enumerate(kitti_raw.CLASS_NAMES)))
def test_only_the_first_three_classes_are_learnt(index, name):
    parsed = kitti_raw.parse_label_line(LINE.replace("Car", name), "x")
    assert (parsed.class_index, parsed.class_name, parsed.ignore) == (index, name, index > 2)


def test_case_is_not_told_apart():
    assert kitti_raw.parse_label_line(LINE.replace("Car", "pedESTRIAN"), "x").class_name == "Pedestrian"


@pytest.mark.parametrize(
    "old, new, message",
    [
        (" 1.57", "", "f.txt line 7: 14 fields, a label has 15: type truncation"),
        (" 1.57", " 1.57 0.9", "f.txt line 7: 16 fields"),
        ("Car", "Lorry", "f.txt line 7: unknown class 'Lorry'; KITTI has Car, Pedestrian"),
        ("387.63", "left", "f.txt line 7: xmin is 'left', not a finite number"),
        ("58.49", "nan", "f.txt line 7: z is 'nan', not a finite number"),
        ("203.12", "inf", "f.txt line 7: ymax is 'inf'"),
        (" 1 ", " 0.5 ", "f.txt line 7: occlusion is '0.5', not a whole number"),
        ("387.63", "423.82", "f.txt line 7: xmin 423.82 is greater than xmax 423.81"),
        ("181.54", "203.13", "f.txt line 7: ymin 203.13 is greater than ymax 203.12"),
        ("387.63", "-1.01", "f.txt line 7: the box -1.01 181.54 423.81 203.12 is outside the image"),
        ("423.81", "1242.01", "outside the image, which is 1242 wide and 375 high"),
        ("203.12", "375.01", "outside the image"),
        ("181.54", "-2", "outside the image"),
    ],
)
def test_a_wrong_line_is_named(old, new, message):
    with pytest.raises(UserError) as error:
        kitti_raw.parse_label_line(LINE.replace(old, new, 1), "f.txt line 7", (375, 1242))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_boxes_may_touch_the_border_and_reach_one_pixel_over_it():
    """Frame 006828 of the real data has xmax = 1237.52 in an image 1238 wide."""
    line = LINE.replace("423.81", "1237.52").replace("387.63", "-0.5")
    assert kitti_raw.parse_label_line(line, "x", (375, 1238)).box[2] == 1237.52
    point = LINE.replace("423.81", "387.63").replace("203.12", "181.54")  # one pixel is a box
    assert kitti_raw.parse_label_line(point, "x", (375, 1238)).box == (387.63, 181.54, 387.63, 181.54)


def test_label_files_and_columns(tmp_path):
    path = tmp_path / "000042.txt"
    path.write_text(f"{LINE}\n\n{DONT_CARE}\n")
    columns = kitti_raw.label_arrays(kitti_raw.read_labels(path))
    np.testing.assert_array_equal(
        columns["boxes"], [[387.63, 181.54, 423.81, 203.12], [503.89, 169.71, 590.61, 190.13]]
    )
    assert columns["classes"].tolist() == [0, 8] and columns["classes"].dtype == np.int32
    assert columns["ignore"].tolist() == [False, True]
    assert columns["truncation"].tolist() == [0.25, -1] and columns["occlusion"].tolist() == [1, -1]
    assert columns["alpha"].tolist() == [1.85, -10] and columns["rotation_y"].tolist() == [1.57, -10]
    assert columns["location"].tolist() == [[-16.53, 2.39, 58.49], [-1000] * 3]
    path.write_text("")
    empty = kitti_raw.label_arrays(kitti_raw.read_labels(path))
    assert empty["boxes"].shape == (0, 4) and empty["dimensions"].shape == (0, 3)


def test_errors_in_label_files_name_file_and_line(tmp_path):
    path = tmp_path / "000042.txt"
    path.write_text(f"{LINE}\n\nCar 1\n")
    with pytest.raises(UserError, match="000042.txt line 3: 2 fields"):
        kitti_raw.read_labels(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="000042.txt: cannot read this label file"):
        kitti_raw.read_labels(path)
    with pytest.raises(UserError, match="gone.txt: cannot read this label file: No such file"):
        kitti_raw.read_labels(tmp_path / "gone.txt")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG"])
def test_frames_come_in_the_order_of_the_split(tmp_path, suffix):
    root = make_raw(tmp_path, ("a1", "b2", "c3"), {"mine": ["c3", "", "  a1  "]}, suffix)
    frames = kitti_raw.list_frames(root, "mine")
    assert [f.image_id for f in frames] == ["c3", "a1"]
    assert frames[0].image_path == root / f"training/image_2/c3{suffix}"
    assert frames[0].label_path == root / "training/label_2/c3.txt"


def test_test_frames_need_neither_labels_nor_a_list(tmp_path):
    root = make_raw(tmp_path)
    (root / "testing/image_2").mkdir(parents=True)
    with pytest.raises(UserError, match="testing/image_2: no images for the split 'test'"):
        kitti_raw.list_frames(root, "test")
    for name in ("000001", "000000"):
        (root / "testing/image_2" / f"{name}.png").write_bytes(b"")
    frames = kitti_raw.list_frames(root, "testing")
    assert [(f.image_id, f.label_path) for f in frames] == [("000000", None), ("000001", None)]
    (root / "ImageSets/test.txt").write_text("000001\n")
    assert [f.image_path for f in kitti_raw.list_frames(root, "test")] == [
        root / "testing/image_2/000001.png"
    ]


def test_a_missing_data_folder_says_what_it_must_look_like(tmp_path):
    with pytest.raises(UserError, match="nowhere is not there: it must contain training/image_2") as error:
        kitti_raw.list_frames(tmp_path / "nowhere", "train")
    assert kitti_raw.DOWNLOAD_PAGE in str(error.value)
    with pytest.raises(UserError, match="does not hold the KITTI object data"):
        kitti_raw.list_frames(tmp_path, "train")


def test_a_missing_split_names_those_there(tmp_path):
    root = make_raw(tmp_path, splits={"train": ["000000"], "val": ["000001"]})
    with pytest.raises(UserError, match=r"ImageSets/trian.txt is not there \(splits there: train, val\)"):
        kitti_raw.list_frames(root, "trian")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "train.txt: the split is empty"),
        ("\n \n", "train.txt: the split is empty"),
        ("000000\n000001\n000000\n", "train.txt line 3: frame 000000 is named twice, first in line 1"),
        ("000000 1\n", "train.txt line 1: '000000 1' is not one frame name"),
        ("000000\n000007\n", "train.txt line 2: frame 000007 has no image: "),
        ("000007\n000008\n000001\n", "frame 000007 has no image (and 1 more of its 3 frames): "),
    ],
)
def test_a_wrong_split_is_named(tmp_path, text, message):
    root = make_raw(tmp_path)
    (root / "ImageSets/train.txt").write_text(text)
    with pytest.raises(UserError) as error:
        kitti_raw.list_frames(root, "train")
    assert message in str(error.value)


def test_a_frame_without_labels_is_named(tmp_path):
    root = make_raw(tmp_path)
    (root / "training/label_2/000001.txt").unlink()
    with pytest.raises(
        UserError, match="train.txt line 2: frame 000001 has no label file: .*label_2/000001.txt"
    ):
        kitti_raw.list_frames(root, "train")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "split, frames, counts",
    [
        ("train", 564, {"Car": 1877, "Pedestrian": 1027, "Cyclist": 734, "DontCare": 1114, "Van": 280}),
        ("val", 662, {"Car": 2406, "Pedestrian": 580, "Cyclist": 893, "DontCare": 1326, "Van": 126}),
    ],
)
def test_the_real_subset_has_the_counts_of_its_readme(shared_path, split, frames, counts):
    found = kitti_raw.list_frames(shared_path("data/kitti"), split)
    names = [o.class_name for f in found for o in kitti_raw.read_labels(f.label_path)]
    assert len(found) == frames
    assert {name: names.count(name) for name in counts} == counts
