"""The pictures of the shared cases, on which predict.py once stopped, lost a result or saw something else."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from places import CASES
from test_predict import run_fixture, written  # noqa: F401  a fixture

from fgfi_tf.data.images import read_image
from fgfi_tf.data.readers import voc as voc_reader
from fgfi_tf.evaluation.voc import files as voc_files


def drawn_size(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_16_bits_are_those_of_8(run, tmp_path):
    assert run(images=CASES / "predict_16bit/in") == 0
    found = written(tmp_path / "out")
    assert found["g16.txt"] == found["g8.txt"] and found["g16.png"] == found["g8.png"]
    deep, shallow = (read_image(CASES / f"predict_16bit/in/{name}.png") for name in ("g16", "g8"))
    np.testing.assert_array_equal(deep, shallow)
    assert shallow.mean() < 250  # not the white that 16 bits once became


def test_exif_is_applied(run, tmp_path):
    assert run(images=CASES / "predict_exif/in") == 0
    assert drawn_size(tmp_path / "out/side.png") == drawn_size(tmp_path / "out/up.png")
    boxes = [(tmp_path / f"out/{name}.txt").read_text().split()[4:8] for name in ("side", "up")]
    assert boxes[0] == boxes[1]
    side, up = (read_image(CASES / f"predict_exif/in/{name}.jpg").astype(int) for name in ("side", "up"))
    assert np.abs(side - up).mean() < 5  # two JPEGs of one scene


def test_a_huge_picture_is_passed_over(run, tmp_path, capsys):
    assert run(images=CASES / "predict_huge/in") == 1
    assert sorted(written(tmp_path / "out")) == ["a_ok.png", "a_ok.txt"]
    heading, line = capsys.readouterr().err.splitlines()[-2:]
    assert heading == "skipped, 1:" and "b_big.png: 20000 x 10000 pixels are more than 100 mega" in line


def test_in_place_is_refused(run, tmp_path, capsys):
    folder = shutil.copytree(CASES / "predict_in_place/in", tmp_path / "photos")
    before = written(folder)
    assert run("--min_score=0", images=folder, out=folder) == 1
    assert "a.png is an input and would be overwritten" in capsys.readouterr().err
    assert written(folder) == before
    assert run("--nopictures", "--results=csv", images=folder, out=folder) == 0  # nothing in its way
    assert sorted(written(folder)) == ["a.png", "detections.csv"]


@pytest.mark.parametrize(
    "case, results", [("predict_mac_fork", ["a.txt"]), ("predict_png_and_jpg", ["a.jpg.txt", "a.png.txt"])]
)
def test_each_picture_has_its_result(run, tmp_path, case, results):
    assert run(images=CASES / case / "in") == 0
    assert [name for name in written(tmp_path / "out") if name.endswith(".txt")] == results


def test_names_with_blanks_are_read_back(run, tmp_path):
    assert run(images=CASES / "predict_space/in", classes=voc_reader.CLASS_NAMES, dataset="voc") == 0
    found = voc_files.read_detections(tmp_path / "out", "images", ["my photo"])
    assert found.image.tolist() == [0] and found.scores.tolist() != []
