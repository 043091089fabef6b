"""Finding pictures, and detecting in batches of them."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from PIL import Image

from fgfi_tf.data.readers import tree
from fgfi_tf.data.text_files import fits_a_line
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import results
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.models import registry as models
from fgfi_tf.prediction import Predictor, find_images, listed_paths, predict_files

KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist")


@pytest.mark.parametrize(
    "given, files, names",
    [
        (["in"], ["in/a.png", "in/b/c.png"], ["a", "b/c"]),
        (["in", "more/c.png"], ["in/a.png", "more/c.png"], ["a", "c"]),
        (["in", "in/a.png", "in/../in"], ["in/a.png"], ["a"]),  # once
        (["in"], ["in/a.jpg", "in/A.png"], ["A.png", "a.jpg"]),  # one file where letter case does not count
        (["in"], ["in/a.jpg", "in/a.png", "in/a.png.bmp"], ["a.jpg", "a.png", "a.png.bmp"]),
        (["x/in", "y/in"], ["x/in/a.png", "y/in/a.png", "y/in/b.png"], ["x/in/a", "y/in/a", "y/in/b"]),
        (["x", "y/a.png"], ["x/a.jpg", "y/a.png"], ["a.jpg", "a.png"]),
        (["in"], ["in/a.v2.png", "in/a.png", "in/my photo.jpg"], ["a", "a.v2", "my photo"]),
    ],
)
def test_names(tmp_path, monkeypatch, given, files, names):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    found = find_images(given)
    assert [file.name for file in found] == names
    assert {file.path for file in found} == {tmp_path / name for name in files}


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no such image or folder: /no/such"):
        find_images(["/no/such"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/empty holds no image (.png, .jpg")):
        find_images([tmp_path / "empty"])


def test_no_name_is_no_picture():
    assert listed_paths(",") == [] and listed_paths(" , ") == []
    with pytest.raises(UserError, match="no image or folder is named"):
        find_images(listed_paths(","))


def test_lists_of_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", " b.png", "c,d.png"):
        (tmp_path / name).write_bytes(b"")
    assert listed_paths("c,d.png") == ["c,d.png"]
    assert listed_paths("a.png, a.png,  b.png, b.png") == ["a.png", "a.png", "b.png", " b.png"]


def test_links_to_folders_are_followed_once(tmp_path):
    for name in ("in/a.png", "real/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "in/linked").symlink_to(tmp_path / "real")
    (tmp_path / "in/up").symlink_to(tmp_path / "in")
    assert [file.name for file in find_images([tmp_path / "in"])] == ["a", "linked/b"]
    assert [file.name for file in find_images([tmp_path / "in"], tmp_path / "in/linked")] == ["a"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "in/closed").mkdir(parents=True)
    (tmp_path / "in/lost+found").mkdir()  # at the root of a disk; nobody may read it
    (tmp_path / "in/lost+found/b.png").write_bytes(b"")
    assert not [path for path in tree.walk(tmp_path / "in", lambda folder: False) if path.name == "b.png"]
    (tmp_path / "in/a.png").write_bytes(b"")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match="in/closed: the folder cannot be read: Permission denied"):
        find_images([tmp_path / "in"])


@pytest.mark.parametrize(
    "name", ["9.41.00\u202fAM", "a\u00a0b", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]
)
def test_names_with_blanks_of_their_own(tmp_path, name):
    Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.png")

    def nothing(images):
        return [{"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "classes": np.zeros(0, int)}]

    ((file, _, found),) = predict_files(nothing, find_images([tmp_path]))
    assert file.name == name
    table = Boxes.of_detections({name: {"boxes": [[1, 2, 3, 4]], "classes": [0], "scores": [0.5]}}, ["Car"])
    (text,) = results.write_comp4(table).values()
    for written, read in ((text, text.rsplit(maxsplit=5)[0]), (name, name.splitlines()[0])):
        assert written.startswith(name) and read == name


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\x7fb", "a\u2028b", "a\u2029b", "a\x85b", "a\udcdfb"])
def test_names_that_no_line_holds(name):
    assert not fits_a_line(name)


def test_large_pictures_do_not_wait_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr("fgfi_tf.prediction._MEGAPIXELS_AT_ONCE", 100e-6)  # of 48 pixels each: 3
    for number in range(7):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{number}.png")
    counts = []

    def seen(images):
        counts.append(images.shape[0])
        nothing = [{"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "classes": np.zeros(0, int)}]
        return nothing * len(images)

    found = list(predict_files(seen, find_images([tmp_path]), batch_size=8))
    assert counts == [3, 3, 1] and [file.name for file, *_ in found] == list("0123456")


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_detections_in_batches_are_those_of_single_pictures(tmp_path, resize):
    detector = models.build("shuffledet_0.25x", input_size=(64, 64), class_names=KITTI_CLASSES)
    detector.resize = resize
    rng = np.random.default_rng(1)
    for number, (height, width) in enumerate([(50, 70), (70, 50), (50, 70), (64, 64), (50, 70)]):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    predictor, files = Predictor.of_detector(detector), find_images([tmp_path])
    alone = {file.name: found for file, _, found in predict_files(predictor, files)}
    together = list(predict_files(predictor, files, batch_size=4))
    assert [file.name for file, *_ in together] == list("01234")
    for file, _, found in together:
        assert len(found["scores"]) == len(alone[file.name]["scores"]) > 0
        np.testing.assert_array_equal(found["classes"], alone[file.name]["classes"])
        np.testing.assert_allclose(found["boxes"], alone[file.name]["boxes"], atol=1e-3)
        np.testing.assert_allclose(found["scores"], alone[file.name]["scores"], atol=1e-6)
