"""Reading and writing KITTI text files; every malformed one names file and line."""

import numpy as np
import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.kitti import files as kitti_io
from fgfi_tf.evaluation.kitti.result import CLASS_NAMES
from fgfi_tf.evaluation.results import write_kitti

RESULT = "Car -1 -1 -10 10.5 20 110 220.25 -1 -1 -1 -1000 -1000 -1000 -10 0.75"
LABEL = "Pedestrian 0.25 1 -0.5 10.5 20 110 220.25 1.7 0.6 0.8 1.5 1.6 20.5 0.01"


def write(folder, detections):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in write_kitti(detections).items():
        (folder / name).write_text(text)


def folder_of(path, **files):
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / f"{name}.txt").write_bytes(text.encode())
    return path


def test_result_fields(tmp_path):
    found = kitti_io.read_detections(folder_of(tmp_path, a=RESULT, b="", c=RESULT + "\n" + RESULT), "abc")
    assert found.image_ids == ("a", "b", "c")
    assert found.image.tolist() == [0, 2, 2] and found.classes.tolist() == [0, 0, 0]
    assert found.boxes[0].tolist() == [10.5, 20, 110, 220.25]
    assert found.scores.tolist() == [0.75] * 3 and found.columns["alpha"].tolist() == [-10] * 3


def test_label_fields(tmp_path):
    labels = kitti_io.read_labels(folder_of(tmp_path, a=LABEL), "a")
    assert labels.classes.tolist() == [1]
    assert [labels.columns[key][0] for key in ("truncation", "occlusion", "alpha")] == [0.25, 1, -0.5]


def test_blanks_blank_lines_line_ends_and_exponents(tmp_path):
    text = "\n\n  " + RESULT.replace(" ", "  ").replace("0.75", "7.5e-1") + "\r\n \t\n" + RESULT + " \n\n"
    found = kitti_io.read_detections(folder_of(tmp_path, a=text, b=RESULT), "ab")
    assert found.image.tolist() == [0, 0, 1] and found.scores.tolist() == [0.75] * 3


def test_class_names_in_any_letter_case(tmp_path):
    names = ("car", "CAR", "pedestrian", "CyClist", "person_SITTING", "dontcare", "Van")
    text = "\n".join(RESULT.replace("Car", name) for name in names)
    assert kitti_io.read_detections(folder_of(tmp_path, a=text), "a").classes.tolist() == [
        0,
        0,
        1,
        2,
        4,
        8,
        3,
    ]


def test_a_file_longer_than_one_read(tmp_path):
    lines = [RESULT.replace("0.75", f"{i / 4096}") for i in range(4096)]
    found = kitti_io.read_detections(folder_of(tmp_path, a="\n".join(lines), b=RESULT), "ab")
    assert found.scores[:-1].tolist() == [i / 4096 for i in range(4096)] and found.image[-1] == 1


def test_folders_without_any_box(tmp_path):
    assert len(kitti_io.read_detections(folder_of(tmp_path, a="", b="\n"), "ab")) == 0
    assert len(kitti_io.read_detections(tmp_path, [])) == 0


@pytest.mark.parametrize(
    "line, message",
    [
        (RESULT.rsplit(" ", 1)[0], "15 fields instead of the 16 of a result"),
        (RESULT + " 1", "17 fields instead of the 16 of a result"),
        (RESULT.replace("0.75", "nan"), "score (field 16) is 'nan', not a finite number"),
        (RESULT.replace("0.75", "-inf"), "score (field 16) is '-inf', not a finite number"),
        (RESULT.replace("0.75", "1e999"), "score (field 16) is '1e999', not a finite number"),
        (RESULT.replace("0.75", "0.7x"), "score (field 16) is '0.7x', not a finite number"),
        (RESULT.replace("0.75", "0,75"), "score (field 16) is '0,75', not a finite number"),
        (RESULT.replace("0.75", "1_0"), "score (field 16) is '1_0', not a finite number"),
        (RESULT.replace("10.5", "110.5"), "negative box: xmin ymin xmax ymax = 110.5 20 110 220.25"),
        (RESULT.replace("220.25", "1e308"), "ymax (field 8) is '1e308', which is too large"),
        (RESULT.replace("220.25", "-1e7"), "ymax (field 8) is '-1e7', which is too large"),
        (RESULT.replace("220.25", "\u0662\u0662\u0660"), "ymax (field 8) is '\u0662\u0662\u0660', not"),
        (RESULT.replace("220.25", "2\xa020"), "ymax (field 8) is '2\\xa020', not a finite number"),
        (RESULT.replace("220.25", "19.9"), "negative box"),
        (RESULT.replace("Car", "Bicycle"), "unknown class 'Bicycle'"),
        (RESULT.replace("Car", "Person_sitting_down_on_a_bench"), "unknown class 'Person_sitting_down"),
        (RESULT.replace("Car", "Auto\u00e9"), "unknown class"),
        (RESULT.replace("Car", "7"), "unknown class '7'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    folder_of(tmp_path, a=RESULT, b=f"{RESULT}\n\n{line}\n{RESULT}", c=line)
    with pytest.raises(UserError) as caught:
        kitti_io.read_detections(tmp_path, "abc")
    assert f"{tmp_path}/b.txt line 3: " in str(caught.value) and message in str(caught.value)


def test_field_counts_that_only_cancel_out(tmp_path):
    short, long = RESULT.rsplit(" ", 1)[0], RESULT + " 1"
    with pytest.raises(UserError, match="a.txt line 1: 15 fields"):
        kitti_io.read_detections(folder_of(tmp_path, a=short + "\n" + long), "a")


def test_characters_that_are_not_text(tmp_path):
    with pytest.raises(UserError, match="a.txt line 1: holds characters that are not text"):
        kitti_io.read_detections(folder_of(tmp_path, a=RESULT.replace(" ", "\x00", 1)), "a")


def test_label_errors(tmp_path):
    with pytest.raises(UserError, match="16 fields instead of the 15 of a label .*may be a result file"):
        kitti_io.read_labels(folder_of(tmp_path, a=RESULT), "a")
    with pytest.raises(UserError, match="15 fields instead of the 16 of a result .*may be a label file"):
        kitti_io.read_detections(folder_of(tmp_path, a=LABEL), "a")
    for old, new, message in (
        (" 1 ", " 1.51 ", "occlusion is '1.51', none of 0, 1, 2, 3 and -1"),
        (" 1 ", " 1000 ", "occlusion is '1000', none of"),
        ("0.25", "3", "truncation is '3', neither 0 to 1 nor -1"),
    ):
        with pytest.raises(UserError, match=f"a.txt line 1: {message}"):
            kitti_io.read_labels(folder_of(tmp_path, a=LABEL.replace(old, new, 1)), "a")
    with pytest.raises(UserError, match="z.txt: no such file"):
        kitti_io.read_labels(tmp_path, "z")


def test_a_missing_result_file(tmp_path):
    folder_of(tmp_path, a=RESULT)
    with pytest.raises(UserError, match=r"b.txt: no such file \(--allow_missing"):
        kitti_io.read_detections(tmp_path, "ab")
    found = kitti_io.read_detections(tmp_path, "ab", allow_missing=True)
    assert found.image_ids == ("a", "b") and found.image.tolist() == [0]


def test_every_wrong_file_is_named(tmp_path):
    folder_of(tmp_path, a=RESULT, b="Car", d=RESULT + " 1")
    with pytest.raises(UserError) as caught:
        kitti_io.read_detections(tmp_path, "abcd")
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 problems:"
    for line, start in zip(
        lines[1:], ("b.txt line 1: 1 fields", "c.txt: no such", "d.txt line 1: 17"), strict=True
    ):
        assert line.startswith(f"{tmp_path}/{start}")


def test_byte_order_marks_and_names_with_blanks(tmp_path):
    mark = "\ufeff"
    folder_of(tmp_path, a=mark + RESULT, b=mark, **{"my photo": mark + RESULT + "\n" + RESULT})
    found = kitti_io.read_detections(tmp_path, kitti_io.list_frames(tmp_path))
    assert found.image_ids == ("a", "b", "my photo") and found.image.tolist() == [0, 2, 2]


def test_missing_folders(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        kitti_io.read_detections(tmp_path / "nowhere", "a")
    folder_of(tmp_path / "data", a=RESULT)
    with pytest.raises(UserError, match=r"the folder has data/ in it: give .*/data"):
        kitti_io.read_detections(tmp_path, "a", allow_missing=False)
    with pytest.raises(UserError, match="holds no text files .* has data/ in it: give .*/data"):
        kitti_io.list_frames(tmp_path)
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(UserError, match="b.txt: cannot be read"):
        kitti_io.read_detections(tmp_path, "b")


def test_hidden_files_are_no_frames(tmp_path):
    folder = folder_of(tmp_path / "f", b="", a="")
    (folder / "._a.txt").write_bytes(b"\x00\x05\x16\x07")
    assert kitti_io.list_frames(folder) == ("a", "b")


def test_written_files_are_read_back_equal(tmp_path):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (20, 2)).astype(np.float32)
    frames = {
        "000007": {"boxes": np.zeros((0, 4)), "scores": [], "classes": []},
        "000003": {
            "boxes": np.concatenate(
                [corner, corner + rng.uniform(1, 50, (20, 2)).astype(np.float32)], axis=1
            ),
            "scores": rng.uniform(0, 1e-6, 20).astype(np.float32),
            "classes": rng.integers(0, 3, 20),
        },
    }
    detections = Boxes.of_detections(frames, CLASS_NAMES)
    write(tmp_path / "new" / "data", detections)
    assert (tmp_path / "new" / "data" / "000007.txt").read_text() == ""
    back = kitti_io.read_detections(tmp_path / "new" / "data", ["000007", "000003"])
    for name in ("image", "classes", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(back, name), getattr(detections, name))


def test_the_written_line(tmp_path):
    box = {"boxes": [[1, 2.5, 30, 40]], "scores": [0.5], "classes": ["cyclist"]}
    write(tmp_path, Boxes.of_detections({"a": box}, CLASS_NAMES))
    expected = "Cyclist -1 -1 0.0 1.0 2.5 30.0 40.0 0 0 0 0 0 0 0 0.5\n"
    assert (tmp_path / "a.txt").read_text() == expected
    write(tmp_path, Boxes.of_detections({"a": box | {"alpha": [-1.25]}}, CLASS_NAMES))
    assert (tmp_path / "a.txt").read_text() == expected.replace("0.0", "-1.25", 1)
