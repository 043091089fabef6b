"""WIDER FACE AP: the rules by hand, the goldens of the public evaluator, and the files."""

import json
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from timing import within

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import EDGES, Boxes
from fgfi_tf.evaluation.results import write_wider
from fgfi_tf.evaluation.wider import ap, files
from fgfi_tf.evaluation.wider.protocol import WiderProtocol

pytest.importorskip("scipy", reason="scipy reads the official MATLAB files")
from scipy.io import savemat


def table(rows, images, image, scores=None, columns=None):
    rows = np.array(rows, float).reshape(-1, 4)
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
    image = np.zeros(len(rows), int) if image is None else np.array(image)
    nothing = np.zeros(len(rows), int)
    return Boxes(tuple(images), ("face",), image, nothing, boxes, scores, columns or {}, EDGES)


def faces(rows, counted, images=("e/a",), image=None):
    counted = np.array(counted, bool)
    return table(rows, images, image, columns={"easy": counted, "medium": counted, "hard": counted})


def detections(rows, scores, image=None, images=("e/a",)):
    return table(rows, images, image, scores=np.array(scores, float))


FACE, FAR, OTHER = (10, 10, 19, 19), (200, 200, 19, 19), (100, 10, 19, 19)


def test_one_face_of_two_found_and_one_false():
    # Scores 1, 0.5, 0 after scaling: found; false; found. Recall 1/2 at precision 1, recall 1 at 2/3.
    result = ap.evaluate(detections([FACE, FAR, OTHER], [0.9, 0.5, 0.1]), faces([FACE, OTHER], [True, True]))[
        "easy"
    ]
    assert result.ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Scaled scores of 1 and 0.5 are taken from the thresholds 0.999 and 0.5 (the 500th) on; 0 at the last.
    np.testing.assert_array_equal(result.proposals[[0, 498, 499, 998, 999]], [1, 1, 2, 2, 3])
    np.testing.assert_array_equal(result.recalled[[0, 499, 998, 999]], [1, 1, 1, 2])


def test_a_detection_on_an_ignored_face_is_no_proposal():
    result = ap.evaluate(detections([FACE, OTHER], [0.9, 0.5]), faces([FACE, OTHER], [False, True]))["easy"]
    assert result.faces == 1 and result.proposals[-1] == 1 and result.ap == pytest.approx(1.0)


def test_a_second_detection_of_a_face_is_false():
    result = ap.evaluate(detections([FACE, FACE], [0.9, 0.5]), faces([FACE], [True]))["easy"]
    assert result.proposals[-1] == 2 and result.recalled[-1] == 1 and result.ap == pytest.approx(1.0)


def test_only_the_best_face_is_looked_at():
    # The detection overlaps both by more than half; its best face is ignored, so the other is not found.
    shifted = (13, 10, 19, 19)
    result = ap.evaluate(detections([FACE], [0.9]), faces([shifted, FACE], [True, False]))["easy"]
    assert result.recalled[-1] == 0 and result.proposals[-1] == 0 and result.ap == 0.0


def test_iou_of_exactly_half_counts_and_sides_have_one_added():
    # 20 x 20 pixels against 20 x 10: IoU 200 / 400, with + 1 on each side.
    half = (10, 10, 19, 9)
    assert ap.evaluate(detections([half], [1.0]), faces([FACE], [True]))["easy"].recalled[-1] == 1
    less = (10, 10, 19, 8.99)
    assert ap.evaluate(detections([less], [1.0]), faces([FACE], [True]))["easy"].recalled[-1] == 0


def test_the_cut_is_behind_the_last_detection_that_reaches_the_threshold():
    # The file is not sorted: the first line, with the lowest score, is taken together with the second.
    result = ap.evaluate(detections([FAR, FACE], [0.0, 1.0]), faces([FACE], [True]))["easy"]
    assert result.proposals[0] == 2 and result.recalled[0] == 1


def test_images_without_faces_and_without_detections():
    found = detections([FAR, FACE], [0.5, 1.0], image=[0, 1], images=("e/none", "e/a"))
    truth = faces([FACE, FACE], [True, True], images=("e/none", "e/a", "e/b"), image=[1, 2])
    result = ap.evaluate(found, truth)["easy"]
    assert result.proposals[-1] == 1 and result.recalled[-1] == 1 and result.ap == pytest.approx(0.5)
    nothing = ap.evaluate(detections([], []), truth)["easy"]
    assert nothing.ap == 0.0 and nothing.faces == 2
    assert ap.evaluate(found, faces([], [], images=("e/none", "e/a")))["easy"].ap == 0.0


def test_goldens(shared_path, tmp_path):
    folder = shared_path("golden/wider_ap")
    expected = json.loads((folder / "expected.json").read_text())
    with tarfile.open(next(folder.glob("predictions_*.tar.xz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    with within(5, time.process_time):  # 53 s in the public evaluator, about 2 here
        truth = files.read_ground_truth(folder / "ground_truth")
        found = files.read_detections(tmp_path / "predictions", truth.image_ids)
        results = ap.evaluate(found, truth)
    assert len(truth.image_ids) == expected["images"] and len(found.scores) == expected["boxes"]
    for name, result in results.settings.items():
        assert result.ap == pytest.approx(expected["ap"][name], abs=1e-12)
        assert result.faces == expected["faces_counted"][name]
        for point in expected["curve_points"][name]:
            assert result.proposals[point["t"]] == point["proposals"]
            assert result.recalled[point["t"]] == point["recalled"]


@pytest.fixture
def official(tmp_path):
    """The four files of one event with two images."""

    def cells(values):
        array = np.empty((len(values), 1), object)
        array[:, 0] = values
        return array

    inner = {
        "event_list": cells(["0--Parade"]),
        "file_list": cells([cells(["a", "b b"])]),
        "face_bbx_list": cells([cells([np.array([FACE, OTHER], float), np.array([FAR], float)])]),
    }
    savemat(tmp_path / files.FACES_FILE, inner)
    for name, rows in {"easy": [[1], []], "medium": [[1, 2], []], "hard": [[1, 2], [1]]}.items():
        lists = cells([cells([np.array(one, float).reshape(-1, 1) for one in rows])])
        savemat(tmp_path / files.SETTING_FILE.format(name), {"gt_list": lists})
    return tmp_path


def test_reading_the_official_files(official):
    found = files.read_ground_truth(official)
    assert found.image_ids == ("0--Parade/a", "0--Parade/b b")
    np.testing.assert_array_equal(found.image, [0, 0, 1])
    np.testing.assert_array_equal(found.boxes, table([FACE, OTHER, FAR], (), None).boxes)
    np.testing.assert_array_equal(found.columns["easy"], [True, False, False])
    np.testing.assert_array_equal(found.columns["hard"], [True, True, True])


def test_result_files_are_read_back_as_written(tmp_path):
    ids = ("0--Parade/a", "1--Other/b b", "1--Other/c")
    written = detections([FACE, OTHER, (1 / 3, 2, 3, 4)], [0.25, 0.5, 0.1], image=[0, 0, 1], images=ids)
    for name, text in write_wider(written).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert (tmp_path / "0--Parade/a.txt").read_text().splitlines()[:3] == [
        "a",
        "2",
        "100.0 10.0 19.0 19.0 0.5",
    ]
    read = files.read_detections(tmp_path, ids)
    np.testing.assert_array_equal(read.image, [0, 0, 1])
    np.testing.assert_allclose(read.boxes, table([OTHER, FACE, (1 / 3, 2, 3, 4)], (), None).boxes, rtol=1e-15)
    np.testing.assert_array_equal(read.scores, [0.5, 0.25, 0.1])
    (tmp_path / "1--Other/c.txt").unlink()
    assert len(files.read_detections(tmp_path, ids, allow_missing=True).scores) == 3
    with pytest.raises(UserError, match="c.txt: cannot be read"):
        files.read_detections(tmp_path, ids)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "wants the image's name"),
        ("a\n2\n1 2 3 4 0.5\n", "wants the image's name"),
        ("a\nx\n", "wants the image's name"),
        ("a\n1\n1 2 3 4\n", "a.txt:3: 4 fields instead of x y w h score"),
        ("a\n1\n1 2 3 4 nan\n", "not finite"),
        ("a\n1\n1 2 3 4 high\n", "no number"),
    ],
)
def test_malformed_result_files(tmp_path, text, message):
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "a.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        files.read_detections(tmp_path, ["e/a"])


def test_several_bad_files_are_told_at_once(tmp_path):
    (tmp_path / "e").mkdir()
    with pytest.raises(UserError) as caught:
        files.read_detections(tmp_path, [f"e/{i}" for i in range(30)])
    assert str(caught.value).count("cannot be read") == 20


def test_official_files_that_are_not(official):
    (official / "wider_easy_val.mat").write_bytes(b"nothing")
    with pytest.raises(UserError, match="wider_easy_val.mat: cannot be read as a MATLAB file"):
        files.read_ground_truth(official)
    (official / "wider_easy_val.mat").unlink()
    with pytest.raises(UserError, match="wider_easy_val.mat: no such file; the folder of the labels holds"):
        files.read_ground_truth(official)
    savemat(official / "wider_easy_val.mat", {"other": 1})
    with pytest.raises(UserError, match="holds no gt_list"):
        files.read_ground_truth(official)
    with pytest.raises(UserError, match="no such folder"):
        files.read_detections(official / "nowhere", ["e/a"])


def test_no_tensorflow_is_loaded():
    code = "import sys, fgfi_tf.evaluation.wider.ap, fgfi_tf.evaluation.wider.files;"
    code += "assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_published_rows_stand_beside_the_validation_split_s_settings():
    protocol = WiderProtocol()
    known = protocol.evaluate(detections([FACE], [0.9]), faces([FACE], [True]))
    header, columns, *rows = protocol.table({"": known}, split="val").splitlines()
    assert header == "WIDER FACE detection, AP at IoU 0.5, percent"
    assert columns.split("  ")[-1] == "0.15x-I (published)" and columns.count("(published)") == 5
    assert [row.split() for row in rows] == [
        ["easy", "100.0", "87.2", "78.2", "83.9", "69.7", "79.3"],
        ["medium", "100.0", "74.6", "69.8", "74.9", "61.1", "67.0"],
        ["hard", "100.0", "36.0", "35.6", "38.5", "29.7", "32.0"],
    ]
    assert "published" not in protocol.table({"": known}, split="train")
    assert protocol.table({"": known}, "0.25x").count("(published)") == 1
    # without the kit's files all faces count that are not ignored: no row is of that
    plain = table([FACE, OTHER], ["e/a"], None, columns={"ignore": np.array([False, True])})
    whole = protocol.evaluate(detections([FACE], [0.9]), plain)
    assert whole.to_json() == {"all": 1.0, "faces": {"all": 1}}
    assert protocol.json_mark in json.dumps(whole.to_json())
    crowd = table([FACE, OTHER], ["e/a"], None, columns={"crowd": np.array([False, True])})
    assert protocol.evaluate(detections([FACE], [0.9]), crowd).to_json() == whole.to_json()
    assert "published" not in protocol.table({"": whole}, split="val")
