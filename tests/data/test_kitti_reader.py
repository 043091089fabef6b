"""The raw KITTI layout: what is parsed, and every message for what a user can get wrong."""

import numpy as np
import pytest

from fgfi_tf.data.dataset import Frame
from fgfi_tf.data.readers import kitti
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.kitti import files

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


def read(path, text):
    """The columns of one label file."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (frame,) = kitti.read_labels([Frame(path.stem, path.with_suffix(".png"), path)])
    return {"boxes": frame.boxes, "names": list(frame.names), "ignore": frame.ignore, **frame.attributes}


@pytest.fixture(name="path")
def _path(tmp_path):
    return tmp_path / "000042.txt"


def test_only_the_first_three_classes_are_learnt():
    assert kitti.Kitti.class_names == ("Car", "Pedestrian", "Cyclist")
    assert kitti.Kitti.ignored_names == ("Van", "Person_sitting", "Truck", "Tram", "Misc", "DontCare")


@pytest.mark.parametrize("name", ["Car", "VAN", "hand", "épée", "x" * 64])
def test_classes_of_any_name(path, name):
    assert read(path, LINE.replace("Car", name))["names"] == [name]


def test_classes_of_a_list(tmp_path, path):
    path.write_text(f"{LINE.replace('Car', 'HAND')}\n{LINE.replace('Car', 'Foot')}\n{LINE}\n")
    table = files.read_labels(tmp_path, ["000042"], ("car", "Hand", "foot"))
    assert (table.image.tolist(), table.classes.tolist()) == ([0, 0, 0], [1, 2, 0])
    with pytest.raises(
        UserError,
        match="000042.txt line 2: unknown class 'Foot'; known are hand, Car .--classes names others.$",
    ):
        files.read_labels(tmp_path, ["000042"], ("hand", "Car"))
    with pytest.raises(UserError, match="line 1: unknown class 'HAND'; KITTI has Car, Pedestrian"):
        files.read_labels(tmp_path, ["000042"])


@pytest.mark.parametrize(
    "old, new, message",
    [
        (" 1.57", "", "000042.txt line 3: 14 fields instead of the 15 of a label (type truncation"),
        (" 1.57", " 1.57 0.9", "line 3: 16 fields instead of the 15 of a label (type truncation"),
        ("Car", "x" * 65, "000042.txt line 3: its class has a name of more than 64 bytes"),
        ("387.63", "left", "000042.txt line 3: xmin (field 5) is 'left', not a finite number"),
        ("58.49", "nan", "line 3: z (field 14) is 'nan', not a finite number"),
        ("203.12", "inf", "line 3: ymax (field 8) is 'inf', not a finite number"),
        ("203.12", "20\u0663", "line 3: ymax (field 8) is '20\u0663', not a finite number"),
        ("203.12", "203_12", "line 3: ymax (field 8) is '203_12', not a finite number"),
        ("423.81", "1e308", "line 3: xmax (field 7) is '1e308', which is too large"),
        ("58.49", "-1000001", "line 3: z (field 14) is '-1000001', which is too large"),
        ("0.25", "3", "line 3: truncation is '3', neither 0 to 1 nor -1"),
        ("0.25", "-0.5", "line 3: truncation is '-0.5', neither 0 to 1 nor -1"),
        (" 1 ", " 0.5 ", "line 3: occlusion is '0.5', none of 0, 1, 2, 3 and -1"),
        (" 1 ", " 1.51 ", "line 3: occlusion is '1.51', none of"),
        (" 1 ", " 1000 ", "line 3: occlusion is '1000', none of"),
        (" 1 ", " 4 ", "line 3: occlusion is '4', none of"),
        (" 1 ", " -2 ", "line 3: occlusion is '-2', none of"),
        (" 1 ", " 1e10 ", "line 3: occlusion (field 3) is '1e10', which is too large"),
        ("387.63", "423.82", "negative box: xmin ymin xmax ymax = 423.82 181.54 423.81 203.12"),
        ("181.54", "203.13", "negative box: xmin ymin xmax ymax = 387.63 203.13 423.81 203.12"),
        (" 1.57", " 1.57\x00", "000042.txt line 3: holds characters that are not text"),
    ],
)
def test_a_wrong_line_is_named(path, old, new, message):
    with pytest.raises(UserError) as error:
        read(path, f"{LINE}\n\n{LINE.replace(old, new, 1)}\n{LINE}")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_label_with_a_score_may_be_a_result_file(path):
    with pytest.raises(UserError, match="it may be a result file, whose last field is the score"):
        read(path, LINE + " 1.0")


def test_label_files_and_columns(path):
    columns = read(path, f"{LINE}\n\n{DONT_CARE}\n")
    np.testing.assert_array_equal(
        columns["boxes"], [[387.63, 181.54, 423.81, 203.12], [503.89, 169.71, 590.61, 190.13]]
    )
    assert columns["names"] == ["Car", "DontCare"] and not columns["ignore"].any()
    assert columns["truncation"].tolist() == [0.25, -1] and columns["occlusion"].tolist() == [1, -1]
    assert columns["alpha"].tolist() == [1.85, -10] and columns["rotation_y"].tolist() == [1.57, -10]
    assert columns["dimensions"].tolist() == [[1.67, 1.87, 3.69], [-1] * 3]
    assert columns["location"].tolist() == [[-16.53, 2.39, 58.49], [-1000] * 3]
    empty = read(path, "")
    assert empty["boxes"].shape == (0, 4) and empty["dimensions"].shape == (0, 3)
    assert empty["boxes"].dtype == np.float64 and empty["occlusion"].dtype == np.int32


def test_a_byte_order_mark_is_passed_over(path):
    assert read(path, b"\xef\xbb\xbf" + LINE.encode())["names"] == ["Car"]
    assert read(path, b"\xef\xbb\xbf")["names"] == []
    with pytest.raises(UserError, match="000042.txt line 1: holds characters that are not text"):
        read(path, LINE.encode("utf-16"))


def test_every_wrong_file_is_named_up_to_twenty(tmp_path):
    paths = [tmp_path / f"{i:06d}.txt" for i in range(30)]
    for i, path in enumerate(paths):
        path.write_text(LINE if i % 2 else f"{LINE}\nCar {i}\nBus\n")
    frames = [Frame(path.stem, path, path) for path in paths]
    paths[1].unlink()
    with pytest.raises(UserError) as error:
        kitti.read_labels(frames)
    lines = str(error.value).splitlines()
    assert lines[0] == "16 problems:" and len(lines) == 17
    assert lines[1].startswith(f"{tmp_path}/000000.txt line 2: 2 fields instead of")
    assert lines[2] == f"{tmp_path}/000001.txt: no such file"
    for path in paths:
        path.write_text("Car")
    with pytest.raises(UserError) as error:
        kitti.read_labels(frames)
    lines = str(error.value).splitlines()
    assert lines[0] == "20 problems, there may be more:" and len(lines) == 21
    assert lines[20].startswith(f"{tmp_path}/000019.txt line 1: 1 fields")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG"])
def test_frames_come_in_the_order_of_the_split(tmp_path, suffix):
    root = make_raw(tmp_path, ("a1", "b2", "c3"), {"mine": ["c3", "", "  a1  "]}, suffix)
    frames = kitti.list_frames(root, "mine")
    assert [f.image_id for f in frames] == ["c3", "a1"]
    assert frames[0].image_path == root / f"training/image_2/c3{suffix}"
    assert frames[0].label_path == root / "training/label_2/c3.txt"


def test_test_frames_need_neither_labels_nor_a_list(tmp_path):
    root = make_raw(tmp_path)
    (root / "testing/image_2").mkdir(parents=True)
    with pytest.raises(UserError, match="testing/image_2: no images for the split 'test'"):
        kitti.list_frames(root, "test")
    for name in ("000001", "000000"):
        (root / "testing/image_2" / f"{name}.png").write_bytes(b"")
    frames = kitti.list_frames(root, "testing")
    assert [(f.image_id, f.label_path) for f in frames] == [("000000", None), ("000001", None)]
    (root / "ImageSets/test.txt").write_text("000001\n")
    assert [f.image_path for f in kitti.list_frames(root, "test")] == [root / "testing/image_2/000001.png"]


def test_a_missing_data_folder_says_what_it_must_look_like(tmp_path):
    with pytest.raises(UserError, match="nowhere is not there: it must contain training/image_2") as error:
        kitti.list_frames(tmp_path / "nowhere", "train")
    assert kitti.DOWNLOAD_PAGE in str(error.value)
    with pytest.raises(UserError, match="does not hold the KITTI object data"):
        kitti.list_frames(tmp_path, "train")


def test_a_missing_split_names_those_there(tmp_path):
    root = make_raw(tmp_path, splits={"train": ["000000"], "val": ["000001"]})
    with pytest.raises(UserError, match=r"ImageSets/trian.txt is not there \(splits there: train, val\)"):
        kitti.list_frames(root, "trian")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "train.txt: the list is empty"),
        ("\n \n", "train.txt: the list is empty"),
        ("000000\n000001\n000000\n", "train.txt line 3: '000000' is named twice, first in line 1"),
        ("000000\n../000001\n", "train.txt line 2: '../000001' is no id"),
        ("000000\n000007\n", "train.txt line 2: frame 000007 has no image: "),
        ("000007\n000008\n000001\n", "train.txt line 2: frame 000008 has no image: "),
    ],
)
def test_a_wrong_split_is_named(tmp_path, text, message):
    root = make_raw(tmp_path)
    (root / "ImageSets/train.txt").write_text(text)
    with pytest.raises(UserError) as error:
        kitti.list_frames(root, "train")
    assert message in str(error.value)


def test_a_frame_without_labels_is_named(tmp_path):
    root = make_raw(tmp_path)
    (root / "training/label_2/000001.txt").unlink()
    with pytest.raises(
        UserError, match="train.txt line 2: frame 000001 has no label file: .*label_2/000001.txt"
    ):
        kitti.list_frames(root, "train")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "split, frames, counts",
    [
        ("train", 564, {"Car": 1877, "Pedestrian": 1027, "Cyclist": 734, "DontCare": 1114, "Van": 280}),
        ("val", 662, {"Car": 2406, "Pedestrian": 580, "Cyclist": 893, "DontCare": 1326, "Van": 126}),
    ],
)
def test_the_real_subset_has_the_counts_of_its_readme(shared_path, split, frames, counts):
    found = kitti.list_frames(shared_path("data/kitti"), split)
    names = [name for frame in kitti.read_labels(found) for name in frame.names]
    assert len(found) == frames
    assert {name: names.count(name) for name in counts} == counts
